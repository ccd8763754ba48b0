package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
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
	if e.Xattrs, err = xattrs(filepath.Join(tree, e.Path)); err != nil || !e.is(unix.S_IFREG) {
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

// xattrs is the extended attributes of a name itself, for an entry.
func xattrs(path string) (string, error) {
	found, err := files.Attributes(path)
	var all []string
	for _, name := range slices.Sorted(maps.Keys(found)) {
		all = append(all, strconv.Quote(name+"="+found[name]))
	}
	return strings.Join(all, " "), err
}
