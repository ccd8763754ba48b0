package files

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Openat2 is openat2(2), again while the kernel cannot tell whether a way that goes up stays
// where it must: whenever something is renamed or mounted meanwhile, anywhere (EAGAIN).
func Openat2(folder int, name string, how *unix.OpenHow) (fd int, err error) {
	return again(func() (int, error) { return unix.Openat2(folder, name, how) })
}

const mostTries = 1000 // of which each takes microseconds

func again(open func() (int, error)) (fd int, err error) {
	for range mostTries {
		if fd, err = open(); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}
