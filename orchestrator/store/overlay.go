package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Names in a folder of work, while an overlay is mounted.
const (
	upperName   = "upper"
	workdirName = "work"
)

// Options of all overlays (the kernel's filesystems/overlayfs). Marks are kept in user.*
// attributes, since trusted.* ones need root outside of user namespaces. A layer must
// make sense without its mount: so no inode of it refers to another layer.
const overlayOptions = "userxattr,xino=off,metacopy=off,redirect_dir=nofollow,index=off"

// overlay is the mount of an overlay: layers, lowest first, and where what is written
// goes, in the work folder that it names; "" makes it read-only. Folders are named by
// descriptors: mount(2) takes a page of options, and a store's name may hold what has a
// meaning in them. They are to be closed after mounting.
func overlay(trees []string, work, at string) (m host.Mount, release func() error, err error) {
	var opened scope.Stack
	defer func() {
		if err != nil {
			opened.CloseInto(&err)
		}
	}()
	name := func(folder string) string {
		fd, opening := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if opening != nil {
			err = errors.Join(err, &fs.PathError{Op: "open", Path: folder, Err: opening})
			return ""
		}
		opened.Push("close "+folder, func() error { return unix.Close(fd) })
		return fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	m = host.Mount{Source: "overlay", Type: "overlay", Target: at, Flags: unix.MS_RDONLY}
	var lower []string
	for _, tree := range slices.Backward(trees) {
		lower = append(lower, name(tree))
	}
	m.Data = overlayOptions + ",lowerdir=" + strings.Join(lower, ":")
	if work != "" {
		// Volatile: unmounting must not wait until all that was written is on the disk.
		m.Flags = 0
		m.Data += ",volatile,upperdir=" + name(filepath.Join(work, upperName)) + ",workdir=" + name(filepath.Join(work, workdirName))
	}
	if len(m.Data) >= os.Getpagesize() {
		err = errors.Join(err, fail.New(fail.Build, "", "join entries of the definition", "%d layers are more than can be mounted at once", len(trees)))
	}
	return m, opened.Close, err
}

func mountOverlay(h host.Host, trees []string, work, at string) (unmount func() error, err error) {
	m, release, err := overlay(trees, work, at)
	if err != nil {
		return nil, err
	}
	unmount, err = h.Mount(m)
	err = scope.Join(err, release())
	if err == nil && work != "" {
		err = checkWritable(work, at)
	}
	if err != nil && unmount != nil {
		err = scope.Join(err, unmount())
	}
	return unmount, err
}

// checkWritable says whether an overlay can be written: the kernel mounts it read-only
// where the file system of its folder of work lacks something, and also where it is full.
func checkWritable(work, at string) error {
	var mounted, system unix.Statfs_t
	if err := errors.Join(unix.Statfs(at, &mounted), unix.Statfs(work, &system)); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	const bytes, inodes = 1 << 20, 16 // less is full
	switch {
	case mounted.Flags&unix.ST_RDONLY == 0:
		return nil
	case system.Bavail*uint64(system.Bsize) < bytes, system.Files > 0 && system.Ffree < inodes:
		return &fs.PathError{Op: "write in", Path: work, Err: unix.ENOSPC}
	}
	return &fs.PathError{Op: "write in the overlay of", Path: work, Err: unix.EROFS}
}

// bind mounts a tree as it is.
func bind(h host.Host, tree, at string, readOnly bool) (unmount func() error, err error) {
	var system unix.Statfs_t
	if err := unix.Statfs(tree, &system); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: tree, Err: err}
	}
	if system.Flags&unix.ST_NOEXEC != 0 {
		return nil, fail.New(fail.Host, "", hintOther, "programs cannot run in %s: its file system is mounted noexec", tree)
	}
	m := host.Bind(tree, at, readOnly)
	// A user namespace may not drop these when it makes the mount read-only.
	m.Flags |= uintptr(system.Flags) & (unix.ST_NOSUID | unix.ST_NODEV) // the same bits as MS_NOSUID, MS_NODEV
	return h.Mount(m)
}

// Mount mounts the layers, lowest first and each standing on all those before it,
// read-only at a folder, which is made where there is none. They are in use until the
// mount is released.
func (s *Store) Mount(h host.Host, layers []*Layer, at string) (release func() error, err error) {
	defer func() { err = explain("mount layers", err) }()
	var acquired scope.Stack
	defer func() {
		if err != nil {
			acquired.CloseInto(&err)
		}
	}()
	if len(layers) == 0 {
		return nil, errors.New("no layers given")
	}
	used, err := s.useAll(layers, &acquired)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, err
	}
	unmount, err := mountTrees(h, trees(used), at)
	if err != nil {
		return nil, err
	}
	acquired.Push("unmount", unmount)
	return acquired.Close, nil
}

func mountTrees(h host.Host, trees []string, at string) (unmount func() error, err error) {
	if len(trees) == 1 {
		return bind(h, trees[0], at, true)
	}
	return mountOverlay(h, trees, "", at)
}

// useAll takes the layers of a chain into use once more, until the stack is closed.
func (s *Store) useAll(layers []*Layer, until *scope.Stack) ([]*Layer, error) {
	if err := checkChain(layers); err != nil {
		return nil, err
	}
	used := make([]*Layer, len(layers))
	for i, layer := range layers {
		again, err := s.again(layer)
		if err != nil {
			return nil, err
		}
		used[i] = again
		until.Push("release layer "+layer.Key().short(), again.Release)
	}
	return used, nil
}

