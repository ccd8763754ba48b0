package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// errInUse is why a lock cannot be had now.
var errInUse = errors.New("in use")

// hold takes the lock of a layer or a folder of work, as flock(2) has it: LOCK_SH to
// use it, LOCK_EX|LOCK_NB to remove it. It is held until the file is closed or the
// process ends. The file is nil where the folder is not there, and errInUse is the
// error where LOCK_NB is given and others hold the lock. A lock is made where there is
// none, so that whatever is left of a folder can be removed.
func hold(folder string, how int) (*os.File, error) {
	path := filepath.Join(folder, lockName)
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		here := false
		if err = flock(file, how); err == nil {
			here, err = isAt(file, path)
		}
		if here {
			return file, nil
		}
		file.Close()
		if err != nil {
			return nil, err
		}
	}
}

func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return errInUse
		case err != nil:
			return &fs.PathError{Op: "lock", Path: file.Name(), Err: err}
		}
		return nil
	}
}

// isAt says whether an open file still has the name; the folder may have been moved
// away, and another have come in its place.
func isAt(file *os.File, path string) (bool, error) {
	open, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, named), err
}

// newWork makes a folder of work whose lock is held. Where Collect is faster than the
// lock, another one is made.
func (s *Store) newWork() (folder string, lock *os.File, err error) {
	for {
		folder := s.workFolder()
		if err := os.Mkdir(folder, 0o700); err != nil {
			return "", nil, err
		}
		lock, err := hold(folder, unix.LOCK_SH|unix.LOCK_NB)
		if lock != nil {
			return folder, lock, nil
		}
		if err != nil && !errors.Is(err, errInUse) {
			return "", nil, errors.Join(err, os.RemoveAll(folder))
		}
	}
}

// erase removes a folder of work. Its lock goes last, so that others leave it alone
// meanwhile.
func erase(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var problems []error
	for _, entry := range entries {
		if entry.Name() != lockName {
			problems = append(problems, os.RemoveAll(filepath.Join(folder, entry.Name())))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	// Somebody else who looks whether it is locked may put a new lock there meanwhile.
	for range 100 {
		if err = os.RemoveAll(folder); !errors.Is(err, unix.ENOTEMPTY) {
			break
		}
	}
	return err
}
