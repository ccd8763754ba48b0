package guest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/rawdisk"
	"github.com/btw-img/btw-img/orchestrator/unpack"
)

// Snapshot is all that a disk has under its names, "/" first. The contents of files are
// those that the disk has when they are read.
type Snapshot map[string]*rawdisk.Node

// Look takes a snapshot of a disk, which is an ext4 file system. clean says whether it was
// unmounted.
func Look(disk *os.File) (s Snapshot, clean bool, err error) {
	info, err := disk.Stat()
	if err != nil {
		return nil, false, err
	}
	tree, kind, err := rawdisk.Open(disk, info.Size())
	if err == nil && (tree == nil || kind != "ext4") {
		err = rawdisk.Damaged("it is no longer ext4, but %q", kind)
	}
	if err != nil {
		return nil, false, err
	}
	root, err := tree.Root()
	if err != nil {
		return nil, false, err
	}
	l := looking{tree: tree, Snapshot: Snapshot{}}
	return l.Snapshot, rawdisk.Unmounted(tree), l.add("/", root)
}

// Copy copies the content of a file on the disk, of no more than some bytes, to a new file of
// the host. copied is its size, 0 where the disk has no such file.
func (s Snapshot) Copy(ctx context.Context, name, target string, most int64) (copied int64, err error) {
	node := s[name]
	if node == nil || !node.IsRegular() || node.Size > most {
		return 0, nil
	}
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	return node.Size, errors.Join(unpack.ContentOf(ctx, node)(file), file.Close())
}

type looking struct {
	Snapshot
	tree   rawdisk.Tree
	bounds rawdisk.Bounds
}

func (l *looking) add(name string, node *rawdisk.Node) error {
	if err := l.bounds.Meet(name, node); err != nil {
		return err
	}
	node.Facts = nil // which nobody asks for, and which take room
	l.Snapshot[name] = node
	if !node.IsFolder() {
		return nil
	}
	inside, err := l.tree.List(node)
	for entry, its := range inside {
		if err == nil {
			err = l.add(path.Join(name, entry), its)
		}
	}
	return err
}

// Change is what a name has become.
type Change struct {
	Path  string
	Inode *rawdisk.Node // nil where it is no more
	Link  string        // name before it that has the same file; "" for none
}

