package host

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CanUnshare is why this process cannot make the jail's namespaces and the
// mounts in them, or nil.
func CanUnshare() error {
	path := Find("true")
	if path == "" {
		return nil
	}
	cmd := exec.Command(path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Unshareflags: unix.CLONE_NEWNS, // Go also makes the mounts private, which needs mount(2)
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("namespaces cannot be made: %w", err)
	}
	return nil
}

// CanLoop is why this process cannot ask for loop devices, or nil. The node
// that it may need is made in a folder of its own.
func CanLoop() error {
	dir, err := os.MkdirTemp(Temp(), "vmctl-loop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	control, err := (&Local{Devices: dir}).openNode("loop-control", unix.S_IFCHR|0o600, miscMajor, loopControlMinor)
	if err != nil {
		if existing, opening := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); opening == nil {
			return existing.Close()
		}
		return err
	}
	return control.Close()
}

// CanMount is why the kernel cannot mount file systems of that kind, or nil.
func CanMount(filesystem string) error {
	known, _ := os.ReadFile("/proc/filesystems")
	modprobe := Find("modprobe")
	switch {
	case slices.Contains(strings.Fields(string(known)), filesystem):
		return nil
	case modprobe != "" && exec.Command(modprobe, "--dry-run", "--quiet", filesystem).Run() == nil:
		return nil
	}
	return fmt.Errorf("the kernel cannot mount %s", filesystem)
}
