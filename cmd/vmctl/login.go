package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish"
)

func newLogin() *cobra.Command {
	var registry registryFlags
	cmd := &cobra.Command{
		Use:   "login HOST",
		Short: "Check a credential with a registry and keep it, where docker login does",
		Long: `Check a user and password with a registry and keep them in Docker's configuration, or
in the credential helper that it names. The password is asked for, or read from
standard input with --password-stdin.

` + exitCodes,
		Example: `  vmctl login registry.example --username alice
  vmctl login registry.example --username alice --password-stdin < password`,
		RunE: func(cmd *cobra.Command, args []string) error { return runLogin(cmd, registry, args[0]) },
	}
	registry.add(cmd)
	return cmd
}

func runLogin(cmd *cobra.Command, registry registryFlags, host string) error {
	if registry.username == "" {
		return fail.New(fail.Usage, "", "give --username", "no user is given")
	}
	var access publish.Access
	var err error
	if registry.passwordStdin {
		access, err = registry.access(cmd.InOrStdin())
	} else {
		var password string
		if password, err = askPassword(cmd.ErrOrStderr(), host); err == nil {
			access = publish.Access{PlainHTTP: registry.plainHTTP, CAFile: registry.caFile, Username: registry.username, Password: password}
		}
	}
	if err != nil {
		return err
	}
	path, err := access.Login(cmd.Context(), host)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "logged in to %s; the credential is kept as %s says\n", host, path)
	return nil
}

func newLogout() *cobra.Command {
	return &cobra.Command{
		Use:     "logout HOST",
		Short:   "Forget the credential of a registry",
		Example: "  vmctl logout registry.example",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := publish.Logout(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "logged out of %s\n", args[0])
			return nil
		},
	}
}
