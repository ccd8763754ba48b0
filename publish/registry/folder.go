package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// folder is an opened folder. What is made, read and renamed in it is in it, and is
// a file of its own, whatever links others plant there.
type folder struct {
	*os.Root
	path  string
	owner files.Owner // of what is made
}

func openFolder(path string, owner files.Owner) (folder, error) {
	root, err := os.OpenRoot(path)
	return folder{root, path, owner}, err
}

// located is an error of something in the folder, with its whole path. A link that
// leads out of the folder is told as what it is.
func (f folder) located(err error) error {
	var cause error
	var name string
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		name, cause = link.New, link.Err
	} else if one, ok := errors.AsType[*fs.PathError](err); ok {
		name, cause = one.Path, one.Err
	} else {
		return err
	}
	if inside, err := filepath.Rel(f.path, name); err != nil || !filepath.IsLocal(inside) {
		name = filepath.Join(f.path, name)
	}
	if _, told := cause.(syscall.Errno); !told && cause.Error() == "path escapes from parent" { //nolint:errorlint // os has no name for it
		cause = syscall.ELOOP
	}
	return &fs.PathError{Op: "use", Path: name, Err: cause}
}

// regular opens a file that is there, whoever has it where it is only read. What is to
// be written has one name, and belongs to who writes it.
func (f folder) regular(name string, flag int) (*os.File, error) {
	named, err := f.Lstat(name)
	if err == nil {
		err = isFile(name, named)
	}
	if err != nil {
		return nil, f.located(err)
	}
	file, err := f.OpenFile(name, flag|unix.O_NONBLOCK, 0) // a FIFO would hang, if one takes its place
	if err != nil {
		return nil, f.located(err)
	}
	if err := f.same(file, named, flag != os.O_RDONLY); err != nil {
		file.Close()
		return nil, f.located(&fs.PathError{Op: "open", Path: name, Err: err})
	}
	return file, nil
}

func isFile(name string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "open", Path: name, Err: syscall.EEXIST}
	}
	return nil
}

// same makes sure that what was opened is the file of that name, and where it is to be
// written, that nobody else has it.
func (f folder) same(file *os.File, named fs.FileInfo, write bool) error {
	open, err := file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(named, open) {
		return syscall.EEXIST
	}
	if stat, ok := open.Sys().(*syscall.Stat_t); write && (!ok || stat.Nlink != 1 || !f.owner.Is(stat.Uid)) {
		return errNotOwn
	}
	return nil
}

var errNotOwn = errors.New("the file belongs to somebody else, or has another name as well")

// create makes a file that is not there yet, and is handed over.
func (f folder) create(name string, mode fs.FileMode) (*os.File, error) {
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, f.located(err)
	}
	if err := f.owner.GiveOpen(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// replace writes a file through to the disk and gives it its name.
func (f folder) replace(stage, name string, content []byte) error {
	file, err := f.create(stage, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return f.rename(stage, name)
}

func (f folder) rename(from, to string) error { return f.located(f.Rename(from, to)) }

// make makes folders below one another where there are none.
func (f folder) make(names ...string) error {
	name := ""
	for _, one := range names {
		name = filepath.Join(name, one)
		if err := f.makeOne(name); err != nil {
			return err
		}
	}
	return nil
}

func (f folder) makeOne(name string) error {
	err := f.Mkdir(name, 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return f.located(err)
	}
	info, known := f.Lstat(name)
	if known != nil {
		return f.located(known)
	}
	if !info.IsDir() {
		cause := syscall.ENOTDIR
		if info.Mode()&fs.ModeSymlink != 0 {
			cause = syscall.ELOOP
		}
		return f.located(&fs.PathError{Op: "mkdir", Path: name, Err: cause})
	}
	if err != nil { // there was one
		return nil
	}
	made, err := f.Open(name)
	if err != nil {
		return f.located(err)
	}
	defer made.Close()
	return errors.Join(f.owner.GiveOpen(made), f.sync(filepath.Dir(name)))
}

// writable is why nothing can be made in a folder, or nil.
func (f folder) writable(name string) error {
	opened, err := f.Open(name)
	if err != nil {
		return f.located(err)
	}
	defer opened.Close()
	if err := unix.Faccessat(int(opened.Fd()), ".", unix.W_OK, unix.AT_EACCESS); err != nil {
		return f.located(&fs.PathError{Op: "write to", Path: name, Err: err})
	}
	return nil
}

// sync makes the names in a folder last.
func (f folder) sync(name string) error {
	opened, err := f.Open(name)
	if err != nil {
		return f.located(err)
	}
	defer opened.Close()
	return files.SyncOpen(opened)
}

var errLocked = errors.New("another process has locked it")

// locked opens a file for this process alone, and makes it where there is none.
// errLocked says that another process has it. flag is how one that is there is used.
func (f folder) locked(name string, flag int) (*os.File, error) {
	for {
		file, err := f.create(name, 0o666)
		if errors.Is(err, fs.ErrExist) {
			file, err = f.regular(name, flag)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was renamed meanwhile
		}
		if err != nil {
			return nil, err
		}
		locked, err := f.lock(file, name)
		if err == nil && locked {
			return file, nil
		}
		file.Close()
		if err != nil {
			return nil, err
		}
	}
}

// lock says whether the file got locked and still has its name: whoever had it
// locked before may have given it another one meanwhile.
func (f folder) lock(file *os.File, name string) (bool, error) {
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false, errLocked
	} else if err != nil {
		return false, f.located(&fs.PathError{Op: "lock", Path: name, Err: err})
	}
	return f.has(file, name), nil
}

// has says whether a file that is open has that name.
func (f folder) has(file *os.File, name string) bool {
	open, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := f.Lstat(name)
	return err == nil && os.SameFile(open, there)
}

// FolderFS is the files below a folder in an opened one. It opens regular files
// alone, and nothing outside that folder.
func FolderFS(root *os.Root, name string) fs.FS { return folderFS{root, name} }

type folderFS struct {
	root *os.Root
	name string
}

// Open implements fs.FS. What it gives is an *os.File.
func (f folderFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	outer := folder{Root: f.root, path: f.root.Name()}
	inner, err := f.root.OpenRoot(f.name)
	if err != nil {
		return nil, outer.located(err)
	}
	defer func() { _ = inner.Close() }()
	return folder{Root: inner, path: filepath.Join(outer.path, f.name)}.regular(name, os.O_RDONLY)
}
