package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish"
)

type verifyOptions struct {
	registry  registryFlags
	selection publish.Selection
	key       string
}

func newVerify() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify REF",
		Short: "Check that a published image is what its evidence speaks of",
		Long: `Read a published image and all that is attached to it, and check that they belong
together: digests, the boot report, the build record, the checksums, the list of
packages, and with --key the signature over all of them.
` + registryHelp + exitCodes,
		Example: `  vmctl verify oci:images/oci/debian:13
  vmctl verify registry.example/lab/debian --key cosign.pub`,
		RunE: func(cmd *cobra.Command, args []string) error { return runVerify(cmd, o, args[0]) },
	}
	cmd.Flags().StringVar(&o.key, "key", "", "public key (PEM) that must have signed the image")
	selectionFlags(cmd, &o.selection)
	o.registry.add(cmd)
	return cmd
}

func runVerify(cmd *cobra.Command, o verifyOptions, arg string) error {
	key, err := verifierFlag(o.key)
	if err != nil {
		return err
	}
	ref, src, err := o.registry.place(cmd, arg)
	if err != nil {
		return err
	}
	show := newProgress(cmd.ErrOrStderr(), false)
	checks, err := publish.Verify(cmd.Context(), src, ref, publish.VerifyOptions{
		ReadOptions: publish.ReadOptions{Selection: o.selection, Tell: show.transfer}, Key: key,
	})
	show.close()
	if asJSON(cmd, checks) {
		return err
	}
	for _, c := range checks {
		switch {
		case c.Problem != "":
			fmt.Fprintf(cmd.OutOrStdout(), "problem  %s: %s\n", text.Line(c.What), text.Line(c.Problem))
		case c.Skipped != "":
			fmt.Fprintf(cmd.OutOrStdout(), "skipped  %s: %s\n", text.Line(c.What), c.Skipped)
		default:
			fmt.Fprintf(cmd.OutOrStdout(), "ok       %s\n", text.Line(c.What))
		}
	}
	return err
}
