package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/budget"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/proof"
	"github.com/btw-img/btw-img/orchestrator/store"
	"github.com/btw-img/btw-img/orchestrator/text"
)

const (
	rootsCache   = "/var/cache/vmctl" // file-hierarchy(7)
	defaultLimit = 20 * definition.GiB
)

// cacheOptions says where the store of layers is, how large it may get, and how much of it
// is shown.
type cacheOptions struct {
	folder    string
	limit     string
	downloads bool
}

func (o *cacheOptions) folderFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.folder, "cache", defaultCache(), "folder of the store of layers; also $VMCTL_CACHE")
}

func (o *cacheOptions) flags(cmd *cobra.Command) {
	o.folderFlag(cmd)
	cmd.Flags().StringVar(&o.limit, "cache-limit", defaultLimit.String(), "size that the store is cut down to, what was not used for the longest first; 0 for none")
}

// bytes is the limit as a number.
func (o *cacheOptions) bytes() (int64, error) {
	if o.limit == noLimit {
		return 0, nil
	}
	size, err := definition.ParseSize(o.limit)
	return int64(size), err
}

const noLimit = "0"

// cacheLimit checks the value of --cache-limit.
func cacheLimit(value string) error {
	_, err := (&cacheOptions{limit: value}).bytes()
	return err
}

// runInJail runs an action where the files of layers can be changed, and passes on what it
// prints and its exit code.
func (o *cacheOptions) runInJail(cmd *cobra.Command, action string, keys []string) error {
	arguments := append([]string{action}, keys...)
	if asJSON(cmd, nil) {
		arguments = append(arguments, "--json")
	}
	code, err := o.verbInJail(cmd.Context(), arguments, cmd.OutOrStdout(), cmd.ErrOrStderr())
	if err == nil && code != 0 {
		return commandEnded(code)
	}
	return err
}

func (o *cacheOptions) verbInJail(ctx context.Context, arguments []string, stdout, stderr io.Writer) (code int, err error) {
	folder, err := filepath.Abs(o.folder)
	if err != nil {
		return 0, err
	}
	arguments = append(append([]string{"cache"}, arguments...), "--cache="+folder, "--cache-limit="+o.limit)
	return orchestrator.RunVerbInJail(ctx, jailVerb, arguments, stdout, stderr)
}

// trimAfterBuild cuts the store down to the limit, wherever that can be done, in little time.
func (o *cacheOptions) trimAfterBuild(ctx context.Context) error {
	if !orchestrator.FilesNeedJail() {
		_, _, err := o.trim((*store.Store).Trim)
		return err
	}
	limit, err := o.bytes()
	if err != nil || limit == 0 {
		return err
	}
	layers, err := store.Open(o.folder)
	if err != nil {
		return err
	}
	if much, err := layers.Exceeds(limit); !much || err != nil {
		return err
	}
	var said strings.Builder
	code, err := o.verbInJail(ctx, []string{"gc"}, io.Discard, &said)
	if err == nil && code != 0 {
		err = errors.New(strings.TrimSpace(said.String()))
	}
	return err
}

// trim cuts the store down to the limit.
func (o *cacheOptions) trim(collect func(*store.Store, int64) (int64, []store.Key, error)) (freed int64, removed []store.Key, err error) {
	limit, err := o.bytes()
	if err != nil {
		return 0, nil, err
	}
	layers, err := store.Open(o.folder)
	if err != nil {
		return 0, nil, err
	}
	freed, removed, err = collect(layers, limit)
	proofs, proofErr := layers.Own(proof.FolderName)
	if proofErr == nil {
		var more int64
		more, proofErr = proof.In(proofs).Collect()
		freed += more
	}
	return freed, removed, joined([]error{err, proofErr})
}

// budget is what builds and guests share that use the store.
func (o *cacheOptions) budget() (*budget.Budget, error) {
	layers, err := store.Open(o.folder)
	if err != nil {
		return nil, err
	}
	folder, err := layers.Own(budget.FolderName)
	return budget.In(folder), err
}

