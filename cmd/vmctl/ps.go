package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/text"
)

func newPs() *cobra.Command {
	return &cobra.Command{
		Use:   "ps",
		Short: "List the test machines",
		Example: `  vmctl ps
  vmctl ps --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPs(cmd) },
	}
}

func runPs(cmd *cobra.Command) error {
	folder, err := machine.UsersFolder()
	if err != nil {
		return err
	}
	all, err := folder.List()
	if asJSON(cmd, all) {
		return err
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }() // what cannot be written shows at the end
	fmt.Fprintln(table, "NAME\tSTATE\tFROM\tFIRMWARE\tUP\tSSH\tPORTS")
	for _, s := range all {
		up, ssh := "", ""
		if s.Run != nil {
			up, ssh = time.Since(s.Run.Started).Round(time.Second).String(), fmt.Sprint(s.Run.SSHPort())
		}
		var ports []string
		for _, f := range s.Ports {
			ports = append(ports, f.String())
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.State, text.Line(s.Source), s.Firmware, up, ssh, strings.Join(ports, " "))
	}
	return err
}
