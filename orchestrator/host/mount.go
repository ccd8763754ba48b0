package host

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mount is one call of mount(2).
type Mount struct {
	Source string
	Target string
	Type   string
	Flags  uintptr // unix.MS_*
	Data   string
}

func (m Mount) String() string {
	return fmt.Sprintf("mount %s %s on %s", m.Type, m.Source, m.Target)
}

// Bind is a bind mount of source on target; read-only where asked.
func Bind(source, target string, readOnly bool) Mount {
	m := Mount{Source: source, Target: target, Flags: unix.MS_BIND}
	if readOnly {
		m.Flags |= unix.MS_RDONLY
	}
	return m
}

// Mount implements Host. A read-only bind is remounted, since the kernel
// ignores MS_RDONLY on the first call (mount(2)).
func (l *Local) Mount(m Mount) (func() error, error) {
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	release := func() error { return unmount(m.Target) }
	if m.Flags&unix.MS_BIND != 0 && m.Flags&unix.MS_RDONLY != 0 {
		if err := unix.Mount("", m.Target, "", m.Flags|unix.MS_REMOUNT, ""); err != nil {
			return nil, errors.Join(fmt.Errorf("%s read-only: %w", m, err), release())
		}
	}
	return release, nil
}

// unmount gives a file system that is still busy, with processes just killed
// for instance, two seconds to become idle.
func unmount(target string) error {
	var err error
	for range 40 {
		if err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: target, Err: err}
	}
	return nil
}

// Mknod implements Host.
func (l *Local) Mknod(path string, mode, major, minor uint32) error {
	err := unix.Mknod(path, mode, int(unix.Mkdev(major, minor)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	if err == nil {
		return os.Chmod(path, os.FileMode(mode&0o777))
	}
	return nil
}
