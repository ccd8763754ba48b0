package machine

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// A lock belongs to an open file and all copies of its descriptor (fcntl(2), open file
// description locks): QEMU inherits one and holds the lock until it ends, however.

// wholeFile is such a lock on all of a file.
func wholeFile() *unix.Flock_t {
	return &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
}

// errHeld is a lock that somebody holds.
var errHeld = errors.New("another process holds it")

// acquire takes the lock of that file at once.
func acquire(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, wholeFile())
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, errHeld
	}
	return nil, &fail.Error{Kind: fail.Host, Op: path, Err: fmt.Errorf("lock it: %w", err), Hint: "name a folder of another file system in XDG_STATE_HOME"}
}

// held says whether anybody holds the lock, without taking it.
func held(path string) bool {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	lock := wholeFile()
	return unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, lock) == nil && lock.Type != unix.F_UNLCK
}
