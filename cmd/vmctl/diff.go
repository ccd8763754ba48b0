package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/btw-img/btw-img/orchestrator/diff"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

const diffVerb = "diff"

type diffOptions struct {
	folder    string
	all       bool
	selection publish.Selection
	registry  registryFlags
}

// exitDifferent is that of diff(1) and cmp(1).
const exitDifferent = commandEnded(1)

// keptDifferences is how many files of a partition, and how many packages, are told
// where nobody asks for all.
const keptDifferences = 100

func newDiff() *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   diffVerb + " NAME|IMAGE|REF NAME|IMAGE|REF",
		Short: "Say in what two images differ",
		Long: `Compare the disks inside two images, whatever their formats: partition by partition,
file by file (type, owner, mode, time, size, attributes, target, content) and package by
package. Of contents, the first difference is told. A partition whose file system is
neither ext4 nor FAT is compared byte by byte, and so is what is damaged. Nothing is
mounted and no root is needed. What is published is fetched where its digest is not
that of the other one.
` + registryHelp + `Exit codes:
  0    the disks are equal
  1    they differ
  2    wrong usage, or an image that cannot be read
  3    anything else that failed on this host
  4    a tool failed on an image
  6    a registry failed
  130  interrupted`,
		Example: `  vmctl diff debian debian
  vmctl diff images/debian/debian.qcow2 oci:images/oci/debian:13 --json
  vmctl diff debian registry.example/lab/debian:13 --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			result, err := runDiff(cmd, o, args)
			if err != nil {
				return trouble(err)
			}
			if !asJSON(cmd, result) {
				result.print(cmd.OutOrStdout(), o.all)
			}
			if !result.Equal {
				return exitDifferent
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder with the builds, where a NAME is given")
	flags.BoolVar(&o.all, "all", false, fmt.Sprintf("tell of all files and packages, and not of %d", keptDifferences))
	selectionFlags(cmd, &o.selection)
	o.registry.add(cmd)
	return cmd
}

// trouble keeps the exit code 1 for images that differ.
func trouble(err error) error {
	if fail.ExitCode(err) != int(exitDifferent) {
		return err
	}
	return &fail.Error{Kind: fail.Host, Hint: fail.Hint(err), Err: err}
}

// diffSide is one of the two images.
type diffSide struct {
	Name   string `json:"name"` // as it was given
	Path   string `json:"path,omitempty"`
	Format string `json:"format,omitempty"`
	Digest string `json:"digest,omitempty"` // of what is published

	ref  registry.Reference
	src  registry.Place
	size int64
}

type diffResult struct {
	A diffSide `json:"a"`
	B diffSide `json:"b"`
	diff.Disks
}

func runDiff(cmd *cobra.Command, o diffOptions, args []string) (result diffResult, err error) {
	for i, image := range []*diffSide{&result.A, &result.B} {
		if *image, err = o.find(cmd, args[i]); err != nil {
			return result, err
		}
	}
	if result.Equal, err = sameBytes(cmd.Context(), result.A, result.B); err != nil || result.Equal {
		return result, err
	}
	folder, err := os.MkdirTemp(host.LargeTemp(), "vmctl-diff-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	disks, err := o.openBoth(cmd, [2]diffSide{result.A, result.B}, folder)
	for _, disk := range disks {
		defer disk.Close()
	}
	if err != nil {
		return result, err
	}
	limit := keptDifferences
	if o.all {
		limit = 0
	}
	result.Disks, err = diff.Compare(cmd.Context(), disks[0], disks[1], limit)
	return result, err
}

// find finds what an argument names, and of what is published its digest.
func (o diffOptions) find(cmd *cobra.Command, arg string) (diffSide, error) {
	c := diffSide{Name: arg}
	if isReference(arg) {
		return c, o.inspect(cmd, &c)
	}
	path, build, err := findImage(arg, o.folder)
	if err != nil {
		return c, err
	}
	file, format, err := image.Open(path, build.Format(filepath.Base(path)))
	if err != nil {
		return c, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return c, err
	}
	c.Path, c.Format, c.size = path, format, info.Size()
	return c, nil
}

func (o diffOptions) inspect(cmd *cobra.Command, c *diffSide) error {
	var err error
	if c.ref, c.src, err = o.registry.place(cmd, c.Name); err != nil {
		return err
	}
	found, err := publish.Inspect(cmd.Context(), c.src, c.ref, publish.ReadOptions{Selection: o.selection})
	if err != nil {
		return err
	}
	c.Format, c.Digest, c.size = found.Config.Format, found.Disk.Digest.String(), found.Disk.Size
	return nil
}

// sameBytes says whether the files are equal, where that takes no fetching and no
// unpacking.
func sameBytes(ctx context.Context, a, b diffSide) (bool, error) {
	switch {
	case a.size != b.size || a.Format != b.Format:
		return false, nil
	case a.Path != "" && b.Path != "":
		return diff.SameFile(ctx, a.Path, b.Path)
	case a.Path == "" && b.Path == "":
		return a.Digest == b.Digest, nil
	}
	sum, _, err := image.Digest(ctx, cmp.Or(a.Path, b.Path))
	return "sha256:"+sum == cmp.Or(a.Digest, b.Digest), err
}

// openBoth gives the images as raw disks, one of which may be nil after an error. Those that
// have to be unpacked are, at the same time, into the folder.
func (o diffOptions) openBoth(cmd *cobra.Command, images [2]diffSide, folder string) (disks [2]*os.File, err error) {
	unpacking, ctx := errgroup.WithContext(cmd.Context())
	for i, image := range images {
		own := filepath.Join(folder, strconv.Itoa(i))
		if err := os.Mkdir(own, 0o700); err != nil {
			return disks, errors.Join(err, unpacking.Wait())
		}
		if image.Path == "" {
			if image.Path, err = o.pull(cmd, image, own); err != nil {
				return disks, errors.Join(err, unpacking.Wait())
			}
		}
		unpacking.Go(func() (err error) {
			disks[i], err = image.open(ctx, filepath.Join(own, "disk"))
			return err
		})
	}
	return disks, unpacking.Wait()
}

// open gives the image as a raw disk, which is unpacked into a file where it is none.
func (c diffSide) open(ctx context.Context, unpacked string) (*os.File, error) {
	file, format, err := image.Open(c.Path, c.Format)
	if err != nil || format == diskformat.Raw {
		return file, err
	}
	defer file.Close()
	if err := (&host.Local{}).Run(ctx, image.Unpack(file, format, unpacked)); err != nil {
		return nil, fail.Wrap(fail.Usage, c.Name, err)
	}
	return os.Open(unpacked)
}

func (o diffOptions) pull(cmd *cobra.Command, c diffSide, folder string) (string, error) {
	show := newProgress(cmd.ErrOrStderr(), false)
	defer show.close()
	pulled, err := publish.Pull(cmd.Context(), c.src, c.ref, publish.PullOptions{
		ReadOptions: publish.ReadOptions{Selection: o.selection, Tell: show.transfer}, Folder: folder,
	})
	if err == nil && pulled.Disk.String() != c.Digest {
		err = fail.New(fail.Registry, c.Name, "try again", "it was published anew in between")
	}
	return pulled.Path, err
}

// print tells people. What images say is made fit for a screen.
func (r diffResult) print(w io.Writer, all bool) {
	line := func(format string, args ...any) { fmt.Fprintln(w, text.Line(fmt.Sprintf(format, args...))) }
	if r.Equal {
		line("equal")
		return
	}
	tell := func(indent string, changes []diff.Change) {
		for _, c := range changes {
			line("%s%s: %s, %s", indent, c.What, c.A, c.B)
		}
	}
	line("a: %s", r.A.Name)
	line("b: %s", r.B.Name)
	tell("", r.Disk)
	if r.Outside != nil {
		line("bytes outside of the partitions differ from %d on", *r.Outside)
	}
	for _, p := range r.Partitions {
		name := fmt.Sprintf("partition %d", p.Number)
		if about := strings.TrimSpace(p.Label + " " + p.Filesystem); about != "" {
			name += " (" + about + ")"
		}
		line("%s: %s", name, verdict(p))
		tell("  ", p.Changes)
		for _, f := range p.Files {
			line("  %s", told(f))
		}
		more(line, p.Differing-len(p.Files), "files")
	}
	if len(r.Packages) > 0 {
		line("packages: %d differ", len(r.Packages))
	}
	shown := r.Packages
	if !all {
		shown = shown[:min(len(shown), keptDifferences)]
	}
	for _, p := range shown {
		line("  %s %s: %s, %s", p.Name, p.Architecture, cmp.Or(p.A, "none"), cmp.Or(p.B, "none"))
	}
	more(line, len(r.Packages)-len(shown), "packages")
}

func more(line func(string, ...any), count int, of string) {
	if count > 0 {
		line("  and %d more %s: --all tells them", count, of)
	}
}

// verdict is in what a partition differs.
func verdict(p diff.Difference) string {
	at := ""
	if p.Offset != nil {
		at = fmt.Sprintf("its bytes differ from %d on", *p.Offset)
	}
	switch {
	case p.Only != "":
		return "only in " + p.Only
	case p.Offset == nil || *p.Offset < 0:
		return "same bytes"
	case p.Note != "":
		return at + " (" + p.Note + ")"
	case !p.Compared:
		return at
	case p.Differing == 0:
		return "same files, but " + at
	}
	return fmt.Sprintf("%d files differ", p.Differing)
}

// told is in what a file differs, in one line.
func told(f diff.File) string {
	if f.Only != "" {
		return f.Path + ": only in " + f.Only
	}
	var parts []string
	for _, c := range f.Changes {
		parts = append(parts, fmt.Sprintf("%s %s, %s", c.What, c.A, c.B))
	}
	if c := f.Content; c != nil && c.Line > 0 {
		parts = append(parts, fmt.Sprintf("line %d %q, %q", c.Line, c.A, c.B))
	} else if c != nil {
		parts = append(parts, fmt.Sprintf("from byte %d %s, %s", c.Offset, cmp.Or(c.A, "end"), cmp.Or(c.B, "end")))
	}
	return f.Path + ": " + strings.Join(parts, "; ")
}
