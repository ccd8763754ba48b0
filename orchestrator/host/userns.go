package host

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// CanUserNamespace is why a jail cannot have a user namespace of its own, or nil: they
// are forbidden, or /proc is masked, as containers have it, so that none can be mounted.
var CanUserNamespace = sync.OnceValue(func() error {
	path := Find("mount")
	if path == "" {
		return fmt.Errorf("mount: %w", exec.ErrNotFound)
	}
	cmd := exec.Command(path, "-t", "proc", "proc", "/proc")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := mapIdentity(cmd.SysProcAttr); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		why, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n") // then comes advice on dmesg
		return fmt.Errorf("no user namespace with /proc can be made: %s", cmp.Or(strings.TrimSuffix(why, "."), err.Error()))
	}
	return nil
})

// mapIdentity gives a process a user namespace in which each id that this process
// knows stands for itself.
func mapIdentity(attributes *syscall.SysProcAttr) error {
	users, err := ownIDs("/proc/self/uid_map")
	if err != nil {
		return err
	}
	groups, err := ownIDs("/proc/self/gid_map")
	if err != nil {
		return err
	}
	attributes.Cloneflags |= unix.CLONE_NEWUSER
	attributes.UidMappings, attributes.GidMappings = users, groups
	attributes.GidMappingsEnableSetgroups = true
	return nil
}

// ownIDs is the map of a child that is to have the same ids as this process
// (user_namespaces(7)).
func ownIDs(file string) ([]syscall.SysProcIDMap, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var ids []syscall.SysProcIDMap
	for line := range strings.Lines(string(content)) {
		var inside, outside, count int
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", file, line, err)
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: count})
	}
	return ids, nil
}

// overMachine is the capabilities that reach beyond the files of a tree.
var overMachine = []uintptr{
	unix.CAP_MKNOD, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_TIME, unix.CAP_SYS_BOOT,
	unix.CAP_SYSLOG, unix.CAP_WAKE_ALARM, unix.CAP_BLOCK_SUSPEND, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
	unix.CAP_AUDIT_CONTROL, unix.CAP_NET_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PACCT, unix.CAP_SYS_TTY_CONFIG,
}

// dropCapabilities takes them from all that this process starts.
func dropCapabilities() error {
	for _, capability := range overMachine {
		_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0)
		if errno == unix.ENOTSUP { // Go cannot reach the threads of C
			return fail.New(fail.Host, "", "build it with 'make vmctl', or with CGO_ENABLED=0", "this vmctl was built with cgo, and cannot drop capabilities")
		}
		if errno != 0 && errno != unix.EINVAL { // one that the kernel does not know
			return fmt.Errorf("drop capability %d: %w", capability, errno)
		}
	}
	return nil
}
