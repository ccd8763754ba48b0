package main

import (
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

func newShow(defs *definitions) *cobra.Command {
	var asJSON bool
	var settings []string
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Print a build's effective definition, after extends, drop-ins and defaults",
		Args:  usage(cobra.ExactArgs(1)), ValidArgsFunction: defs.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShow(cmd, *defs, args[0], settings, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	setFlag(cmd, &settings)
	return cmd
}

func runShow(cmd *cobra.Command, defs definitions, name string, settings []string, asJSON bool) error {
	library, err := defs.library()
	if err != nil {
		return err
	}
	definition, err := library.Load(name, settings)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), definition)
	}
	out, err := yaml.Dump(definition)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(out)
	return err
}
