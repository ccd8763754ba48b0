package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

type doctorOptions struct {
	install bool
	tests   bool
	bench   bool
	cache   cacheOptions
}

func newDoctor() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can and cannot do, and how to mend it",
		Example: `  vmctl doctor
  sudo vmctl doctor --install-missing
  vmctl doctor --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd, o) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.install, "install-missing", false, "install the Debian packages that are missing")
	flags.BoolVar(&o.tests, "tests", false, "also what the project's own tests need")
	flags.BoolVar(&o.bench, "bench", false, "also what the project's own benchmark needs")
	o.cache.folderFlag(cmd)
	return cmd
}

func runDoctor(cmd *cobra.Command, o doctorOptions) error {
	needs := orchestrator.EverythingNeeded()
	needs.Tests, needs.Bench = o.tests, o.bench
	checks := orchestrator.Preflight(needs)
	if o.install {
		if err := installMissing(cmd.Context(), cmd.ErrOrStderr(), checks); err != nil {
			return err
		}
		checks = orchestrator.Preflight(needs)
	}
	if !asJSON(cmd, checks) {
		printChecks(cmd, checks)
		if err := printTools(cmd, o.cache.folder); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(checks, func(c orchestrator.Check) bool { return !c.OK() }) {
		return fail.New(fail.Host, "", "follow the fixes above; 'vmctl doctor --install-missing' installs packages", "this host cannot do everything yet")
	}
	return nil
}

func printChecks(cmd *cobra.Command, checks []orchestrator.Check) {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, c := range checks {
		if c.OK() {
			fmt.Fprintf(table, "ok\t%s\t%s\n", c.What, c.Better)
			continue
		}
		fmt.Fprintf(table, "problem\t%s\t%s: %s\n", c.What, c.Problem, c.Fix)
	}
	_ = table.Flush()
	if host.Find(arch.Target.QEMU.Binary) == "" {
		return
	}
	if accel, err := vm.ChooseAccelerator(cmd.Context(), vm.AccelAuto); err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "boot tests run on %s: %s\n", accel, accel.Reason)
	}
}

// installMissing installs the packages of the checks that failed.
func installMissing(ctx context.Context, log io.Writer, checks []orchestrator.Check) error {
	var packages []string
	for _, c := range checks {
		if c.Package != "" && !slices.Contains(packages, c.Package) {
			packages = append(packages, c.Package)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return fail.New(fail.Host, "--install-missing", "use sudo, once", "only root can install packages; missing are %s", strings.Join(packages, " "))
	}
	if host.Find("apt-get") == "" {
		return fail.New(fail.Host, "--install-missing", "install them with this system's own package manager", "this is no Debian; missing are %v", packages)
	}
	h := &host.Local{Log: log}
	if err := h.Run(ctx, host.Cmd("apt-get", "--quiet", "update")); err != nil {
		return fail.Wrap(fail.Host, "install packages", err)
	}
	return fail.Wrap(fail.Host, "install packages", h.Run(ctx, host.Cmd("apt-get",
		append([]string{"--quiet", "--yes", "--no-install-recommends", "install"}, packages...)...)))
}
