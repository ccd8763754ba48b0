package main

import (
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

func newShow(defs *definitions) *cobra.Command {
	var settings []string
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Print a build's effective definition, after extends, drop-ins and defaults",
		Long: `Print a build's effective definition, after extends, drop-ins and defaults. Every
value is shown as it was written, secrets too; build.json leaves those out.`,
		Example: `  vmctl show debian
  vmctl show webserver --json --set disk.size=4G`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShow(cmd, *defs, args[0], settings)
		},
	}
	setFlag(cmd, &settings)
	return cmd
}

func runShow(cmd *cobra.Command, defs definitions, name string, settings []string) error {
	library, err := defs.library()
	if err != nil {
		return err
	}
	definition, err := library.Load(name, settings)
	if err != nil {
		return err
	}
	if asJSON(cmd, definition) {
		return nil
	}
	out, err := yaml.Dump(definition)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(out)
	return err
}
