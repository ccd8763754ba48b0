package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish"
)

type pullOptions struct {
	registry  registryFlags
	selection publish.Selection
	folder    string
	overwrite bool
	key       string
}

func newPull() *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Fetch a disk image from a registry",
		Long: `Fetch a disk image that 'vmctl push' published. The file appears under its name once
it is whole and has the digest that the registry promised; an interrupted pull goes
on where it stopped. Without a tag, latest is meant.
` + registryHelp + exitCodes,
		Example: `  vmctl pull oci:images/oci/debian:13 -o pulled
  vmctl pull registry.example/lab/debian --format raw --key cosign.pub`,
		RunE: func(cmd *cobra.Command, args []string) error { return runPull(cmd, o, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", ".", "folder that gets the file")
	flags.BoolVar(&o.overwrite, "overwrite", false, "replace a file of the same name that holds something else")
	flags.StringVar(&o.key, "key", "", "public key (PEM): refuse an image that its owner did not sign")
	selectionFlags(cmd, &o.selection)
	o.registry.add(cmd)
	return cmd
}

func runPull(cmd *cobra.Command, o pullOptions, arg string) error {
	key, err := verifierFlag(o.key)
	if err != nil {
		return err
	}
	ref, src, err := o.registry.place(cmd, arg)
	if err != nil {
		return err
	}
	show := newProgress(cmd.ErrOrStderr(), false)
	defer show.close()
	pulled, err := publish.Pull(cmd.Context(), src, ref, publish.PullOptions{
		ReadOptions: publish.ReadOptions{Selection: o.selection, Tell: show.transfer},
		Folder:      o.folder, Owner: files.Caller(), Overwrite: o.overwrite, Key: key,
	})
	if err != nil {
		return err
	}
	if asJSON(cmd, pulled) {
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout(), pulled.Path)
	return nil
}