// defaultCache is $VMCTL_CACHE, or where the system keeps such things for this user.
func defaultCache() string {
	if folder := os.Getenv("VMCTL_CACHE"); folder != "" {
		return folder
	}
	if os.Geteuid() == 0 {
		return rootsCache
	}
	caches := cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(os.Getenv("HOME"), ".cache"))
	return filepath.Join(caches, "vmctl")
}

// cacheActions is what can be done with the store, in the order of the help.
var cacheActions = []string{"ls", "rm", "gc", "verify"}

func newCache() *cobra.Command {
	var o cacheOptions
	cmd := &cobra.Command{
		Use:   "cache ls|rm|gc|verify [KEY…]",
		Short: "Show, remove, tidy and check the stored layers of builds, and the packages",
		Long: `Show, remove, tidy and check the stored layers of builds, and the packages and lists of
packages that were downloaded for them:

  ls       list the layers; the downloads one by one with --downloads
  rm KEY…  remove layers, and those that stand on them, and downloads; the first digits of
           a key do, and 'downloads' stands for all of these
  gc       remove what killed builds left, damaged layers, what is above the limit,
           and old proofs of boots
  verify   compare every file of every layer, and every download, with what was stored`,
		Example: `  vmctl cache ls --downloads
  vmctl cache gc --cache-limit 5G
  vmctl cache verify --json`,
		Args: checkCacheArguments,
		RunE: func(cmd *cobra.Command, args []string) error { return runCache(cmd, o, args[0], args[1:]) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.downloads, "downloads", false, "list what was downloaded, too")
	return cmd
}

func checkCacheArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return arguments(cmd, args)
	case !slices.Contains(cacheActions, args[0]):
		return misused(cmd, didYouMean(args[0], "", cacheActions), "%q is none of ls, rm, gc and verify", args[0])
	case args[0] == "rm" && len(args) == 1:
		return misused(cmd, "'vmctl cache ls' shows the keys", "KEY is missing")
	case args[0] != "rm" && len(args) > 1:
		return misused(cmd, "", "%q is too many: 'vmctl cache %s' takes no keys", args[1], args[0])
	}
	return nil
}

// allDownloads is the word for every download, where keys are given.
const allDownloads = "downloads"

func runCache(cmd *cobra.Command, o cacheOptions, action string, keys []string) error {
	if _, err := os.Stat(o.folder); action == "ls" && errors.Is(err, fs.ErrNotExist) {
		listStored(cmd, o, nil, nil)
		return nil
	}
	if orchestrator.FilesNeedJail() && action != "ls" {
		return o.runInJail(cmd, action, keys)
	}
	layers, err := store.Open(o.folder)
	if err != nil {
		return err
	}
	switch action {
	case "rm":
		return removeStored(cmd, layers, keys)
	case "gc":
		freed, removed, err := o.trim((*store.Store).Collect)
		if !asJSON(cmd, removed) {
			fmt.Fprintf(cmd.OutOrStdout(), "%d layers removed, %s freed\n", len(removed), definition.Size(freed))
		}
		return err
	case "verify":
		return verifyStored(cmd, layers)
	}
	infos, err := layers.List()
	if err != nil {
		return err
	}
	downloads, err := layers.Downloads()
	listStored(cmd, o, infos, downloads)
	return err
}

// storedLayer and storedDownload are what --json prints of them.
type storedLayer struct {
	Kind string `json:"kind"`
	store.Info
}

type storedDownload struct {
	Kind string `json:"kind"`
	store.Download
}

// stored is the store's content for --json.
func stored(infos []store.Info, downloads []store.Download) []any {
	var all []any
	for _, info := range infos {
		all = append(all, storedLayer{"layer", info})
	}
	for _, d := range downloads {
		all = append(all, storedDownload{"download", d})
	}
	return all
}

func listStored(cmd *cobra.Command, o cacheOptions, infos []store.Info, downloads []store.Download) {
	shown := downloads
	if !o.downloads {
		shown = nil
	}
	if !asJSON(cmd, stored(infos, shown)) {
		printLayers(cmd, infos)
		printDownloads(cmd, shown)
		var size int64
		for _, d := range downloads {
			size += d.Size
		}
		if len(downloads) > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%d downloads, %s\n", len(downloads), megabytes(size))
		}
	}
	if _, missing := os.Stat(rootsCache); len(infos) == 0 && missing == nil && o.folder != rootsCache {
		fmt.Fprintln(cmd.ErrOrStderr(), "what root has built is in "+rootsCache+": use sudo")
	}
}

