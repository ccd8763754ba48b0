package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func newLock(defs *definitions) *cobra.Command {
	folder := defaultFolder
	cmd := &cobra.Command{
		Use:   "lock NAME",
		Short: "Have later builds install the packages of the last one",
		Long: `Write locks/NAME.json beside install.d, from the record of the last build: which packages
archives gave it, by their SHA-256, and in which state the archives were. From then on
'vmctl build NAME' installs exactly those, of the store, of the archives, or of a
snapshot (--snapshot), or says which are gone. 'vmctl build NAME --no-lock' and another
'vmctl lock NAME' renew it.`,
		Example: `  vmctl lock debian
  vmctl lock debian -o images --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return runLock(cmd, *defs, folder, args[0]) },
	}
	cmd.Flags().StringVarP(&folder, "output", "o", defaultFolder, "folder with the builds")
	return cmd
}

// locked is what --json prints.
type locked struct {
	Path string `json:"path"`
	*orchestrator.Lock
}

func runLock(cmd *cobra.Command, defs definitions, folder, name string) error {
	if _, err := defs.library(); err != nil {
		return err
	}
	_, build, err := findImage(name, folder)
	if err != nil {
		return err
	}
	lock, err := orchestrator.NewLock(build.Manifest)
	if err != nil {
		return err
	}
	path, err := lock.Write(defs.dir)
	if err != nil {
		return err
	}
	if !asJSON(cmd, locked{path, lock}) {
		fmt.Fprintln(cmd.OutOrStdout(), path)
	}
	return nil
}

// archiveAddress checks the value of --snapshot.
func archiveAddress(value string) error {
	address, err := url.Parse(value)
	if err != nil || address.Scheme != "http" && address.Scheme != "https" || address.Host == "" {
		return fail.New(fail.Usage, "", "write https://HOST/… of the folder that holds dists and pool", "%q is no address of an archive", value)
	}
	return nil
}
