// Command vmctl builds Debian machine images and proves that they boot.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == jailVerb {
		os.Exit(runJail())
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is vmctl without the process around it: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := interruptible(stderr)
	defer stop()
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && err != nil {
		err = &fail.Error{Kind: fail.Interrupted, Err: errors.New("interrupted")}
	}
	report(stderr, err)
	return fail.ExitCode(err)
}

// interruptible is a context that the first SIGINT, SIGTERM or SIGHUP ends. A
// second one ends the process at once; the kernel then kills the jail and all
// that runs for it.
func interruptible(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		fmt.Fprintln(stderr, "vmctl: stopping; interrupt again to stop at once")
		cancel()
		if _, ok := <-signals; ok {
			os.Exit(fail.Interrupted.ExitCode())
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}

// report prints what failed, the last lines of the tool, and what to do.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	text := err.Error()
	if strings.Contains(text, "\n") {
		fmt.Fprintln(w, text)
	} else {
		fmt.Fprintln(w, "vmctl:", text)
	}
	if tail := fail.Tail(err); tail != "" {
		fmt.Fprintln(w, "  | "+strings.ReplaceAll(tail, "\n", "\n  | "))
	}
	if hint := fail.Hint(err); hint != "" {
		fmt.Fprintln(w, "hint:", hint)
	}
}

// joined is all failures as one error; a single one stays as it is.
func joined(failures []error) error {
	var all *multierror.Error
	for _, err := range failures {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	if all != nil && len(all.Errors) == 1 {
		return all.Errors[0]
	}
	return all.ErrorOrNil()
}

const exitCodes = `Exit codes:
  0    done
  1    anything that is not listed here
  2    wrong usage or definition
  3    this host cannot do it: see 'vmctl doctor'
  4    the build failed
  5    the boot test failed
  6    a registry failed
  130  interrupted`

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "vmctl",
		Short: "Build Debian machine images that are proved to boot",
		Long: `vmctl builds Debian machine images from two small YAML files, install.d/NAME.yml
and commands.d/NAME.yml, customises them with Ansible, and boots them on BIOS,
UEFI and Secure Boot before it calls them good.

` + exitCodes,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Version:           version(),
		Args:              unknownVerb,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "see '" + cmd.CommandPath() + " --help'"}
	})
	var defs definitions
	root.PersistentFlags().StringVar(&defs.dir, "definitions", ".", "folder that holds install.d and commands.d")
	root.AddCommand(
		newBuild(&defs), newTest(&defs),
		newList(&defs), newShow(&defs), newLint(&defs), newSchema(), newNew(&defs),
		newPush(&defs), newPull(), newInspect(), newVerify(), newServe(), newLogin(), newLogout(),
		newDoctor(),
	)
	return root
}

func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see 'vmctl --help'"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return fail.New(fail.Usage, "", hint, "unknown command %q", args[0])
}

// usage makes cobra's complaints about arguments end with exit code 2.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &fail.Error{Kind: fail.Usage, Err: err, Hint: "see '" + cmd.CommandPath() + " --help'"}
		}
		return nil
	}
}
