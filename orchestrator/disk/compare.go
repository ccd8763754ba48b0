package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// Compare mounts the file systems of the disk image, one after the other and without
// changing anything in them, and compares them with the tree at root: names, types,
// owners, modes, sizes, times, attributes, targets of links, device numbers, and
// which names are the same file; of a FAT file system names, sizes and contents. at
// is an empty folder to mount on. It needs real root. can says whether a partition can
// be mounted here: one that cannot is passed over.
func Compare(ctx context.Context, h host.Host, plan Plan, file, root, at string, can func(Partition) bool) error {
	shares, err := plan.shares(root)
	if err != nil {
		return err
	}
	found := differences{keep: 10}
	for _, s := range shares {
		if s.folder == "" {
			continue
		}
		look := s.compareMounted
		if s.kind().Filling == filesystem.ByMtools {
			look = s.compareExtracted
		} else if !can(s.Partition) {
			continue
		}
		if err := look(ctx, h, file, at, &found); err != nil {
			return fail.Wrap(fail.Host, "compare "+s.String()+" with the tree", err)
		}
	}
	return found.error()
}

// CompareUnmounted is Compare for those who may not mount: FAT file systems alone are compared.
func CompareUnmounted(ctx context.Context, h host.Host, plan Plan, file, root, at string) error {
	return Compare(ctx, h, plan, file, root, at, func(Partition) bool { return false })
}

// differences is what Compare found; of many it keeps the first.
type differences struct {
	keep  int
	first []string
	count int
}

func (d *differences) add(path, format string, args ...any) {
	if d.count++; d.count <= d.keep {
		d.first = append(d.first, text.Line(path+": "+fmt.Sprintf(format, args...)))
	}
}

func (d *differences) error() error {
	if d.count == 0 {
		return nil
	}
	told := strings.Join(d.first, "\n")
	if more := d.count - len(d.first); more > 0 {
		told += fmt.Sprintf("\nand %d more", more)
	}
	return &fail.Error{Kind: fail.Build, Op: "compare the disk with the tree", Tail: told, Err: fmt.Errorf("%d differences, the first: %s", d.count, d.first[0])}
}

func (s share) compareMounted(ctx context.Context, h host.Host, file, at string, found *differences) (err error) {
	var stack scope.Stack
	defer stack.CloseInto(&err)
	device, detach, err := h.AttachLoop(file, s.Start, s.Size)
	if err != nil {
		return err
	}
	stack.Push("detach "+device, detach)
	kind := s.kind()
	unmount, err := h.Mount(host.Mount{Source: device, Target: at, Type: kind.Name, Flags: unix.MS_RDONLY | unix.MS_NOATIME | unix.MS_NOSUID | unix.MS_NODEV, Data: kind.ReadOptions})
	if err != nil {
		return err
	}
	stack.Push("unmount "+at, unmount)
	return s.compare(ctx, at, describe, found)
}

// compareExtracted takes the files out of a FAT file system, which not every kernel
// mounts.
func (s share) compareExtracted(ctx context.Context, h host.Host, file, at string, found *differences) (err error) {
	copied := filepath.Join(at, "files")
	if err := os.Mkdir(copied, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(copied)) }()
	image := fmt.Sprintf("%s@@%d", file, s.Start)
	listing, err := h.Output(ctx, mtool("mdir", "-b", "-i", image, "::/"))
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(listing)) > 0 {
		if err := h.Run(ctx, mtool("mcopy", "-s", "-Q", "-n", "-i", image, "::/*", copied)); err != nil {
			return err
		}
	}
	return s.compare(ctx, copied, describeContent, found)
}

// A describer says what there is to know of a file, by what it is called: the facts
// of two files that are alike are the same.
type describer func(path string, info fs.FileInfo) ([]fact, error)

type fact struct{ what, is string }

// comparison is one of a share with a folder that should be like it.
type comparison struct {
	share
	describe    describer
	found       *differences
	wanted, got names
}

// names is the first name of each file that has several.
type names map[[2]uint64]string

// of is the name under which the file was met first.
func (n names) of(name string, info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	if info.IsDir() || stat.Nlink < 2 {
		return name
	}
	id := [2]uint64{stat.Dev, stat.Ino}
	if _, met := n[id]; !met {
		n[id] = name
	}
	return n[id]
}

func (s share) compare(ctx context.Context, other string, describe describer, found *differences) error {
	c := comparison{share: s, describe: describe, found: found, wanted: names{}, got: names{}}
	return c.folder(ctx, ".", other)
}

