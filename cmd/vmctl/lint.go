package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/seed"
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
			refused, err := refusedSettings(cmd.Context(), &host.Local{}, library, defs.dir, *d)
			if err != nil {
				return err
			}
			found = append(found, refused...)
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

// refusedSettings is what of the settings for cloud-init its own schema refuses, where it is
// installed here. A build asks the cloud-init of the image, also of what is rendered.
func refusedSettings(ctx context.Context, h host.Host, library *definition.Library, folder string, d definition.Definition) (refused definition.Problems, err error) {
	for _, part := range d.SeedParts() {
		content := []byte(part.File.Content)
		switch {
		case part.Rendered:
			continue
		case part.File.Source != "":
			path, err := library.AssetPath(folder, part.File.Source, func(string, []byte) (string, error) { return "", os.ErrNotExist })
			if errors.Is(err, os.ErrNotExist) { // it is shipped, and tested
				continue
			}
			if err == nil {
				content, err = os.ReadFile(path)
			}
			if err != nil {
				return nil, err
			}
		}
		_, err := checkSchema(ctx, h, seed.Seed{part.Name: content})
		if wrong, is := errors.AsType[*fail.Error](err); is && wrong.Kind == fail.Usage {
			refused = append(refused, definition.ProblemAt(part.Origin, wrong.Error(), wrong.Hint))
		} else if err != nil {
			return nil, err
		}
	}
	return refused, nil
}
