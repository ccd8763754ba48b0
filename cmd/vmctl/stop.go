package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newStop() *cobra.Command {
	var force bool
	timeout := 90 * time.Second
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "Switch a test machine off",
		Long: `Press the power button of a test machine, and end it where it does not switch itself
off in time. Its disk stays: 'vmctl start' goes on with it.`,
		Example: `  vmctl stop debian
  vmctl stop debian --timeout 20s
  vmctl stop debian --force`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if force {
				timeout = 0
			}
			return runStop(cmd, args[0], timeout)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "end it at once, as a power failure would")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long it may take to switch itself off")
	return cmd
}

func runStop(cmd *cobra.Command, name string, timeout time.Duration) error {
	m, err := openMachine(name)
	if err != nil {
		return err
	}
	itself := false
	if timeout == 0 {
		err = m.Kill()
	} else {
		itself, err = m.Stop(cmd.Context(), timeout)
	}
	if err != nil {
		return err
	}
	if !itself && timeout > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s did not switch itself off within %s and was ended\n", name, timeout)
	}
	return showMachine(cmd, m)
}
