package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/files"
)

func newScreenshot() *cobra.Command {
	return &cobra.Command{
		Use:   "screenshot NAME [FILE]",
		Short: "Write what the screen of a test machine shows to a PNG file",
		Example: `  vmctl screenshot debian
  vmctl screenshot debian login.png`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file := ""
			if len(args) > 1 {
				file = args[1]
			}
			return runScreenshot(cmd, args[0], file)
		},
	}
}

// screenshotFile is the result of 'vmctl screenshot'.
type screenshotFile struct {
	Path string `json:"path"`
}

func runScreenshot(cmd *cobra.Command, name, path string) (err error) {
	m, err := openMachine(name)
	if err != nil {
		return err
	}
	path = cmp.Or(path, name+".png")
	folder := filepath.Dir(path)
	if err := files.Trusted(folder); err != nil {
		return err
	}
	file, err := os.CreateTemp(folder, ".part-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	err = m.Screenshot(cmd.Context(), file)
	if err == nil {
		err = errors.Join(file.Chmod(0o644), files.Caller().GiveOpen(file))
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	if !asJSON(cmd, screenshotFile{path}) {
		fmt.Fprintln(cmd.OutOrStdout(), path)
	}
	return nil
}
