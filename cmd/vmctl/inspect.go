package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

type inspectOptions struct {
	registry  registryFlags
	selection publish.Selection
	file      string
}

func newInspect() *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect REF",
		Short: "Tell all about a published image without fetching it",
		Long: `Tell what a published image is, how it booted and what is attached to it. The disk
itself is not fetched. --file prints an attached file, such as boot-bios.log, as it
is; on a terminal, characters that it cannot show come as escapes, such as \x1b.
` + registryHelp + exitCodes,
		Example: `  vmctl inspect oci:images/oci/debian
  vmctl inspect oci:images/oci/debian --file boot-bios.log
  vmctl inspect registry.example/lab/debian:13 --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return runInspect(cmd, o, args[0]) },
	}
	cmd.Flags().StringVar(&o.file, "file", "", "print this attached file instead")
	selectionFlags(cmd, &o.selection)
	o.registry.add(cmd)
	return cmd
}

// inspectAttempts is how often a registry is asked: somebody waits for the answer.
const inspectAttempts = 3

func runInspect(cmd *cobra.Command, o inspectOptions, arg string) error {
	ref, src, err := o.registry.place(cmd, arg)
	if err != nil {
		return err
	}
	show := newProgress(cmd.ErrOrStderr(), false)
	in, err := publish.Inspect(cmd.Context(), src, ref, publish.ReadOptions{
		Selection: o.selection, Retry: registry.Retry{Attempts: inspectAttempts}, Tell: show.transfer,
	})
	show.close()
	if err != nil {
		return err
	}
	switch {
	case o.file != "":
		content, ok := in.Files[o.file]
		if !ok {
			return fail.New(fail.Usage, "--file", "attached are "+strings.Join(in.FileNames(), ", "), "%s has no file %s", ref, o.file)
		}
		if asJSON(cmd, string(content)) {
			return nil
		}
		if term.IsTerminal(int(os.Stdout.Fd())) {
			content = []byte(text.Lines(string(content)))
		}
		_, err = cmd.OutOrStdout().Write(content)
		return err
	case asJSON(cmd, in):
		return nil
	default:
		printInspection(cmd.OutOrStdout(), in)
		return nil
	}
}

func printInspection(w io.Writer, in publish.Inspection) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", text.Line(name), text.Line(fmt.Sprintf(format, args...)))
	}
	c := in.Config
	row("reference", "%s", in.Reference)
	row("release", "%s", in.Release)
	row("manifest", "%s", in.Manifest)
	row("build", "%s of %s, %s", c.Name, c.Created.UTC().Format("2006-01-02 15:04 MST"), c.Build)
	row("system", "%s %s, %s", c.OS, c.Architecture, strings.TrimSpace("release "+c.Version))
	row("disk", "%s, %.1f MB, %.1f GB when unpacked", in.Disk.Name, float64(in.Disk.Size)/1e6, float64(c.VirtualSize)/1e9)
	row("digest", "%s", in.Disk.Digest)
	if c.RawDigest != "" {
		row("raw digest", "%s", c.RawDigest)
	}
	row("formats", "%s", strings.Join(in.Formats, ", "))
	for _, b := range in.Boots {
		verdict := "came up"
		if !b.Passed {
			verdict = "failed: " + b.Problem
		}
		row("boot "+b.Firmware, "%s after %.0f s on %s, proved by its %s", verdict, b.Seconds, b.Accel, b.Proof)
	}
	if c.Untested != "" {
		row("UNTESTED", "%s", c.Untested)
	}
	row("packages", "%d", len(in.Packages))
	for _, key := range slices.Sorted(maps.Keys(in.Annotations)) {
		row("annotation", "%s=%s", key, in.Annotations[key])
	}
	for _, a := range in.Attached {
		var files []string
		for _, f := range a.Files {
			if f.Name != "" {
				files = append(files, f.Name)
			}
		}
		row("attached", "%s %s", a.ArtifactType, strings.Join(files, " "))
	}
	_ = table.Flush()
}
