package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// share is a partition with the part of the tree that goes into it.
type share struct {
	Partition
	folder string   // the mount point in the tree, a path of the host; "" for a file system that is not mounted
	nested []string // mount points of other partitions below it, relative to folder
}

// shares is the partitions that have a file system, each with its part of the tree
// at root. Links on the way to a mount point are followed inside the tree.
func (p Plan) shares(root string) ([]share, error) {
	var shares []share
	for _, part := range p.Partitions {
		if part.Filesystem == "" {
			continue
		}
		s := share{Partition: part}
		if part.Mount != "" {
			folder, err := host.Tree(root).Path(part.Mount)
			if err != nil {
				return nil, err
			}
			if info, err := os.Lstat(folder); err != nil || !info.IsDir() {
				return nil, fail.New(fail.Build, part.String(), "let a layer make the folder "+part.Mount, "the tree has no folder to mount it on")
			}
			s.folder = folder
		}
		shares = append(shares, s)
	}
	for i, above := range shares {
		for j, below := range shares {
			if i == j || above.folder == "" || below.folder == "" {
				continue
			}
			if rest, err := filepath.Rel(above.folder, below.folder); err == nil && rest != ".." && !strings.HasPrefix(rest, "../") {
				if rest == "." {
					return nil, fail.New(fail.Usage, below.String(), "change disk.layout", "%s is mounted on the same folder", above)
				}
				shares[i].nested = append(shares[i].nested, rest)
			}
		}
	}
	return shares, nil
}

// String is the partition in words for people.
func (p Partition) String() string {
	name := p.Mount
	if name == "" {
		name = p.Label
	}
	if name == "" {
		return fmt.Sprintf("partition %d", p.Number)
	}
	return fmt.Sprintf("partition %d (%s)", p.Number, name)
}

// show makes the share a folder of its own, at: all that is in the mount point, with
// an empty folder in place of each mount point below. scratch is a folder for those.
func (s share) show(h host.Host, at, scratch string) (release func() error, err error) {
	var stack scope.Stack
	defer func() {
		if err != nil {
			stack.CloseInto(&err)
		}
	}()
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, err
	}
	stack.Push("remove "+at, func() error { return os.Remove(at) })
	unmount, err := h.Mount(host.Bind(s.folder, at, false))
	if err != nil {
		return nil, err
	}
	stack.Push("unmount "+at, unmount)
	for i, below := range s.nested {
		if s.within(below) {
			continue
		}
		empty := filepath.Join(scratch, fmt.Sprintf("empty-%d-%d", s.Number, i))
		if err := likeness(filepath.Join(s.folder, below), empty); err != nil {
			return nil, err
		}
		stack.Push("remove "+empty, func() error { return os.Remove(empty) })
		unmount, err := h.Mount(host.Bind(empty, filepath.Join(at, below), false))
		if err != nil {
			return nil, err
		}
		stack.Push("unmount "+below, unmount)
	}
	return stack.Close, nil
}

// within says whether the nested mount point is below another one, which hides it.
func (s share) within(nested string) bool {
	for _, other := range s.nested {
		if strings.HasPrefix(nested, other+"/") {
			return true
		}
	}
	return false
}

// likeness makes an empty folder with the owner, mode, attributes and times of
// another.
func likeness(folder, empty string) error {
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	if err := os.Mkdir(empty, 0o700); err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	attributes, err := files.Attributes(folder)
	if err != nil {
		return err
	}
	problems := []error{os.Lchown(empty, int(stat.Uid), int(stat.Gid)), unix.Chmod(empty, stat.Mode&^unix.S_IFMT)}
	for name, value := range attributes {
		if err := unix.Lsetxattr(empty, name, []byte(value), 0); err != nil {
			problems = append(problems, &os.PathError{Op: "set " + name + " of", Path: empty, Err: err})
		}
	}
	times := []unix.Timespec{{Sec: stat.Atim.Sec, Nsec: stat.Atim.Nsec}, {Sec: stat.Mtim.Sec, Nsec: stat.Mtim.Nsec}}
	problems = append(problems, unix.UtimesNanoAt(unix.AT_FDCWD, empty, times, unix.AT_SYMLINK_NOFOLLOW))
	return errors.Join(problems...)
}