// Changes is what differs between two snapshots of a disk, folders before what is in them.
// Names that are skipped, with all below them, and sockets, which are nothing by themselves,
// are left out.
func Changes(before, after Snapshot, skip func(name string) bool) []Change {
	var all []Change
	names := slices.Sorted(maps.Keys(after))
	for name := range before {
		if after[name] == nil {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, comparePaths)
	linked := map[uint64]string{}
	var under string // a name whose folder is skipped, or gone
	for _, name := range names {
		if under != "" && strings.HasPrefix(name, under+"/") {
			continue
		}
		was, is := before[name], after[name]
		switch {
		case skip(name):
			under = name
		case is == nil:
			all, under = append(all, Change{Path: name}), name
		case kindOf(is) == unix.S_IFSOCK:
		case kindOf(is) == unix.S_IFDIR:
			if was == nil || !alike(was, is) {
				all = append(all, Change{Path: name, Inode: is})
			}
		case was == nil || was.Number != is.Number || was.State != is.State:
			all = append(all, Change{Path: name, Inode: is, Link: linked[is.Number]})
			if linked[is.Number] == "" {
				linked[is.Number] = name
			}
		}
	}
	return all
}

// stateFolders hold a folder for each service, whose files belong together.
var stateFolders = []string{"/var/lib/", "/var/opt/", "/srv/", "/opt/"}

// stateFolder is the folder of the service that a name belongs to, "" for none.
func stateFolder(name string) string {
	for _, folder := range stateFolders {
		if rest, is := strings.CutPrefix(name, folder); is {
			service, _, _ := strings.Cut(rest, "/")
			if service != "systemd" {
				return folder + service
			}
		}
	}
	return ""
}

// SinceUp is what has changed since a guest was up, given its disk before it started, when
// it was up, and when it was off. What its start alone has changed is left out, but for
// services whose state has changed afterwards, too: theirs is taken whole.
func SinceUp(pristine, up, off Snapshot, skip func(name string) bool) []Change {
	touched := map[string]bool{}
	for _, change := range Changes(up, off, skip) {
		touched[stateFolder(change.Path)] = true
	}
	delete(touched, "")
	before := Snapshot{}
	for name, inode := range up {
		if !touched[stateFolder(name)] {
			before[name] = inode
		}
	}
	for name, inode := range pristine {
		if touched[stateFolder(name)] {
			before[name] = inode
		}
	}
	return Changes(before, off, skip)
}

// comparePaths orders names so that what is in a folder follows it at once.
func comparePaths(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// alike says whether folders are, but for what is in them.
func alike(a, b *rawdisk.Node) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && maps.Equal(a.Attributes, b.Attributes)
}

// Apply makes the changes in the tree at root, which is as it was before them. after is
// what the disk has: where the tree lacks a folder, it gets that one. No link of the tree is
// followed.
func Apply(ctx context.Context, changes []Change, after Snapshot, root string) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	t := taking{ctx: ctx, after: after, root: fd}
	for _, change := range changes {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.take(change); err != nil {
			return fmt.Errorf("take %s from the guest: %w", change.Path, err)
		}
	}
	for _, name := range slices.Backward(t.folders) { // nothing changes in them any more
		err := t.in(name, func(folder int, base string) error { return unpack.SetTime(folder, base, after[name].ModTime) })
		if err != nil {
			return fmt.Errorf("take %s from the guest: %w", name, err)
		}
	}
	return nil
}

type taking struct {
	ctx     context.Context
	after   Snapshot
	root    int
	folders []string // that were made, or changed
}

func (t *taking) take(c Change) error {
	if c.Inode != nil {
		return t.in(c.Path, func(folder int, base string) error { return t.put(folder, base, c) })
	}
	folder, err := t.open(path.Dir(c.Path))
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(folder) }()
	return unpack.Remove(folder, path.Base(c.Path))
}

// gone says whether an error is of a folder that is not there, or is none.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// open opens a folder of the tree, on a way without links.
func (t *taking) open(name string) (int, error) {
	return unix.Openat2(t.root, path.Join(".", name), &unix.OpenHow{
		Flags: unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// in does something with a name in its folder, which is made where the tree has none.
func (t *taking) in(name string, do func(folder int, base string) error) error {
	if name == "/" {
		return do(t.root, ".")
	}
	parent := path.Dir(name)
	folder, err := t.open(parent)
	if gone(err) && t.after[parent] != nil && parent != "/" {
		err = t.take(Change{Path: parent, Inode: t.after[parent]})
		if err == nil {
			folder, err = t.open(parent)
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(folder) }()
	return do(folder, path.Base(name))
}

// put makes a name what it is on the disk.
func (t *taking) put(folder int, base string, c Change) error {
	inode := c.Inode
	if kindOf(inode) == unix.S_IFDIR {
		t.folders = append(t.folders, c.Path)
	}
	if there, err := unpack.Kind(folder, base); err != nil {
		return err
	} else if there == unix.S_IFDIR && kindOf(inode) == unix.S_IFDIR {
		return unpack.Dress(folder, base, inode)
	}
	if err := unpack.Remove(folder, base); err != nil {
		return err
	}
	if c.Link != "" {
		return t.in(c.Link, func(other int, its string) error { return unix.Linkat(other, its, folder, base, 0) })
	}
	if err := unpack.Create(folder, base, inode, unpack.ContentOf(t.ctx, inode)); err != nil {
		return err
	}
	return errors.Join(unpack.Dress(folder, base, inode), unpack.SetTime(folder, base, inode.ModTime))
}

func kindOf(node *rawdisk.Node) uint32 { return node.Mode & unix.S_IFMT }
