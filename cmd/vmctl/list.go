package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newList(defs *definitions) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the builds",
		Example: "  vmctl list\n  vmctl list --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runList(cmd, *defs) },
	}
}

type listed struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Broken      bool   `json:"broken,omitempty"`
}

func runList(cmd *cobra.Command, defs definitions) error {
	library, err := defs.library()
	if err != nil {
		return err
	}
	rows := []listed{}
	for _, name := range library.Names() {
		row := listed{Name: name}
		if definition, err := library.Load(name, nil); err == nil {
			row.Description = definition.Description
		} else {
			row.Description, row.Broken = "broken: see 'vmctl lint "+name+"'", true
		}
		rows = append(rows, row)
	}
	if asJSON(cmd, rows) {
		return nil
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\n", row.Name, row.Description)
	}
	return table.Flush()
}
