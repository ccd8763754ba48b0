package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Device numbers from Linux' Documentation/admin-guide/devices.txt.
const (
	loopMajor        = 7
	miscMajor        = 10
	loopControlMinor = 237
)

// AttachLoop implements Host. Nodes that the host lacks are made in
// l.Devices. The device clears itself when its last user is gone, so nothing
// is left of it when the jail dies.
func (l *Local) AttachLoop(file string, offset, size int64) (string, func() error, error) {
	backing, err := os.OpenFile(file, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	defer backing.Close()

	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Offset = uint64(offset)
	config.Info.Sizelimit = uint64(size)
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	name, err := loopName(backing, offset)
	if err != nil {
		return "", nil, err
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], name)

	const tries = 50 // another process may take the free device first
	for range tries {
		device, err := l.freeLoop()
		if err != nil {
			return "", nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			fmt.Fprintf(l.log(), "+ loop %s: %s, offset %d, size %d\n", device.Name(), file, offset, size)
			return device.Name(), device.Close, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return "", nil, fmt.Errorf("attach %s to %s: %w", file, device.Name(), err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", nil, fail.New(fail.Host, "attach "+file, "free loop devices: 'losetup -a' lists who holds them", "no free loop device after %d tries", tries)
}

// loopName is what the device says that it shows, and nothing else does: mkfs.btrfs
// takes two devices of the same name for the same.
func loopName(backing *os.File, offset int64) (string, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(backing.Fd()), &stat); err != nil {
		return "", &os.PathError{Op: "stat", Path: backing.Name(), Err: err}
	}
	return fmt.Sprintf("%d:%d:%d %s", stat.Dev, stat.Ino, offset, filepath.Base(backing.Name())), nil
}

func (l *Local) freeLoop() (*os.File, error) {
	control, err := l.openNode("loop-control", unix.S_IFCHR|0o600, miscMajor, loopControlMinor)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	// Three digits, since grub-mkconfig's 10_linux takes /dev/loop[0-9] for the
	// file behind it, which does not exist inside an image.
	return l.openNode(fmt.Sprintf("loop%03d", n), unix.S_IFBLK|0o600, loopMajor, uint32(n))
}

func (l *Local) openNode(name string, mode, major, minor uint32) (*os.File, error) {
	dir := l.Devices
	if dir == "" {
		dir = "/dev"
	}
	path := filepath.Join(dir, name)
	if err := unix.Mknod(path, mode, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fail.Error{
			Kind: fail.Host, Err: err,
			Hint: "in a container, allow the devices 'b 7:* rmw' and 'c 10:237 rmw'",
		}
	}
	return f, nil
}
