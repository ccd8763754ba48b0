package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/spec"
)

// definitions is where the user's definitions are.
type definitions struct{ dir string }

// library opens the definitions: those of the folder, then the embedded ones.
func (d definitions) library() (*spec.Library, error) {
	info, err := os.Stat(d.dir)
	if err != nil || !info.IsDir() {
		return nil, fail.New(fail.Usage, "--definitions", "name a folder that holds install.d", "%s is no folder", d.dir)
	}
	prefix := ""
	if clean := filepath.Clean(d.dir); clean != "." {
		prefix = clean + "/"
	}
	return spec.NewLibrary(os.DirFS(d.dir), prefix, btwimg.Files), nil
}

func setFlag(cmd *cobra.Command, settings *[]string) {
	cmd.Flags().StringArrayVar(settings, "set", nil, "set a key of the definition, as in --set disk.size=4G or --set vars.timezone=Europe/Berlin; may be repeated")
}
