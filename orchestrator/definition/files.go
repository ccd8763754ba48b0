package definition

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// The largest files that are read, in bytes.
const (
	largestDefinition = 1 << 20
	largestKeyring    = 16 << 20
	largestTemplate   = 4 << 20
	largestCopy       = 4 << 30 // of a file for the image; more comes in a tarball
	unlimited         = 1<<63 - 1
)

// folder is a folder of the host as a file system that holds folders and
// regular files alone. Opening what is neither fails at once, where os.DirFS
// would wait for a writer of a FIFO or act on a device.
type folder struct {
	fs.FS // of the same folder
	path  string
}

// Folder is the file system of the host's folder at path, for NewLibrary.
func Folder(path string) fs.FS { return folder{os.DirFS(path), path} }

// Open implements fs.FS. The check before opening is for devices, on which
// opening alone may act; the one after it is for what was exchanged meanwhile.
func (f folder) Open(name string) (fs.File, error) {
	info, err := f.Stat(name)
	if err != nil {
		return nil, err
	}
	if err := plain(name, info); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(f.path, filepath.FromSlash(name)), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err = file.Stat(); err == nil {
		err = plain(name, info)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Stat implements fs.StatFS.
func (f folder) Stat(name string) (fs.FileInfo, error) { return fs.Stat(f.FS, name) }

// ReadDir implements fs.ReadDirFS.
func (f folder) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.FS, name) }

// Lstat implements fs.ReadLinkFS.
func (f folder) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(f.FS, name) }

// ReadLink implements fs.ReadLinkFS.
func (f folder) ReadLink(name string) (string, error) { return fs.ReadLink(f.FS, name) }

// unfit is why a file that is there is not read.
type unfit struct{ what, mend string }

func (u unfit) Error() string { return u.what }

var kindsOfFiles = map[fs.FileMode]string{
	0: "a file", fs.ModeDir: "a folder", fs.ModeNamedPipe: "a named pipe", fs.ModeSocket: "a socket",
	fs.ModeDevice: "a device", fs.ModeDevice | fs.ModeCharDevice: "a device",
}

func kindOf(info fs.FileInfo) string {
	return cmp.Or(kindsOfFiles[info.Mode().Type()], "something else")
}

func notRegular(info fs.FileInfo) error {
	return unfit{"is " + kindOf(info) + ", not a regular file", "put a regular file there"}
}

// plain is the error of opening what is neither a folder nor a regular file.
func plain(name string, info fs.FileInfo) error {
	if info.IsDir() || info.Mode().IsRegular() {
		return nil
	}
	return &fs.PathError{Op: "open", Path: name, Err: notRegular(info)}
}

// regular is the error of a file that is no regular one or larger than limit.
func regular(info fs.FileInfo, limit int64) error {
	switch {
	case !info.Mode().IsRegular():
		return notRegular(info)
	case info.Size() > limit:
		return unfit{fmt.Sprintf("has %d bytes", info.Size()), fmt.Sprintf("at most %s is read here", Size(limit))}
	}
	return nil
}

// readFile is the content of a regular file of at most limit bytes. It never
// reads more than the size that the file is said to have: what the kernel
// makes up while it is read has size 0, and may be endless.
func readFile(files fs.FS, name string, limit int64) ([]byte, error) {
	file, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := regular(info, limit); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, info.Size()))
}

// checkFile says why the file cannot be used, without opening it: the user who
// checks a definition need not be the one who may read all that it names.
func checkFile(files fs.FS, name string, limit int64) error {
	info, err := fs.Stat(files, name)
	if err != nil {
		return err
	}
	return regular(info, limit)
}

// isThere says whether there is anything of that name, a link that leads
// nowhere and what may not be looked at too.
func isThere(files fs.FS, name string) bool {
	_, err := fs.Lstat(files, name)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, syscall.ENOTDIR)
}

// because is what err says of the file or folder, and what mends it.
func because(files fs.FS, name string, err error) (what, mend string) {
	if reason, ok := errors.AsType[unfit](err); ok {
		return reason.what, reason.mend
	}
	if target, linked := fs.ReadLink(files, name); linked == nil && errors.Is(err, fs.ErrNotExist) {
		return "is a link to " + target + ", which is not there", "correct the link or remove it"
	}
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathError.Err
	}
	return "cannot be read: " + err.Error(), "make it readable for the user who runs vmctl"
}
