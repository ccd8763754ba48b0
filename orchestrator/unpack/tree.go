package unpack

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// damaged is the error of what is not as it must be.
func damaged(format string, args ...any) error {
	return fail.New(fail.Build, "", "get it again from where it comes from", "damaged: "+format, args...)
}

// What a tree may have at most. The numbers are far beyond any machine's.
const (
	mostFiles   = 5_000_000
	mostBytes   = 256 << 30
	deepestPath = 512
)

// tree is the folder that files are made in. Names in it begin with a slash; links on the way
// to them lead to where they do for programs that have the tree as their root.
type tree struct {
	root  int
	times map[string]time.Time // of folders, which change as long as files are made
	met   int                  // files
	bytes int64
}

// openTree opens a folder with nothing in it.
func openTree(root string) (*tree, error) {
	t, err := reopenTree(root)
	if err != nil {
		return nil, err
	}
	top := &rawdisk.Node{Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}
	return t, t.put("/", top, nil)
}

// reopenTree opens a tree that there is.
func reopenTree(root string) (*tree, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	return &tree{root: fd, times: map[string]time.Time{}}, nil
}

// meet counts a file of so many bytes.
func (t *tree) meet(name string, size int64) error {
	t.met++
	t.bytes += max(size, 0)
	switch {
	case t.met > mostFiles:
		return damaged("it has more than %d files", mostFiles)
	case size < 0 || t.bytes > mostBytes:
		return damaged("its files have more than %d GiB", mostBytes>>30)
	case strings.Count(name, "/") > deepestPath:
		return damaged("it has folders more than %d deep", deepestPath)
	}
	return nil
}

// folder opens a folder; one that is not there is made, or else an fs.ErrNotExist.
func (t *tree) folder(name string, make bool) (int, error) {
	fd, err := files.Openat2(t.root, "."+name, &unix.OpenHow{
		Flags: unix.O_DIRECTORY | unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if !make || !errors.Is(err, unix.ENOENT) || name == "/" {
		if err != nil {
			err = &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, err
	}
	parent, err := t.folder(path.Dir(name), true)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }()
	node := &rawdisk.Node{Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}
	if err := Create(parent, path.Base(name), node, nil); err != nil { // a link that leads nowhere is in its place
		return -1, &fs.PathError{Op: "make", Path: name, Err: err}
	}
	t.times[name] = node.ModTime
	if err := Dress(parent, path.Base(name), node); err != nil {
		return -1, err
	}
	return t.folder(name, false)
}

// put makes a name what a node is, in place of what is there. Folders stay, with what is in
// them.
func (t *tree) put(name string, node *rawdisk.Node, fill func(*os.File) error) error {
	isFolder := kindOf(node) == unix.S_IFDIR
	if isFolder {
		t.times[name] = node.ModTime
	}
	if name == "/" {
		if !isFolder {
			return damaged("its root is no folder")
		}
		return Dress(t.root, ".", node)
	}
	folder, err := t.folder(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(folder) }()
	base := path.Base(name)
	there, err := Kind(folder, base)
	if stays := isFolder && there == unix.S_IFDIR; err == nil && !stays {
		if there != 0 {
			err = Remove(folder, base)
		}
		if err == nil {
			err = Create(folder, base, node, fill)
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(Dress(folder, base, node), SetTime(folder, base, node.ModTime))
}

// link gives a file that is there another name.
func (t *tree) link(name, other string) error {
	from, err := t.folder(path.Dir(other), false)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(from) }()
	to, err := t.folder(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(to) }()
	kind, err := Kind(from, path.Base(other))
	switch {
	case err != nil:
		return err
	case kind == 0 || kind == unix.S_IFDIR || name == other || name == "/":
		return damaged("it is another name of %q, which is no file that is there", other)
	}
	if err := Remove(to, path.Base(name)); err != nil {
		return err
	}
	return unix.Linkat(from, path.Base(other), to, path.Base(name), 0)
}

// close sets the times of folders, in which nothing changes any more.
func (t *tree) close(err error) error {
	defer func() { _ = unix.Close(t.root) }()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t.times)) {
		if err := t.setTime(name); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) setTime(name string) error {
	if name == "/" {
		return SetTime(t.root, ".", t.times[name])
	}
	folder, err := t.folder(path.Dir(name), false)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // a later layer has removed it
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(folder) }()
	kind, err := Kind(folder, path.Base(name))
	if err != nil || kind != unix.S_IFDIR {
		return err
	}
	return SetTime(folder, path.Base(name), t.times[name])
}
