package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func newNew(defs *definitions) *cobra.Command {
	var extends string
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write the two files of a new build to start from",
		Example: `  vmctl new web
  vmctl new old-web --extends debian-12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runNew(cmd, *defs, args[0], extends)
		},
	}
	cmd.Flags().StringVar(&extends, "extends", "debian", "build whose layers come first")
	return cmd
}

func runNew(cmd *cobra.Command, defs definitions, name, extends string) error {
	library, err := defs.library()
	if err != nil {
		return err
	}
	if err := definition.CheckName(name); err != nil {
		return err
	}
	if _, err := library.Load(extends, nil); err != nil {
		return fail.Wrap(fail.Usage, "--extends", err)
	}
	var written []string
	for _, file := range []struct{ path, content string }{
		{filepath.Join(defs.dir, "install.d", name+".yml"), definition.InstallScaffold(name, extends)},
		{filepath.Join(defs.dir, "commands.d", name+".yml"), definition.CommandsScaffold()},
	} {
		if err := writeNew(file.path, file.content); err != nil {
			for _, path := range written {
				_ = os.Remove(path)
			}
			return err
		}
		written = append(written, file.path)
	}
	for _, path := range written {
		fmt.Fprintln(cmd.OutOrStdout(), path)
	}
	return nil
}

func writeNew(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fail.New(fail.Usage, "", "choose another name, or edit the file", "%s exists already", path)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
