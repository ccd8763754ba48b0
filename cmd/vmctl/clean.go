package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// purge is the word behind a name that has 'vmctl clean' remove more than the machine.
const purge = "purge"

type cleanOptions struct {
	defs   *definitions
	folder string
	cache  cacheOptions
	all    bool
}

func newClean(defs *definitions) *cobra.Command {
	o := cleanOptions{defs: defs}
	cmd := &cobra.Command{
		Use:   "clean NAME [purge]",
		Short: "Stop and remove a test machine, and with purge what its build has left",
		Long: `Stop and remove a test machine, with all that it has written. With purge, what the
build of that name has left goes too: its images, its layers in the store with those
that stand on them, and conf.d/NAME.conf. Definitions stay.`,
		Example: `  vmctl clean debian
  vmctl clean --all
  vmctl clean debian purge`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.all && len(args) > 0:
				return misused(cmd, "give a name or --all", "--all and a name exclude each other")
			case o.all:
				return nil
			case len(args) == 2 && args[1] != purge:
				return misused(cmd, didYouMean(args[1], "", []string{purge}), "%q is too many: use 'vmctl %s'", args[1], cmd.Use)
			}
			return arguments(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			removed, err := o.run(args)
			if asJSON(cmd, removed) {
				return err
			}
			for _, what := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", what)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.all, "all", false, "all test machines")
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder with the builds, for purge")
	o.cache.folderFlag(cmd)
	return cmd
}

// run removes, and says what it has removed, also where it then fails.
func (o cleanOptions) run(args []string) (removed []string, err error) {
	folder, err := machine.UsersFolder()
	if err != nil {
		return nil, err
	}
	names := args[:min(len(args), 1)]
	if o.all {
		if names, err = folder.Names(); err != nil {
			return nil, err
		}
	}
	purging := len(args) > 1
	if purging {
		if err := o.refuseForeign(args[0]); err != nil {
			return nil, err
		}
	}
	var failures []error
	for _, name := range names {
		m, err := folder.Open(name)
		switch {
		case err != nil && purging && !m.Exists():
			continue
		case err == nil && purging && m.Build != name && m.Source != name:
			return removed, fail.New(fail.Usage, "", "'vmctl clean "+name+"' removes the machine alone; for the build, name that", "%s is a machine that was launched from %s", name, m.Source)
		case err == nil || m.Exists():
			err = m.Remove() // also one whose record is damaged
		}
		if err == nil {
			removed = append(removed, "machine "+name)
		}
		failures = append(failures, err)
	}
	if purging && joined(failures) == nil {
		more, err := o.purge(args[0])
		return append(removed, more...), err
	}
	return removed, joined(failures)
}

// refuseForeign refuses to purge what no build has made.
func (o cleanOptions) refuseForeign(name string) error {
	final, err := orchestrator.ResultsFolder(o.folder, name)
	if err != nil {
		return err
	}
	const hint = "name the folder with the builds with -o; 'vmctl clean' without purge removes the machine alone"
	if err := orchestrator.RefuseForeign(final, hint); err != nil {
		return err
	}
	return orchestrator.RefuseForeign(final+definition.FailedSuffix, hint)
}

// purge removes what a build has left.
func (o cleanOptions) purge(name string) (removed []string, err error) {
	if err := definition.CheckName(name); err != nil {
		return nil, err
	}
	final, err := orchestrator.ResultsFolder(o.folder, name)
	if err != nil {
		return nil, err
	}
	layers, failure := o.purgeLayers(name)
	failures := []error{failure}
	if layers > 0 {
		removed = append(removed, fmt.Sprintf("%d layers of %s", layers, name))
	}
	for _, path := range []string{final, final + definition.FailedSuffix, machine.ConfPath(o.defs.dir, name)} {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := removeTrusted(path); err != nil {
			failures = append(failures, err)
			continue
		}
		removed = append(removed, path)
	}
	return removed, joined(failures)
}

// removeTrusted removes what lies in a folder that root may work in.
func removeTrusted(path string) error {
	if err := files.Trusted(filepath.Dir(path)); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// purgeLayers removes the layers that the build has added, with those that stand on them.
func (o cleanOptions) purgeLayers(name string) (int, error) {
	if _, err := os.Stat(o.cache.folder); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	layers, err := store.Open(o.cache.folder)
	if err != nil {
		return 0, err
	}
	infos, err := layers.List()
	if err != nil {
		return 0, err
	}
	var keys []store.Key
	for _, info := range infos {
		if info.About.Build == name {
			keys = append(keys, info.Key)
		}
	}
	if len(keys) == 0 {
		return 0, nil
	}
	return len(keys), layers.Remove(keys...)
}
