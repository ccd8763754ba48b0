package disk

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Create makes file a sparse disk image with the plan's partition table.
func Create(ctx context.Context, h host.Host, plan Plan, file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(plan.Size), f.Close()); err != nil {
		return noSpace(err)
	}
	table := host.Cmd("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", file)
	table.Stdin = plan.Script()
	return h.Run(ctx, table)
}

func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "free space, or choose another folder with -o"}
	}
	return err
}

// Attached is a disk whose partitions are block devices.
type Attached struct {
	Plan    Plan
	devices map[int]string
	stack   scope.Stack
}

// Attach gives each partition of file its own loop device.
func Attach(h host.Host, plan Plan, file string) (*Attached, error) {
	a := &Attached{Plan: plan, devices: map[int]string{}}
	for _, part := range plan.Partitions {
		device, release, err := h.AttachLoop(file, part.Start, part.Size)
		if err != nil {
			return nil, errors.Join(err, a.Detach())
		}
		a.devices[part.Number] = device
		a.stack.Push("detach "+device, release)
	}
	return a, nil
}

// Device is the block device of the partition.
func (a *Attached) Device(part Partition) string { return a.devices[part.Number] }

// Detach releases the devices.
func (a *Attached) Detach() error { return a.stack.Close() }

// Format makes every file system.
func (a *Attached) Format(ctx context.Context, h host.Host) error {
	for _, part := range a.Plan.Partitions {
		if command, ok := part.Mkfs(a.Device(part)); ok {
			if err := h.Run(ctx, command); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check runs every file system's checker; nothing may be mounted.
func (a *Attached) Check(ctx context.Context, h host.Host) error {
	for _, part := range a.Plan.Partitions {
		if command, ok := part.Fsck(a.Device(part)); ok {
			if err := h.Run(ctx, command); err != nil {
				return err
			}
		}
	}
	return nil
}

// Mount mounts the file systems at root and returns what unmounts them. vfat
// is left out, since kernels without it must be able to build: its content is
// put there with mtools.
func (a *Attached) Mount(h host.Host, root string) (release func() error, err error) {
	var stack scope.Stack
	defer func() {
		if err != nil {
			stack.CloseInto(&err)
		}
	}()
	for _, part := range a.Plan.byDepth() {
		if part.Mount == "" {
			continue
		}
		target, err := host.Tree(root).Path(part.Mount)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return nil, err
		}
		if part.Filesystem == "vfat" {
			continue
		}
		m := host.Mount{Source: a.Device(part), Target: target, Type: part.Filesystem, Flags: unix.MS_NOATIME}
		if part.Filesystem == "ext4" {
			m.Data = "noinit_itable" // would fill the sparse image with zeros
		}
		unmount, err := h.Mount(m)
		if err != nil {
			return nil, err
		}
		stack.Push("unmount "+part.Mount, unmount)
	}
	return stack.Close, nil
}

// Mounted is where Mount puts the file systems below root.
func (a *Attached) Mounted(root string) ([]string, error) {
	var paths []string
	for _, part := range a.Plan.byDepth() {
		if part.Mount == "" || part.Filesystem == "vfat" {
			continue
		}
		path, err := host.Tree(root).Path(part.Mount)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}
