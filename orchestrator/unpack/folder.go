package unpack

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// Folder gives the folder root, which is empty, what is in another one: a file system that is
// mounted.
func Folder(ctx context.Context, from, root string) error {
	t, err := openTree(root)
	if err != nil {
		return err
	}
	first := map[[2]uint64]string{} // names of files that have several
	return t.close(filepath.WalkDir(from, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, from), "/")
		if err := t.meet(name, 0); err != nil { // its size is that of the file system at most
			return err
		}
		if err := t.copy(ctx, path, name, first); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	}))
}

func (t *tree) copy(ctx context.Context, path, name string, first map[[2]uint64]string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	node := &rawdisk.Node{Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, Size: stat.Size, ModTime: time.Unix(stat.Mtim.Unix())}
	switch kindOf(node) {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFCHR, unix.S_IFBLK:
		if strings.HasPrefix(name, "/dev/") {
			return nil
		}
		return noDevices()
	case unix.S_IFLNK:
		if node.Target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	if !node.IsFolder() && stat.Nlink > 1 {
		id := [2]uint64{stat.Dev, stat.Ino}
		if other, met := first[id]; met {
			return t.link(name, other)
		}
		first[id] = name
	}
	if node.Attributes, err = files.Attributes(path); err != nil {
		return err
	}
	return t.put(name, node, func(to *os.File) error {
		in, err := files.OpenRegular(path)
		if err != nil {
			return err
		}
		defer in.Close()
		if err := to.Truncate(node.Size); err != nil {
			return err
		}
		return files.CopySparse(ctx, to, 0, in, 0, node.Size)
	})
}
