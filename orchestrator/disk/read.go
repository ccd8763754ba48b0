package disk

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Volume is a file system of somebody else's disk.
type Volume struct {
	Filesystem string `json:"filesystem"`
	Start      int64  `json:"start"` // bytes
	Size       int64  `json:"size"`
}

// subvolumes is where distributions have the root of a machine in btrfs, besides its top.
var subvolumes = []string{".", "@", "root", "@rootfs", "@/.snapshots/1/snapshot"}

// Read mounts a file system that lies in a file, so that nothing of it is written or run, and
// has its files read; at is an empty folder to mount on. It needs real root.
func Read(h host.Host, v Volume, file, at string, read func(folder string) error) (err error) {
	device, detach, err := h.AttachLoop(file, v.Start, v.Size)
	if err != nil {
		return err
	}
	var stack scope.Stack
	stack.Push("detach "+device, detach)
	defer stack.CloseInto(&err)
	const careful = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	unmount, err := h.Mount(host.Mount{Source: device, Target: at, Type: v.Filesystem, Flags: careful, Data: filesystem.Named(v.Filesystem).ReadOptions})
	if err != nil {
		return err
	}
	stack.Push("unmount "+at, unmount)
	root := at
	for _, name := range subvolumes {
		info, err := os.Lstat(filepath.Join(at, name, "etc"))
		if err == nil && info.IsDir() {
			root = filepath.Join(at, name)
			break
		}
	}
	return read(root)
}