// trees is the trees of a chain that must be stacked for the whole: the topmost that is
// whole, and those above it.
func trees(layers []*Layer) []string {
	var trees []string
	for _, layer := range slices.Backward(layers) {
		trees = append(trees, layer.tree())
		if layer.record.Whole {
			break
		}
	}
	slices.Reverse(trees)
	return trees
}

// probe finds out once how layers can be made, by an overlay mounted at a folder.
func (s *Store) probe(h host.Host, at string) error {
	s.probing.Lock()
	defer s.probing.Unlock()
	if s.mode != Unknown {
		return nil
	}
	folder, lock, err := s.newWork()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := tryOwners(folder); err != nil {
		return errors.Join(err, erase(folder))
	}
	problem, err := tryOverlay(h, folder, at)
	if err = errors.Join(err, erase(folder)); err != nil {
		return err
	}
	if s.mode = Overlay; problem != nil {
		s.mode = Copy
		s.note("layers are whole copies, since no overlay can be used in %s: %v", s.folder, problem)
	}
	return nil
}

// Probe is how the store makes layers, which it tries with a mount at a folder. That one
// is made where there is none.
func (s *Store) Probe(h host.Host, at string) (Mode, error) {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return Unknown, err
	}
	if err := s.probe(h, at); err != nil {
		return Unknown, explain("try the store", err)
	}
	return s.Mode(), nil
}

// tryOwners is why files below a folder cannot have several owners, as those of a tree
// do: its file system knows none, or a server that it is on lets nobody give files away.
func tryOwners(folder string) error {
	const nobody = 65534
	file := filepath.Join(folder, "owned")
	if err := writeNew(file, nil); err != nil {
		return err
	}
	if err := os.Lchown(file, nobody, nobody); err != nil {
		return &fail.Error{Kind: fail.Host, Hint: hintOther + ", on a local disk", Err: fmt.Errorf("files in %s cannot belong to all users of an image: %w", filepath.Dir(folder), err)}
	}
	return nil
}

// tryOverlay is why overlays cannot be used below a folder. The error is what went wrong
// before that could be told.
func tryOverlay(h host.Host, folder, at string) (problem, err error) {
	const removed, replaced = "removed", "replaced"
	lower, upper := filepath.Join(folder, "lower"), filepath.Join(folder, upperName)
	for _, made := range []string{filepath.Join(lower, replaced, "hidden"), filepath.Join(lower, removed), upper, filepath.Join(folder, workdirName)} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			return nil, err
		}
	}
	unmount, problem := mountOverlay(h, []string{lower}, folder, at)
	if errors.Is(problem, unix.ENOSPC) {
		return nil, problem
	}
	if problem != nil {
		return problem, nil
	}
	problem = errors.Join(
		os.RemoveAll(filepath.Join(at, removed)),
		os.RemoveAll(filepath.Join(at, replaced)),
		os.Mkdir(filepath.Join(at, replaced), 0o755),
	)
	if err := unmount(); err != nil || errors.Is(problem, unix.ENOSPC) {
		return nil, errors.Join(problem, err)
	}
	if problem != nil {
		return problem, nil
	}
	var opaque [1]byte
	if _, err := unix.Lgetxattr(filepath.Join(upper, replaced), "user.overlay.opaque", opaque[:]); err != nil {
		return fmt.Errorf("a folder that was replaced is not marked: %w", err), nil
	}
	if info, err := os.Lstat(filepath.Join(upper, removed)); err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return errors.New("a name that was removed is not marked"), nil
	}
	return nil, nil
}

// likeRoot gives an overlay's upper folder what the root of the tree below has.
func likeRoot(upper, below string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(below, &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: below, Err: err}
	}
	if err := unix.Chown(upper, int(stat.Uid), int(stat.Gid)); err != nil {
		return &fs.PathError{Op: "chown", Path: upper, Err: err}
	}
	if err := unix.Chmod(upper, stat.Mode&^unix.S_IFMT); err != nil {
		return &fs.PathError{Op: "chmod", Path: upper, Err: err}
	}
	attributes, err := files.Attributes(below)
	if err != nil {
		return err
	}
	for name, value := range attributes {
		if strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if err := unix.Lsetxattr(upper, name, []byte(value), 0); err != nil {
			return &fs.PathError{Op: "set attribute " + name + " of", Path: upper, Err: err}
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{stat.Atim, stat.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyChain makes a folder that is a copy of the chain's tree, which is mounted at a folder
// meanwhile. Pieces on a whole tree need no overlay for that.
func copyChain(ctx context.Context, h host.Host, layers []*Layer, at, to string) error {
	all := trees(layers)
	above := layers[len(layers)-len(all)+1:]
	if slices.ContainsFunc(above, func(l *Layer) bool { return !l.record.Piece }) {
		return copyTree(ctx, h, all, at, to)
	}
	for _, tree := range all {
		if err := copyTree(ctx, h, []string{tree}, at, to); err != nil {
			return err
		}
	}
	return likeRoot(to, all[0])
}

func copyTree(ctx context.Context, h host.Host, trees []string, at, to string) (err error) {
	unmount, err := mountTrees(h, trees, at)
	if err != nil {
		return err
	}
	defer func() { err = scope.Join(err, unmount()) }()
	return h.Run(ctx, host.Cmd("cp", "--archive", "--preserve=xattr", "--reflink=auto", "--no-target-directory", "--", at, to))
}

// rootOf is the tree among those of a chain whose root folder is the root of them all.
func rootOf(layers []*Layer) string {
	for _, layer := range slices.Backward(layers) {
		if !layer.record.Piece {
			return layer.tree()
		}
	}
	return ""
}