// folder compares the folder name of the share with the one in other, and what is in
// them. What lies below a mount point is another share.
func (c comparison) folder(ctx context.Context, name, other string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.file(name, other); err != nil {
		return err
	}
	wanted, err := list(c.folderOf(name))
	if err != nil {
		return err
	}
	if slices.Contains(c.nested, name) {
		wanted = nil
	}
	got, err := list(filepath.Join(other, name))
	if err != nil {
		return err
	}
	for _, entry := range union(wanted, got) {
		inside := filepath.Join(name, entry)
		want, has := wanted[entry], got[entry]
		switch {
		case c.ignored(inside, want, has):
		case want == nil:
			c.found.add(c.inImage(inside), "is on the disk, but not in the tree")
		case has == nil:
			c.found.add(c.inImage(inside), "is in the tree, but not on the disk")
		case want.IsDir() && has.IsDir():
			err = c.folder(ctx, inside, other)
		default:
			err = c.file(inside, other)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ignored is for what is of no use on a disk that nobody runs from: a socket, and a
// file system's own folder for what a check finds.
func (c comparison) ignored(name string, want, has fs.DirEntry) bool {
	socket := func(entry fs.DirEntry) bool { return entry != nil && entry.Type()&fs.ModeSocket != 0 }
	return name == "lost+found" && want == nil || socket(want) || socket(has)
}

func (c comparison) folderOf(name string) string { return filepath.Join(c.share.folder, name) }
func (c comparison) inImage(name string) string  { return filepath.Join(c.Mount, name) }

// file compares one file with its like.
func (c comparison) file(name, other string) error {
	wantPath, hasPath := c.folderOf(name), filepath.Join(other, name)
	want, err := os.Lstat(wantPath)
	if err != nil {
		return err
	}
	has, err := os.Lstat(hasPath)
	if err != nil {
		return err
	}
	wanted, err := c.describe(wantPath, want)
	if err != nil {
		return err
	}
	got, err := c.describe(hasPath, has)
	if err != nil {
		return err
	}
	if c.kind().HoldsTree() {
		wanted = append(wanted, fact{"first name", c.wanted.of(name, want)})
		got = append(got, fact{"first name", c.got.of(name, has)})
	}
	for _, what := range differing(wanted, got) {
		c.found.add(c.inImage(name), "%s is %s in the tree, %s on the disk", what, value(wanted, what), value(got, what))
	}
	return nil
}

func differing(wanted, got []fact) []string {
	var different []string
	for _, facts := range [][]fact{wanted, got} {
		for _, f := range facts {
			if value(wanted, f.what) != value(got, f.what) && !slices.Contains(different, f.what) {
				different = append(different, f.what)
			}
		}
	}
	return different
}

func value(facts []fact, what string) string {
	for _, f := range facts {
		if f.what == what {
			return f.is
		}
	}
	return "missing"
}

// describe is for file systems that hold a tree.
func describe(path string, info fs.FileInfo) ([]fact, error) {
	stat := info.Sys().(*syscall.Stat_t)
	facts := []fact{
		{"type", fmt.Sprintf("%06o", stat.Mode&unix.S_IFMT)},
		{"mode", fmt.Sprintf("%04o", stat.Mode&^unix.S_IFMT)},
		{"owner", fmt.Sprintf("%d:%d", stat.Uid, stat.Gid)},
		{"time", fmt.Sprintf("%d.%09d", stat.Mtim.Sec, stat.Mtim.Nsec)},
	}
	switch {
	case info.Mode().IsRegular():
		facts = append(facts, fact{"size", fmt.Sprint(stat.Size)})
	case info.Mode()&fs.ModeDevice != 0:
		facts = append(facts, fact{"device", fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))})
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		facts = append(facts, fact{"target", target})
	}
	attributes, err := files.Attributes(path)
	for name, value := range attributes {
		facts = append(facts, fact{"attribute " + name, fmt.Sprintf("%q", value)})
	}
	slices.SortFunc(facts, func(a, b fact) int { return strings.Compare(a.what, b.what) })
	return facts, err
}

// describeContent is for file systems that hold names and bytes alone.
func describeContent(path string, info fs.FileInfo) ([]fact, error) {
	facts := []fact{{"type", info.Mode().Type().String()}}
	if !info.Mode().IsRegular() {
		return facts, nil
	}
	digest, err := sha256Of(path)
	return append(facts, fact{"size", fmt.Sprint(info.Size())}, fact{"SHA-256", digest}), err
}

func sha256Of(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	digest := sha256.New()
	_, err = io.Copy(digest, file)
	return hex.EncodeToString(digest.Sum(nil)), err
}

// list is what is in a folder, by name.
func list(folder string) (map[string]fs.DirEntry, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	named := map[string]fs.DirEntry{}
	for _, entry := range entries {
		named[entry.Name()] = entry
	}
	return named, nil
}

func union(a, b map[string]fs.DirEntry) []string {
	var all []string
	for _, entries := range []map[string]fs.DirEntry{a, b} {
		for name := range entries {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
