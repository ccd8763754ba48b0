package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// asLocal is err, as the host's fault where it is one of a file of this machine.
func asLocal(err error) error { return asLocalBelow("", err) }

// asLocalBelow is asLocal for a folder whose files belong together: what mends one
// of them is to be done to all.
func asLocalBelow(top string, err error) error {
	if _, told := errors.AsType[*fail.Error](err); told {
		return err
	}
	path, ok := failedPath(err)
	if !ok {
		return err
	}
	return &fail.Error{Kind: fail.Host, Err: err, Hint: localHint(path, top, err)}
}

// IsLocal says whether a failure is one of a file or folder of this machine.
func IsLocal(err error) bool {
	_, local := failedPath(err)
	return local
}

// failedPath is the file or folder that could not be used.
func failedPath(err error) (string, bool) {
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		return link.New, true
	}
	if one, ok := errors.AsType[*fs.PathError](err); ok {
		return one.Path, true
	}
	return "", false
}

const elsewhere = "name another folder ('pull -o DIR', 'push NAME oci:DIR')"

var localHints = []struct {
	cause error
	hint  string
}{
	{syscall.ENOSPC, "free some space, or " + elsewhere},
	{syscall.EDQUOT, "free some space, or " + elsewhere},
	{syscall.EROFS, "the file system is read-only: " + elsewhere},
	{syscall.EISDIR, "something else has that name: move it away, or " + elsewhere},
	{syscall.ENOTDIR, "something else has that name: move it away, or " + elsewhere},
	{syscall.EEXIST, "something else has that name: move it away, or " + elsewhere},
	{syscall.ELOOP, "a link is in the way: remove it, or " + elsewhere},
	{errNotOwn, "somebody may have planted it: remove it, or " + elsewhere},
	{syscall.EIO, "the disk that holds it, or its file system, is damaged"},
}

func localHint(path, top string, err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return permissionHint(path, top)
	}
	for _, h := range localHints {
		if errors.Is(err, h.cause) {
			return h.hint
		}
	}
	return "check the file and its folder, or " + elsewhere
}

// permissionHint is how an ordinary user gets at what root left there, or whom to
// ask.
func permissionHint(path, top string) string {
	for ; ; path = filepath.Dir(path) {
		var stat unix.Stat_t
		if unix.Lstat(path, &stat) == nil && unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS) != nil {
			if stat.Uid != 0 || os.Geteuid() == 0 {
				return "ask the owner of " + path + " for the right to use it, or " + elsewhere
			}
			if inside, err := filepath.Rel(top, path); top != "" && err == nil && filepath.IsLocal(inside) {
				path = top
			}
			return fmt.Sprintf("it belongs to root; to make it yours, run: sudo chown -R %d:%d %s", os.Geteuid(), os.Getegid(), text.Word(path))
		}
		if path == filepath.Dir(path) {
			return "check the rights on it, or " + elsewhere
		}
	}
}
