package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan is for packages alone, so that no help lists it.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a folder",
		Example: "  vmctl man .",
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true // it has the date of the day
			asMarkdown(root)
			forAnybody(root)
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "vmctl " + version(), Manual: "vmctl"}, args[0])
		},
	}
}

// forAnybody has no verb tell the folder of whoever writes the pages.
func forAnybody(cmd *cobra.Command) {
	if cache := cmd.Flags().Lookup("cache"); cache != nil {
		cache.DefValue = "~/.cache/vmctl"
	}
	for _, verb := range cmd.Commands() {
		forAnybody(verb)
	}
}

// asMarkdown has the long texts of all verbs keep their indented lines as they are: the
// writer of manual pages reads Markdown, where those need four spaces and an empty line before.
func asMarkdown(cmd *cobra.Command) {
	var text strings.Builder
	block := false
	for line := range strings.Lines(cmd.Long) {
		indented := strings.HasPrefix(line, "  ")
		if indented != block && strings.TrimSpace(line) != "" {
			text.WriteString("\n")
			block = indented
		}
		if indented {
			line = "  " + line
		}
		text.WriteString(line)
	}
	cmd.Long = text.String()
	for _, verb := range cmd.Commands() {
		asMarkdown(verb)
	}
}
