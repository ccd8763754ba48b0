package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

type rebuildOptions struct {
	defs      definitions
	registry  registryFlags
	selection publish.Selection
	folder    string
	snapshots []string
	settings  []string
	offline   bool
	tools     string
	vault     orchestrator.PasswordSource
	cache     cacheOptions
}

func newRebuild(defs *definitions) *cobra.Command {
	var o rebuildOptions
	cmd := &cobra.Command{
		Use:   "rebuild IMAGE|REF",
		Short: "Build an image again from its record, and compare",
		Long: `Build an image again from its record: build.json beside an image file, or attached to a
published one. The same packages are installed, as by 'vmctl lock'. The record has no
secrets, scripts and contents of files, but digests of the latter two; so the definition
comes from its folder (--definitions), and must be what the record says of it. Exit code
0 means that every image has the same bytes, 4 that one has not.
` + registryHelp + exitCodes,
		Example: `  sudo vmctl rebuild images/debian/debian-13-amd64.qcow2
  sudo vmctl rebuild registry.example/lab/debian:13 --snapshot https://snapshot.example/debian/20260101T000000Z`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.defs = *defs
			return runRebuild(cmd, o, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", "rebuilt", "folder that gets the images")
	flags.BoolVar(&o.offline, "offline", false, "use no network: all packages are in the store")
	setFlag(cmd, &o.settings)
	vaultFlag(cmd, &o.vault)
	snapshotFlag(cmd, &o.snapshots)
	toolsFlag(cmd, &o.tools)
	o.cache.flags(cmd)
	selectionFlags(cmd, &o.selection)
	o.registry.add(cmd)
	return cmd
}

func snapshotFlag(cmd *cobra.Command, snapshots *[]string) {
	cmd.Flags().StringArrayVar(snapshots, "snapshot", nil, "address of an archive as it once was, for what a lock names and its archive no longer has; may be repeated")
}

// compared is an image of the record and the one that was built.
type compared struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Built  string `json:"built"`
	Same   bool   `json:"same"`
}

func runRebuild(cmd *cobra.Command, o rebuildOptions, arg string) error {
	record, err := recordOf(cmd, o, arg)
	if err != nil {
		return err
	}
	lock, err := orchestrator.NewLock(record)
	if err != nil {
		return err
	}
	if record.SourceDateEpoch != nil {
		if err := os.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(*record.SourceDateEpoch, 10)); err != nil {
			return err
		}
	}
	b := buildOptions{
		defs: o.defs, names: []string{record.Name}, folder: o.folder, noTest: true, jobs: 1, cache: o.cache, settings: o.settings, noLock: true, vault: o.vault, toolsName: o.tools,
		how: orchestrator.How{Fresh: orchestrator.Everything, Since: time.Now(), Offline: o.offline},
	}
	for _, output := range record.Outputs {
		if !slices.Contains(b.formats, output.Format) { // which may be several files
			b.formats = append(b.formats, output.Format)
		}
	}
	switch {
	case record.ToolsTree == "" || o.tools != toolsAuto:
	case isImage(record.ToolsTree): // whose programs would run here, on a record's word
		fmt.Fprintf(cmd.ErrOrStderr(), "the record is by the tools in %s: --tools names them, where you trust them\n", text.Line(record.ToolsTree))
	default:
		b.toolsName = record.ToolsTree
	}
	plans, err := planBuilds(&b)
	defer b.cleanup()
	if err != nil {
		return err
	}
	if differences := record.Differences(cmd.Context(), plans[0]); len(differences) > 0 {
		return fail.New(fail.Usage, "rebuild "+record.Name, hintDefinitions(record), "the definition is not that of the record: %s", strings.Join(differences, ", "))
	}
	plans[0].Lock, plans[0].Snapshots = lock, o.snapshots
	if err := b.chooseTools(cmd, plans); err != nil {
		return err
	}
	if record.Vmctl != version() {
		fmt.Fprintf(cmd.ErrOrStderr(), "the record is by vmctl %s, this one is %s\n", record.Vmctl, version())
	}
	manifests, err := buildAll(cmd, b, plans, nil, nil)
	if err != nil {
		return err
	}
	return tellCompared(cmd, record, manifests[0])
}

func hintDefinitions(record orchestrator.Manifest) string {
	if record.Revision == "" {
		return "name the folder that it was built from with --definitions, and what was set with --set"
	}
	return fmt.Sprintf("check out commit %s of %s, name its folder with --definitions, and what was set with --set", record.Revision, record.Repository)
}

// tellCompared prints which images have the same bytes; the error says that not all have.
func tellCompared(cmd *cobra.Command, record, built orchestrator.Manifest) error {
	results := compare(record, built)
	var different []string
	for _, r := range results {
		if !r.Same {
			different = append(different, r.Name)
		}
	}
	if !asJSON(cmd, results) {
		for _, r := range results {
			verdict := "same"
			if !r.Same {
				verdict = "differs"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", verdict, r.Name)
		}
	}
	if len(different) > 0 {
		return fail.New(fail.Build, "rebuild "+record.Name, "compare the images to see where", "other bytes than before: %s", strings.Join(different, ", "))
	}
	return nil
}

func compare(record, built orchestrator.Manifest) []compared {
	results := []compared{{Name: "disk", SHA256: record.Disk.SHA256, Built: built.Disk.SHA256}}
	for _, output := range record.Outputs {
		r := compared{Name: output.Name, SHA256: output.SHA256}
		for _, other := range built.Outputs {
			if other.Name == output.Name {
				r.Built = other.SHA256
			}
		}
		results = append(results, r)
	}
	for i := range results {
		results[i].Same = results[i].SHA256 != "" && results[i].SHA256 == results[i].Built
	}
	return results
}

// recordOf is the record of an image file, of a build, or of a published image.
func recordOf(cmd *cobra.Command, o rebuildOptions, arg string) (orchestrator.Manifest, error) {
	if _, err := os.Lstat(arg); err == nil {
		built, err := orchestrator.ReadBuilt(filepath.Dir(arg))
		if err == nil && built.Format(filepath.Base(arg)) == "" {
			err = fmt.Errorf("%s does not tell of it", orchestrator.ManifestName)
		}
		if err != nil {
			return built.Manifest, fail.New(fail.Usage, arg, "name an image that lies where it was built", "it has no record: %w", err)
		}
		return built.Manifest, nil
	}
	if isPath(arg) {
		return orchestrator.Manifest{}, absent(arg)
	}
	ref, src, err := o.registry.place(cmd, arg)
	if err != nil {
		return orchestrator.Manifest{}, err
	}
	show := newProgress(cmd.ErrOrStderr(), false)
	defer show.close()
	in, err := publish.Inspect(cmd.Context(), src, ref, publish.ReadOptions{
		Selection: o.selection, Retry: registry.Retry{Attempts: inspectAttempts}, Tell: show.transfer,
	})
	if err != nil {
		return orchestrator.Manifest{}, err
	}
	var record orchestrator.Manifest
	content, attached := in.Files[orchestrator.ManifestName]
	err = errors.New("none is attached")
	if attached {
		err = json.Unmarshal(content, &record)
	}
	if err == nil {
		err = record.CheckNames()
	}
	return record, fail.Wrap(fail.Registry, arg+": "+orchestrator.ManifestName, err)
}
