package main

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	orasregistry "oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/export"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/catalogue"
	"github.com/btw-img/btw-img/publish/registry"
)

// shells is what writes the completion script of each shell.
var shells = map[string]func(root *cobra.Command, w io.Writer) error{
	"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
	"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	"zsh":  (*cobra.Command).GenZshCompletion,
}

func newCompletion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the script that completes vmctl's words in a shell",
		Long: `Print the script that completes verbs, flags, builds, images and references when Tab is
pressed. To have it in every new shell, write it to

  bash  /etc/bash_completion.d/vmctl (with Debian's package bash-completion)
  zsh   _vmctl in a folder of $fpath
  fish  ~/.config/fish/completions/vmctl.fish`,
		Example: `  source <(vmctl completion bash)
  vmctl completion zsh > _vmctl
  vmctl completion fish > vmctl.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return shells[args[0]](cmd.Root(), cmd.OutOrStdout())
		},
	}
}

// candidates is what a word can be, given what is typed of it.
type candidates func(cmd *cobra.Command, typed string) []string

// addCompletions says for all verbs what their arguments, and the values of
// their flags, can be.
func addCompletions(root *cobra.Command, defs *definitions) {
	builds := func(*cobra.Command, string) []string {
		library, err := defs.library()
		if err != nil {
			return nil
		}
		return library.Names()
	}
	images := both(both(builtNames, paths(diskformat.Suffixes()...)), references)
	words := map[string][]candidates{ // of the first argument, and of those after it
		"build":     {builds, builds},
		"lint":      {builds, builds},
		"show":      {builds},
		"shell":     {builds},
		"test":      {both(builtNames, paths(diskformat.Suffixes()...))},
		"push":      {both(builtNames, paths()), references},
		"pull":      {references},
		"inspect":   {references},
		"verify":    {references},
		"lock":      {builtNames},
		"rebuild":   {both(paths(diskformat.Suffixes()...), references)},
		"serve":     {paths()},
		"cache":     {func(*cobra.Command, string) []string { return cacheActions }, storedKeys},
		"convert":   {both(builtNames, paths(diskformat.Suffixes()...)), func(*cobra.Command, string) []string { return format.Names() }},
		"diff":      {images, images},
		"provision": {both(builtNames, paths(diskformat.Suffixes()...)), anyPath},
		"seed":      {anyPath},
		"write":     {images, anyPath},
		"export":    {func(*cobra.Command, string) []string { return export.Names() }, both(builtNames, paths(diskformat.Suffixes()...))},
		"launch":    {images},
		"ssh":       {machineNames}, "console": {machineNames}, "logs": {machineNames}, "screenshot": {machineNames, paths()},
		"stop": {machineNames}, "start": {machineNames}, "snapshot": {machineNames},
		"cp":    {both(machinePaths, anyPath), both(machinePaths, anyPath)},
		"clean": {both(machineNames, builtNames), func(*cobra.Command, string) []string { return []string{purge} }},
		"help":  {func(*cobra.Command, string) []string { return verbs(root) }},
	}
	values := map[string]candidates{"output": paths(), "logs": paths(), "share": paths(), "cache": paths(), "definitions": paths(), "extends": builds, "refresh": builds, "set": settings}
	for name, known := range choices {
		values[name] = func(*cobra.Command, string) []string { return known }
	}
	for _, verb := range append(root.Commands(), root) {
		if verb != root && verb.ValidArgs == nil {
			verb.ValidArgsFunction = completeArguments(words[verb.Name()])
		}
		for _, flags := range []*pflag.FlagSet{verb.Flags(), verb.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if values[f.Name] != nil {
					// Fails only where the flag is missing or has a completion already.
					_ = verb.RegisterFlagCompletionFunc(f.Name, completeValue(f, values[f.Name]))
				}
			})
		}
	}
}

// completeArguments offers no word twice.
func completeArguments(words []candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(words) == 0 || len(args) > 0 && len(words) == 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offer(words[min(len(args), len(words)-1)](cmd, typed), "", typed, args)
	}
}

// completeValue completes the last word of a flag that takes several, with
// commas between them.
func completeValue(f *pflag.Flag, words candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if _, several := f.Value.(pflag.SliceValue); several {
			before = typed[:strings.LastIndex(typed, ",")+1]
		}
		return offer(words(cmd, typed), before, typed, strings.Split(before, ","))
	}
}

// offer is the words that begin as typed and are not taken. No space follows a
// folder or a key: the word goes on.
func offer(words []string, before, typed string, taken []string) ([]string, cobra.ShellCompDirective) {
	if strings.HasPrefix(typed, "~") {
		return nil, cobra.ShellCompDirectiveDefault // the shell knows where home is
	}
	directive := cobra.ShellCompDirectiveNoFileComp
	var fitting []string
	for _, word := range words {
		if strings.HasPrefix(before+word, typed) && !slices.Contains(taken, word) {
			fitting = append(fitting, before+word)
			if strings.HasSuffix(word, "/") || strings.HasSuffix(word, "=") {
				directive |= cobra.ShellCompDirectiveNoSpace
			}
		}
	}
	return fitting, directive
}

func both(a, b candidates) candidates {
	return func(cmd *cobra.Command, typed string) []string { return append(a(cmd, typed), b(cmd, typed)...) }
}

// settings is the keys of a definition.
func settings(*cobra.Command, string) []string {
	content, err := definition.InstallSchema()
	if err != nil {
		return nil
	}
	var top schema
	if err := json.Unmarshal(content, &top); err != nil {
		return nil
	}
	return top.keys("")
}

// schema is as much of a JSON schema as tells the keys.
type schema struct {
	Properties map[string]schema `json:"properties"`
}

func (s schema) keys(prefix string) []string {
	var keys []string
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if below := s.Properties[name].keys(prefix + name + "."); len(below) > 0 {
			keys = append(keys, below...)
			continue
		}
		keys = append(keys, prefix+name+"=")
	}
	return keys
}

// imagesFolder is the output folder of cmd, or the one that is usual.
func imagesFolder(cmd *cobra.Command) string {
	if cmd.Name() == "pull" || cmd.Flags().Lookup("output") == nil {
		return defaultFolder
	}
	return cmd.Flags().Lookup("output").Value.String()
}

// builtNames is the builds that have left images.
func builtNames(cmd *cobra.Command, _ string) []string {
	folder := imagesFolder(cmd)
	entries, _ := os.ReadDir(folder)
	var names []string
	for _, entry := range entries {
		if _, err := os.Stat(filepath.Join(folder, entry.Name(), orchestrator.ManifestName)); err == nil {
			names = append(names, entry.Name())
		}
	}
	return names
}

// machineNames is the test machines.
func machineNames(*cobra.Command, string) []string {
	folder, err := machine.UsersFolder()
	if err != nil {
		return nil
	}
	names, _ := folder.Names()
	return names
}

// machinePaths is how paths in machines begin.
func machinePaths(cmd *cobra.Command, typed string) []string {
	var beginnings []string
	for _, name := range machineNames(cmd, typed) {
		beginnings = append(beginnings, name+":/")
	}
	return beginnings
}

// paths is the folders, and the files with one of the extensions, that begin as
// typed.
func paths(extensions ...string) candidates {
	return pathsThat(func(path string) bool { return slices.Contains(extensions, filepath.Ext(path)) })
}

// anyPath is the folders and files that begin as typed.
func anyPath(cmd *cobra.Command, typed string) []string {
	return pathsThat(func(string) bool { return true })(cmd, typed)
}

func pathsThat(fit func(path string) bool) candidates {
	return func(_ *cobra.Command, typed string) []string {
		folder, _ := filepath.Split(typed)
		entries, _ := os.ReadDir(filepath.Clean(folder))
		var found []string
		for _, entry := range entries {
			path := folder + entry.Name()
			info, err := os.Stat(path)
			switch {
			case err != nil, strings.HasPrefix(entry.Name(), ".") && path != typed:
			case info.IsDir():
				found = append(found, path+"/")
			case fit(path):
				found = append(found, path)
			}
		}
		return found
	}
}

// references is the OCI layouts that 'vmctl push' makes where no registry is
// named; once one is typed, also with the tags of its releases.
func references(cmd *cobra.Command, typed string) []string {
	root := filepath.Join(imagesFolder(cmd), definition.LayoutsFolder)
	names, _, _ := catalogue.Repositories(root)
	var found []string
	for _, name := range names {
		folder := filepath.Join(root, name)
		ref, err := registry.Layout(folder, "")
		if err != nil {
			continue
		}
		found = append(found, ref.String())
		if !strings.HasPrefix(typed, ref.String()) {
			continue
		}
		store, err := registry.Access{}.OpenPlace(cmd.Context(), ref)
		if err != nil {
			continue
		}
		tags, err := orasregistry.Tags(cmd.Context(), store.(orasregistry.TagLister))
		if err != nil {
			continue
		}
		for _, tag := range tags {
			if publish.IsRelease(cmd.Context(), store, tag) {
				found = append(found, ref.With(tag).String())
			}
		}
	}
	return found
}