func removeStored(cmd *cobra.Command, layers *store.Store, prefixes []string) error {
	keys := []store.Key{}
	var downloads []store.Download
	for _, prefix := range prefixes {
		if prefix == allDownloads {
			all, err := layers.Downloads()
			if err != nil {
				return err
			}
			downloads = append(downloads, all...)
			continue
		}
		key, err := layers.Find(prefix)
		if err == nil {
			keys = append(keys, key)
			continue
		}
		d, none := layers.FindDownload(prefix)
		if none != nil {
			return err
		}
		downloads = append(downloads, d)
	}
	removed := slices.Clone(keys)
	for _, d := range downloads {
		removed = append(removed, d.SHA256)
	}
	asJSON(cmd, removed)
	if err := layers.Remove(keys...); err != nil {
		return err
	}
	for _, d := range downloads {
		if err := layers.RemoveDownload(d); err != nil {
			return err
		}
	}
	return nil
}

func verifyStored(cmd *cobra.Command, layers *store.Store) error {
	infos, err := layers.Verify(cmd.Context())
	if err != nil {
		return err
	}
	downloads, err := layers.VerifyDownloads(cmd.Context())
	if err != nil {
		return err
	}
	damagedLayers := slices.DeleteFunc(slices.Clone(infos), func(i store.Info) bool { return i.Problem == "" })
	damagedDownloads := slices.DeleteFunc(slices.Clone(downloads), func(d store.Download) bool { return d.Problem == "" })
	if !asJSON(cmd, stored(infos, damagedDownloads)) {
		for _, info := range damagedLayers {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", info.Key[:shownDigits], text.Line(info.Problem))
		}
		for _, d := range damagedDownloads {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s: %s\n", d.SHA256[:shownDigits], text.Line(d.Name), d.Problem)
		}
	}
	var problems []error
	if len(damagedLayers) > 0 {
		problems = append(problems, fail.New(fail.Host, "", "'vmctl cache gc' removes them; builds make them anew", "%d of %d layers are damaged", len(damagedLayers), len(infos)))
	}
	if len(damagedDownloads) > 0 {
		problems = append(problems, fail.New(fail.Host, "", "'vmctl cache rm KEY' removes them; builds download them anew", "%d of %d downloads are damaged", len(damagedDownloads), len(downloads)))
	}
	return joined(problems)
}

const shownDigits = 12 // of a key

func printLayers(cmd *cobra.Command, infos []store.Info) {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }() // what cannot be written shows at the end
	fmt.Fprintln(table, "KEY\tBUILD\tSTAGE\tSIZE\tUSED\tSTATE")
	for _, info := range infos {
		state := text.Line(info.Problem)
		if info.InUse {
			state = "in use"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", info.Key[:shownDigits], text.Line(info.About.Build), text.Line(info.About.Title),
			megabytes(info.Size), info.Used.Format("2006-01-02 15:04"), state)
	}
}

func printDownloads(cmd *cobra.Command, downloads []store.Download) {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }()
	for _, d := range downloads {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", d.SHA256[:shownDigits], text.Line(d.Name), megabytes(d.Size), d.Used.Format("2006-01-02 15:04"))
	}
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// storedKeys is the keys that complete the arguments of 'cache rm'.
func storedKeys(cmd *cobra.Command, _ string) []string {
	folder, err := cmd.Flags().GetString("cache")
	if err != nil || cmd.Flags().Arg(0) != "rm" {
		return nil
	}
	layers, err := store.Open(folder)
	if err != nil {
		return nil
	}
	infos, err := layers.List()
	if err != nil {
		return nil
	}
	var keys []string
	for _, info := range infos {
		keys = append(keys, string(info.Key[:shownDigits]))
	}
	return keys
}
