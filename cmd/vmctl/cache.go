package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/store"
	"github.com/btw-img/btw-img/orchestrator/text"
)

const (
	rootsCache   = "/var/cache/vmctl" // file-hierarchy(7)
	defaultLimit = 20 * definition.GiB
)

// cacheOptions says where the store of layers is, and how large it may get.
type cacheOptions struct {
	folder string
	limit  string
}

func (o *cacheOptions) folderFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.folder, "cache", defaultCache(), "folder of the store of layers; also $VMCTL_CACHE")
}

func (o *cacheOptions) flags(cmd *cobra.Command) {
	o.folderFlag(cmd)
	cmd.Flags().StringVar(&o.limit, "cache-limit", defaultLimit.String(), "size that the store is cut down to, the layers first that were not used for the longest; 0 for none")
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

// trim cuts the store down to the limit.
func (o *cacheOptions) trim() (freed int64, removed []store.Key, err error) {
	limit, err := o.bytes()
	if err != nil {
		return 0, nil, err
	}
	layers, err := store.Open(o.folder)
	if err != nil {
		return 0, nil, err
	}
	return layers.Collect(limit)
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
		Short: "Show, remove, tidy and check the stored layers of builds",
		Long: `Show, remove, tidy and check the stored layers of builds:

  ls       list the layers
  rm KEY…  remove layers, and those that stand on them; the first digits of a key do
  gc       remove what killed builds left, damaged layers, and what is above the limit
  verify   compare every file of every layer with what was stored`,
		Example: `  vmctl cache ls
  vmctl cache gc --cache-limit 5G
  vmctl cache verify --json`,
		Args: checkCacheArguments,
		RunE: func(cmd *cobra.Command, args []string) error { return runCache(cmd, o, args[0], args[1:]) },
	}
	o.flags(cmd)
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

func runCache(cmd *cobra.Command, o cacheOptions, action string, keys []string) error {
	if _, err := os.Stat(o.folder); action == "ls" && errors.Is(err, fs.ErrNotExist) {
		listLayers(cmd, o, nil)
		return nil
	}
	layers, err := store.Open(o.folder)
	if err != nil {
		return err
	}
	switch action {
	case "rm":
		return removeLayers(cmd, layers, keys)
	case "gc":
		freed, removed, err := o.trim()
		if !asJSON(cmd, removed) {
			fmt.Fprintf(cmd.OutOrStdout(), "%d layers removed, %s freed\n", len(removed), definition.Size(freed))
		}
		return err
	case "verify":
		return verifyLayers(cmd, layers)
	}
	infos, err := layers.List()
	listLayers(cmd, o, infos)
	return err
}

func listLayers(cmd *cobra.Command, o cacheOptions, infos []store.Info) {
	if !asJSON(cmd, infos) {
		printLayers(cmd, infos)
	}
	if _, missing := os.Stat(rootsCache); len(infos) == 0 && missing == nil && o.folder != rootsCache {
		fmt.Fprintln(cmd.ErrOrStderr(), "what root has built is in "+rootsCache+": use sudo")
	}
}

func removeLayers(cmd *cobra.Command, layers *store.Store, prefixes []string) error {
	var keys []store.Key
	for _, prefix := range prefixes {
		key, err := layers.Find(prefix)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	asJSON(cmd, keys)
	return layers.Remove(keys...)
}

func verifyLayers(cmd *cobra.Command, layers *store.Store) error {
	infos, err := layers.Verify(cmd.Context())
	if err != nil {
		return err
	}
	damaged := slices.DeleteFunc(slices.Clone(infos), func(i store.Info) bool { return i.Problem == "" })
	if !asJSON(cmd, infos) {
		for _, info := range damaged {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", info.Key[:shownDigits], text.Line(info.Problem))
		}
	}
	if len(damaged) > 0 {
		return fail.New(fail.Host, "", "'vmctl cache gc' removes them; builds make them anew", "%d of %d layers are damaged", len(damaged), len(infos))
	}
	return nil
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
