// Package unpack makes files of a tree of what others wrote: layers of container images, and
// disks. What it is given may mean harm: no name leads out of the tree, whatever links are in
// it, no device is made, and there is a limit on all that can grow.
package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

func kindOf(node *rawdisk.Node) uint32 { return node.Mode & unix.S_IFMT }

// Kind is what a name in an open folder is, as stat(2) has it, 0 where there is none.
func Kind(folder int, base string) (uint32, error) {
	var stat unix.Stat_t
	err := unix.Fstatat(folder, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return stat.Mode & unix.S_IFMT, err
}

// Remove removes a name in an open folder, with all that is below it.
func Remove(folder int, base string) error { return os.RemoveAll(below(folder, base)) }

// below is a path of a name in an open folder.
func below(folder int, base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", folder, base) }

// Create makes a name in an open folder what a node is, for root alone. fill gives a file its
// content.
func Create(folder int, base string, node *rawdisk.Node, fill func(*os.File) error) error {
	switch kindOf(node) {
	case unix.S_IFREG:
		return write(folder, base, fill)
	case unix.S_IFDIR:
		return unix.Mkdirat(folder, base, 0o700)
	case unix.S_IFLNK:
		return unix.Symlinkat(node.Target, folder, base)
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		err := unix.Mknodat(folder, base, kindOf(node)|0o600, int(unix.Mkdev(node.Major, node.Minor)))
		if errors.Is(err, unix.EPERM) {
			return noDevices()
		}
		return err
	}
	return fmt.Errorf("it is of no known kind (%o)", node.Mode)
}

func noDevices() error {
	return fail.New(fail.Build, "", "have the machine make it as it starts, by tmpfiles.d or udev", "the tree of an image can have no device nodes")
}

func write(folder int, base string, fill func(*os.File) error) (err error) {
	fd, err := unix.Openat(folder, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, file.Close()) }()
	return fill(file)
}

// ContentOf gives a file the content of one of a disk, holes too.
func ContentOf(ctx context.Context, node *rawdisk.Node) func(*os.File) error {
	return func(file *os.File) error {
		content, err := node.Content()
		if err != nil {
			return err
		}
		if err := file.Truncate(node.Size); err != nil {
			return err
		}
		for _, span := range content.Data() {
			part := files.UntilDone(ctx, io.NewSectionReader(content, span.Offset, span.Size))
			if _, err := io.Copy(io.NewOffsetWriter(file, span.Offset), part); err != nil {
				return err
			}
		}
		return nil
	}
}

// Dress gives a name in an open folder owner, mode and attributes of a node, in the order in
// which none undoes another.
func Dress(folder int, base string, node *rawdisk.Node) error {
	err := unix.Fchownat(folder, base, int(node.UID), int(node.GID), unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) {
		return fail.New(fail.Build, "", "build as root, or get more subordinate ids: see 'vmctl doctor'", "it belongs to %d:%d, which this user's jail has not", node.UID, node.GID)
	}
	if err != nil {
		return &os.PathError{Op: "chown", Path: base, Err: err}
	}
	if kindOf(node) != unix.S_IFLNK {
		if err := unix.Fchmodat(folder, base, node.Mode&^unix.S_IFMT, 0); err != nil {
			return &os.PathError{Op: "chmod", Path: base, Err: err}
		}
	}
	return setAttributes(below(folder, base), node.Attributes)
}

// setAttributes gives a file these extended attributes and no others, but for those that are
// the host's.
func setAttributes(file string, attributes map[string]string) error {
	has, err := files.Attributes(file)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if strings.HasPrefix(name, "trusted.") { // which the builder's root alone could see
			continue
		}
		delete(has, name)
		if err := unix.Lsetxattr(file, name, []byte(attributes[name]), 0); err != nil {
			return &os.PathError{Op: "set " + name + " of", Path: path.Base(file), Err: err}
		}
	}
	for name := range has {
		if err := unix.Lremovexattr(file, name); err != nil {
			return &os.PathError{Op: "remove " + name + " of", Path: path.Base(file), Err: err}
		}
	}
	return nil
}

// SetTime sets when a name in an open folder was changed.
func SetTime(folder int, base string, changed time.Time) error {
	at := unix.Timespec{Sec: changed.Unix(), Nsec: int64(changed.Nanosecond())}
	if err := unix.UtimesNanoAt(folder, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set the times of", Path: base, Err: err}
	}
	return nil
}
