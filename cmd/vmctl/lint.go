package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/spec"
)

func newLint(defs *definitions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lint [NAME…]",
		Short: "Report every mistake of the definitions with file and line",
		Args:  cobra.ArbitraryArgs, ValidArgsFunction: defs.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLint(cmd, *defs, args, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the mistakes as JSON on standard output")
	return cmd
}

func runLint(cmd *cobra.Command, defs definitions, names []string, asJSON bool) error {
	library, err := defs.library()
	if err != nil {
		return err
	}
	problems := spec.Problems{}
	if len(names) == 0 {
		names = library.Names()
		problems = library.Strays()
	}
	for _, name := range names {
		_, err := library.Load(name, nil)
		found, isProblems := errors.AsType[spec.Problems](err)
		if err != nil && !isProblems {
			return err
		}
		for _, problem := range found {
			if !slices.Contains(problems, problem) { // a parent's mistake shows once
				problems = append(problems, problem)
			}
		}
	}
	if asJSON {
		if err := printJSON(cmd.OutOrStdout(), problems); err != nil {
			return err
		}
	}
	if len(problems) > 0 {
		if asJSON {
			return fail.New(fail.Usage, "lint", "", "%d mistakes", len(problems))
		}
		return &fail.Error{Kind: fail.Usage, Err: problems}
	}
	if !asJSON {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d builds, no mistakes\n", len(names))
	}
	return nil
}
