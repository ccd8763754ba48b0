package disk

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const privateMounts = "VMCTL_TEST_PRIVATE_MOUNTS"

// TestMain runs root's tests in a mount namespace of their own, so that nothing that
// they mount is left, whatever happens to them.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(privateMounts) == "" {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), privateMounts+"=1"))
		}
		fmt.Fprintln(os.Stderr, "a mount namespace for the tests:", err)
		os.Exit(1)
	}
	if folder := os.Getenv(jailed); folder != "" {
		if err := assembleInJail(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// needRoot skips what only root can do. make test runs as root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for mounts and loop devices")
	}
}

// everyKind of file system can be mounted where the tests run.
func everyKind(Partition) bool { return true }
