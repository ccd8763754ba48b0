package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func newLint(defs *definitions) *cobra.Command {
	return &cobra.Command{
		Use:   "lint [NAME…]",
		Short: "Report every mistake of the definitions with file and line",
		Long: `Report every mistake of the definitions with file and line, and what is none but may not be
meant. Warnings leave the exit code 0.
`,
		Example: `  vmctl lint
  vmctl lint webserver --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return runLint(cmd, *defs, args) },
	}
}

func runLint(cmd *cobra.Command, defs definitions, names []string) error {
	library, err := defs.library()
	if err != nil {
		return err
	}
	problems := definition.Problems{}
	all := len(names) == 0
	if all {
		names = library.Names()
		problems = append(problems, library.Strays()...)
	}
	for _, name := range names {
		d, err := library.Load(name, nil)
		found, isProblems := errors.AsType[definition.Problems](err)
		if err != nil && !isProblems {
			return err
		}
		if err == nil {
			found = d.Warnings()
		}
		for _, problem := range found {
			shipped := all && problem.Warning && problem.Embedded() // which nobody has asked about
			if !shipped && !slices.Contains(problems, problem) {    // a parent's mistake shows once
				problems = append(problems, problem)
			}
		}
	}
	asJSON(cmd, problems)
	mistakes := slices.DeleteFunc(slices.Clone(problems), func(p definition.Problem) bool { return p.Warning })
	if len(mistakes) > 0 {
		return &fail.Error{Kind: fail.Usage, Err: mistakes}
	}
	for _, warning := range problems {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d builds, no mistakes\n", len(names))
	return nil
}
