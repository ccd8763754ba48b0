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

// BindAll is a read-only bind mount of source, with all that is mounted below it.
func BindAll(source, target string) Mount {
	return Mount{Source: source, Target: target, Flags: unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY}
}

// Mount implements Host. A read-only bind is remounted, since the kernel
// ignores MS_RDONLY on the first call (mount(2)).
func (l *Local) Mount(m Mount) (func() error, error) {
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	release := func() error { return unmount(m.Target) }
	if m.Flags&unix.MS_REC != 0 {
		release = func() error { return unix.Unmount(m.Target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) } // what is below it, too
	}
	if m.Flags&unix.MS_BIND != 0 && m.Flags&unix.MS_RDONLY != 0 {
		if err := makeReadOnly(m); err != nil {
			return nil, errors.Join(fmt.Errorf("%s read-only: %w", m, err), release())
		}
	}
	return release, nil
}

// makeReadOnly keeps the other flags of the mount, which a user namespace may not
// change (mount_setattr(2)).
func makeReadOnly(m Mount) error {
	flags := uint(unix.AT_SYMLINK_NOFOLLOW)
	if m.Flags&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(unix.AT_FDCWD, m.Target, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		err = unix.Mount("", m.Target, "", m.Flags|unix.MS_REMOUNT, "")
	}
	return err
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
