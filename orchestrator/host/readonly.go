package host

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ReadOnlyBut makes everything that this jail sees read-only, but for some folders. It does
// nothing outside a jail, where it would do so to the machine.
func ReadOnlyBut(folders ...string) (err error) {
	if os.Getpid() != 1 {
		return nil
	}
	mounts := make([]int, 0, len(folders))
	defer func() {
		for _, mount := range mounts {
			err = errors.Join(err, unix.Close(mount))
		}
	}()
	for _, folder := range folders {
		mount, err := unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return &os.PathError{Op: "open the tree", Path: folder, Err: err}
		}
		mounts = append(mounts, mount)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make the mounts read-only: %w", err)
	}
	for i, folder := range folders {
		if err := unix.MoveMount(mounts[i], "", unix.AT_FDCWD, folder, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "mount on", Path: folder, Err: err}
		}
	}
	return nil
}
