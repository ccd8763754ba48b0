package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/registry"
)

func newLogin() *cobra.Command {
	var flags registryFlags
	cmd := &cobra.Command{
		Use:   "login HOST",
		Short: "Check a credential with a registry and keep it, where docker login does",
		Long: `Check a user and password with a registry and keep them in Docker's configuration, or
in the credential helper that it names. Both are asked for at a terminal; scripts give
--username, and the password on standard input with --password-stdin.

` + exitCodes,
		Example: `  vmctl login registry.example --username alice
  vmctl login registry.example --username alice --password-stdin < password`,
		RunE: func(cmd *cobra.Command, args []string) error { return runLogin(cmd, flags, args[0]) },
	}
	flags.add(cmd)
	return cmd
}

func runLogin(cmd *cobra.Command, flags registryFlags, host string) error {
	access, err := loginAccess(cmd, flags, host)
	if err != nil {
		return err
	}
	kept, err := access.Login(cmd.Context(), host)
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	fmt.Fprintf(stderr, "logged in to %s; the credential is kept as %s says\n", host, kept.Config)
	if kept.PlainText {
		fmt.Fprintf(stderr, "warning: the password lies in %s in plain text; to have it elsewhere, name a credential helper there (credsStore) and log in again\n", kept.Config)
	}
	return nil
}

// loginAccess is access with the credential that is given or asked for.
func loginAccess(cmd *cobra.Command, flags registryFlags, host string) (registry.Access, error) {
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	switch {
	case flags.username == "" && (flags.passwordStdin || !terminal):
		return registry.Access{}, fail.New(fail.Usage, "", "give --username, and the password on standard input with --password-stdin", "no user is given, and there is no terminal to ask for one")
	case flags.passwordStdin:
		return flags.access(cmd.InOrStdin())
	case !terminal:
		return registry.Access{}, fail.New(fail.Usage, "", "give --password-stdin and the password on standard input", "there is no terminal to ask for a password")
	}
	user, password, err := askCredential(cmd.Context(), cmd.ErrOrStderr(), host, flags.username)
	if err != nil {
		return registry.Access{}, err
	}
	if user == "" || password == "" {
		return registry.Access{}, fail.New(fail.Usage, "", "type both", "no user or no password is given")
	}
	return flags.accessAs(user, password)
}

func newLogout() *cobra.Command {
	return &cobra.Command{
		Use:     "logout HOST",
		Short:   "Forget the credential of a registry",
		Example: "  vmctl logout registry.example",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := registry.Logout(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "logged out of %s\n", args[0])
			return nil
		},
	}
}
