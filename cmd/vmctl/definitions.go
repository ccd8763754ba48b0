package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// definitions is where the user's definitions are.
type definitions struct{ dir string }

// checkPlace refuses install.d and commands.d themselves, in which no
// definition would be found.
func (d definitions) checkPlace() error {
	absolute, err := filepath.Abs(d.dir)
	if err != nil {
		return fail.New(fail.Usage, "--definitions", "go to a folder that is there", "where %s is cannot be told: %w", d.dir, err)
	}
	name := filepath.Base(absolute)
	if name != "install.d" && name != "commands.d" {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(d.dir, "install.d")); err == nil {
		return nil
	}
	return fail.New(fail.Usage, "--definitions", "name the folder that holds it: --definitions "+filepath.Join(d.dir, ".."),
		"%s is the folder %s itself", d.dir, name)
}

// library opens the definitions: those of the folder, then the embedded ones.
func (d definitions) library() (*definition.Library, error) {
	info, err := os.Stat(d.dir)
	if err != nil || !info.IsDir() {
		return nil, fail.New(fail.Usage, "--definitions", "name a folder that holds install.d", "%s is no folder", d.dir)
	}
	if err := d.checkPlace(); err != nil {
		return nil, err
	}
	prefix := ""
	if clean := filepath.Clean(d.dir); clean != "." {
		prefix = clean + "/"
	}
	return definition.NewLibrary(definition.Folder(d.dir), prefix, btwimg.Files)
}

func setFlag(cmd *cobra.Command, settings *[]string) {
	cmd.Flags().StringArrayVar(settings, "set", nil, "set a key of the definition, as in --set disk.size=4G or --set vars.timezone=Europe/Berlin; may be repeated")
}
