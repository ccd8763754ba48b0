// Command vmctl builds Debian machine images and proves that they boot.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

func main() {
	host.StandIn()
	if len(os.Args) == 2 && os.Args[1] == jailVerb {
		os.Exit(runJail())
	}
	if len(os.Args) == 4 && os.Args[1] == aptmethod.Verb {
		os.Exit(runMethod(os.Args[2], os.Args[3]))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is vmctl without the process around it: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	if err := host.KeepDescriptors(); err != nil {
		report(stderr, err)
		return fail.ExitCode(err)
	}
	ctx, stop := interruptible(stderr)
	defer stop()
	return runVerb(ctx, args, stdout, stderr)
}

// runVerb runs a verb until the context ends, and returns the exit code.
func runVerb(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &output{w: stdout}
	root := newRoot(out, stderr)
	root.SetArgs(args)
	verb, err := root.ExecuteContextC(ctx)
	if ctx.Err() != nil && err != nil {
		err = &fail.Error{Kind: fail.Interrupted, Err: errors.New("interrupted")}
	}
	out.json = out.json || err != nil && wantsJSON(args)
	err = out.finish(verb.Name(), err)
	if code, ok := errors.AsType[commandEnded](err); ok {
		return int(code)
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
			terminalChanged.Lock() // the end of the context has it set back
			os.Exit(fail.Interrupted.ExitCode())
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}

// joined is all failures as one error; a single one stays as it is.
func joined(failures []error) error { return scope.Join(failures...) }

// each is the failures that were joined to err; for any other it is err alone.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if several, ok := err.(*multierror.Error); ok { //nolint:errorlint // one further down is a part of one failure
		return several.Errors
	}
	return []error{err}
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

func newRoot(stdout *output, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "vmctl",
		Short: "Build Debian machine images that are proved to boot",
		Long: `vmctl builds Debian machine images from two small YAML files, install.d/NAME.yml
and commands.d/NAME.yml, customises them with Ansible, and boots them on BIOS,
UEFI and Secure Boot before it calls them good.

` + jsonHelp + `

` + exitCodes,
		Example: `  vmctl build debian
  vmctl new web --extends debian
  vmctl lint`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Version:           version(),
		Args:              unknownVerb,
		PersistentPreRunE: checkFlags,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(wrongFlag)
	var defs definitions
	root.PersistentFlags().StringVar(&defs.dir, "definitions", ".", "folder that holds install.d and commands.d")
	help := newHelp()
	root.SetHelpCommand(help)
	root.AddCommand(
		help,
		newBuild(&defs), newTest(), newShell(&defs),
		newList(&defs), newShow(&defs), newLint(&defs), newSchema(), newNew(&defs),
		newConvert(), newProvision(&defs), newExport(&defs), newSeed(), newWrite(), newDiff(), newPush(), newPull(), newInspect(), newVerify(), newServe(), newLogin(), newLogout(),
		newLaunch(&defs), newPs(), newSSH(), newCp(), newConsole(), newStop(), newStart(), newLogs(), newScreenshot(), newSnapshot(), newClean(&defs),
		newLock(&defs), newRebuild(&defs), newCache(), newDoctor(), newCompletion(), newMan(),
	)
	for _, verb := range root.Commands() {
		if verb.Args == nil {
			verb.Args = arguments
		}
		if _, ok := resultVerbs[verb.Name()]; ok {
			verb.Flags().BoolVar(&stdout.json, "json", false, "print the result as JSON: see 'vmctl --help'")
		}
	}
	addCompletions(root, &defs)
	root.SetGlobalNormalizationFunc(alias)
	return root
}

func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]",
		Short:   "Tell about a verb",
		Example: "  vmctl help build",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			verb, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if err := unknownVerb(cmd.Root(), rest); err != nil {
				return err
			}
			verb.InitDefaultHelpFlag()
			return verb.Help()
		},
	}
}
