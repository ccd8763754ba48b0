// Package files is how results get onto the disk: they belong to the user who
// called sudo, so that nothing needs root once the work is done, and they are
// still there after a power failure.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Owner gets files and folders. The zero value leaves them with whoever runs the
// process.
type Owner struct {
	uid, gid int
	known    bool
}

// Caller is who called sudo, as sudo(8) says in the environment.
func Caller() Owner {
	uid, err := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 31)
	if err != nil || os.Geteuid() != 0 {
		return Owner{}
	}
	gid, err := strconv.ParseUint(os.Getenv("SUDO_GID"), 10, 31)
	return Owner{uid: int(uid), gid: int(gid), known: err == nil}
}

// IDs is the owner's user and group, root's where there is none.
func (o Owner) IDs() (uid, gid int) {
	if !o.known {
		return 0, 0
	}
	return o.uid, o.gid
}

// Give hands one file or folder over, if it is root's; a link is handed over
// itself. A file that has other names as well stays as it is, for somebody may
// have planted a name for a file of the system.
func (o Owner) Give(path string) error {
	if !o.known {
		return nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	return o.give(fd, path)
}

// GiveOpen is Give for a file or folder that is open, whatever its name has become.
func (o Owner) GiveOpen(file *os.File) error {
	if !o.known {
		return nil
	}
	return o.give(int(file.Fd()), file.Name())
}

func (o Owner) give(fd int, path string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Uid != 0 || stat.Mode&unix.S_IFMT != unix.S_IFDIR && stat.Nlink != 1 {
		return nil
	}
	err := unix.Fchownat(fd, "", o.uid, o.gid, unix.AT_EMPTY_PATH)
	if err == nil || errors.Is(err, unix.EPERM) { // a file system that knows no owners
		return nil
	}
	return &fs.PathError{Op: "chown", Path: path, Err: err}
}

// Is says whether files of this user are the owner's, or of who runs the process.
func (o Owner) Is(uid uint32) bool {
	return int(uid) == os.Geteuid() || o.known && int(uid) == o.uid
}

// GiveFolder hands a folder and the files in it over.
func (o Owner) GiveFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := o.Give(filepath.Join(folder, entry.Name())); err != nil {
			return err
		}
	}
	return o.Give(folder)
}

// MakeFolders makes a folder and those above it where there are none, and hands
// over what it makes.
func (o Owner) MakeFolders(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := o.MakeFolders(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o755); errors.Is(err, fs.ErrExist) {
		return os.MkdirAll(path, 0o755) // an error where it is no folder
	} else if err != nil {
		return err
	}
	return errors.Join(o.Give(path), Sync(parent))
}

// Sync makes what was put into a folder, or renamed there, survive a power
// failure.
func Sync(folder string) error {
	file, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(SyncOpen(file), file.Close())
}

// SyncOpen is Sync for a folder that is open.
func SyncOpen(folder *os.File) error {
	err := folder.Sync()
	if errors.Is(err, fs.ErrInvalid) || errors.Is(err, unix.EINVAL) { // not every file system can
		return nil
	}
	return err
}
