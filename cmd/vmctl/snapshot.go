package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

func newSnapshot() *cobra.Command {
	var restore, remove bool
	cmd := &cobra.Command{
		Use:   "snapshot NAME [SNAPSHOT]",
		Short: "Save and restore the state of a test machine that runs",
		Long: `Save the state of a test machine that runs, its disk and its memory, under a name;
restore it, or delete it. Without a name, the snapshots are listed. They go when the
machine is removed. One with a shared folder has none.`,
		Example: `  vmctl snapshot debian before
  vmctl snapshot debian before --restore
  vmctl snapshot debian`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openMachine(args[0])
			if err != nil {
				return err
			}
			switch {
			case restore && remove:
				return misused(cmd, "", "--restore and --delete exclude each other")
			case len(args) < 2 && (restore || remove):
				return misused(cmd, "", "SNAPSHOT is missing")
			case len(args) < 2:
				return listSnapshots(cmd, m)
			}
			job := vm.SaveSnapshot
			if restore {
				job = vm.RestoreSnapshot
			}
			if remove {
				job = vm.DeleteSnapshot
			}
			if err := m.Snapshot(cmd.Context(), job, args[1]); err != nil {
				return err
			}
			asJSON(cmd, []string{args[1]})
			return nil
		},
	}
	cmd.Flags().BoolVar(&restore, "restore", false, "make the machine what it was")
	cmd.Flags().BoolVar(&remove, "delete", false, "delete the snapshot")
	return cmd
}

func listSnapshots(cmd *cobra.Command, m machine.Machine) error {
	all, err := m.Snapshots(cmd.Context())
	if err != nil || asJSON(cmd, all) {
		return err
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }() // what cannot be written shows at the end
	fmt.Fprintln(table, "SNAPSHOT\tMEMORY\tMADE")
	for _, s := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\n", text.Line(s.Name), megabytes(s.Bytes), time.Unix(s.Seconds, 0).Format("2006-01-02 15:04"))
	}
	return nil
}
