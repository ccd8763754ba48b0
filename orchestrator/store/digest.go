package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// complete adds the digests of the files' contents and all extended attributes, on all
// processors at once.
func (want *inventory) complete(ctx context.Context, tree string) error {
	root, err := unix.Open(tree, openFolder, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: tree, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	var next atomic.Int64
	workers, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			buffer := make([]byte, 256<<10)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(want.entries) {
					return nil
				}
				if err := want.entries[i].complete(ctx, root, tree, buffer); err != nil {
					return err
				}
			}
		})
	}
	return workers.Wait()
}

func (e *entry) complete(ctx context.Context, root int, tree string, buffer []byte) (err error) {
	if e.Xattrs, err = xattrs(filepath.Join(tree, e.Path), buffer); err != nil || !e.is(unix.S_IFREG) {
		return err
	}
	e.SHA256, err = digest(ctx, root, e.Path, buffer)
	return err
}

// digest is the SHA-256 of a file in an open folder.
func digest(ctx context.Context, folder int, path string, buffer []byte) (_ string, err error) {
	fd, err := unix.Openat(folder, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	sum := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := unix.Read(fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		sum.Write(buffer[:n])
	}
}

// kept says whether an extended attribute belongs to a tree. Others, such as the labels
// of SELinux, come from the host, or cannot be seen in a user namespace (trusted).
func kept(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

// xattrs is the extended attributes of a name itself, for an entry.
func xattrs(path string, buffer []byte) (string, error) {
	names, err := xattrNames(path, buffer)
	if err != nil || len(names) == 0 {
		return "", err
	}
	var all []string
	for _, name := range names {
		value, err := xattr(path, name)
		if err != nil {
			return "", err
		}
		all = append(all, strconv.Quote(name+"="+string(value)))
	}
	return strings.Join(all, " "), nil
}

// xattrNames is the names of the extended attributes that are kept, sorted; none where
// the file system has none.
func xattrNames(path string, buffer []byte) ([]string, error) {
	n, err := unix.Llistxattr(path, buffer)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "list attributes of", Path: path, Err: err}
	}
	var names []string
	for name := range bytes.SplitSeq(buffer[:n], []byte{0}) {
		if kept(string(name)) {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

func xattr(path, name string) ([]byte, error) {
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX of linux/limits.h
	n, err := unix.Lgetxattr(path, name, value)
	if err != nil {
		return nil, &fs.PathError{Op: "read attribute " + name + " of", Path: path, Err: err}
	}
	return value[:n], nil
}
