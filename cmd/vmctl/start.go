package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

func newStart() *cobra.Command {
	var timeout time.Duration
	var noWait bool
	cmd := &cobra.Command{
		Use:   "start NAME",
		Short: "Switch a stopped test machine on again",
		Long: `Switch a stopped test machine on again and wait until it is up. Its disk is as it was
left; the port of this host that leads to its ssh is another one.

` + exitCodes,
		Example: `  vmctl start debian
  vmctl start debian --timeout 20m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openMachine(args[0])
			if err != nil {
				return err
			}
			on, err := machineHost(cmd.Context(), m)
			if err != nil {
				return err
			}
			run, err := m.Start(cmd.Context(), on)
			if err != nil {
				return err
			}
			if err := awaitMachine(cmd, m, run, timeout, noWait); err != nil {
				return &fail.Error{Kind: fail.Boot, Err: err, Hint: "it runs on: see 'vmctl console " + m.Name + "', and 'vmctl stop " + m.Name + "'"}
			}
			return showMachine(cmd, m)
		},
	}
	waitFlags(cmd, &timeout, &noWait)
	return cmd
}
