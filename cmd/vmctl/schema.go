package main

import (
	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema install|commands",
		Short: "Print the JSON schema of a definition file, for editors",
		Long: `Print the JSON schema of install.d/NAME.yml or commands.d/NAME.yml. An editor
with the YAML language server uses it when the file starts with

  # yaml-language-server: $schema=PATH`,
		Example: `  vmctl schema install > install.schema.json
  vmctl schema commands`,
		ValidArgs: []string{"install", "commands"},
		RunE: func(cmd *cobra.Command, args []string) error {
			schema := definition.InstallSchema
			if args[0] == "commands" {
				schema = definition.CommandsSchema
			}
			out, err := schema()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
}
