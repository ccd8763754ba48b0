package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/text"
)

func newShell(defs *definitions) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "shell NAME [-- CMD…]",
		Short: "Open a shell in the tree of a build",
		Long: `Open a shell, or run a command, in the tree of a build, finished or failed: with all
layers of it that are stored, so of a failed build in the tree before the stage that
failed ('vmctl build --on-error=shell' opens one in the tree as the failure left it).
It is the same jail as that of the build. Nothing that is done in it lasts: what the
shell changes, and what it leaves running, is gone when it ends.

vmctl ends with the exit code of the shell or command, and with 128 and the number of
the signal that ended it.

` + exitCodes,
		Example: `  vmctl shell debian
  vmctl shell debian -- cat /etc/os-release`,
		Args: checkShellArguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.defs, o.names, o.noTest = *defs, args[:1], true
			return runShell(cmd, o, args[1:])
		},
	}
	setFlag(cmd, &o.settings)
	o.cache.folderFlag(cmd)
	toolsFlag(cmd, &o.toolsName)
	return cmd
}

// checkShellArguments wants a name, and the command behind "--".
func checkShellArguments(cmd *cobra.Command, args []string) error {
	before := cmd.ArgsLenAtDash()
	switch {
	case len(args) == 0, before == 0:
		return misused(cmd, "", "NAME is missing")
	case before == len(args):
		return misused(cmd, "leave -- out for a shell", "CMD is missing")
	case before > 1:
		return misused(cmd, "", "%q is too many: use 'vmctl %s'", args[1], cmd.Use)
	case before < 0 && len(args) > 1:
		return misused(cmd, "put -- before the command", "%q is too many: use 'vmctl %s'", args[1], cmd.Use)
	}
	return nil
}

func runShell(cmd *cobra.Command, o buildOptions, command []string) error {
	plans, err := planBuilds(&o)
	defer o.cleanup()
	if err != nil {
		return err
	}
	if err := o.chooseTools(cmd, plans); err != nil {
		return err
	}
	shell := orchestrator.Shell{
		Store: o.cache.folder, JailVerb: jailVerb, Maker: btwimg.Maker(), Command: command, Tools: o.tools,
		Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
		Tell: func(e orchestrator.Event) {
			if e.Kind == orchestrator.ShellOpened {
				fmt.Fprintf(cmd.ErrOrStderr(), "tree of %s after %s; nothing that is done in it lasts\n", o.names[0], text.Line(e.Stage))
			}
		},
	}
	if isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		shell.Terminal = lentTerminal{os.Stdin, os.Stdout}
		for i, file := range shell.Files {
			if isTerminal(file) {
				shell.Files[i] = nil
			}
		}
	}
	code, err := shell.Open(cmd.Context(), plans[0])
	if err == nil && code != 0 {
		return commandEnded(code)
	}
	return err
}

// commandEnded is the exit code of a command that vmctl ran for somebody, where it is not
// 0. It becomes vmctl's own; who ran it knows what it means.
type commandEnded int

func (c commandEnded) Error() string {
	return fmt.Sprintf("the command ended with exit code %d", int(c))
}

func isTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }
