package host

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inCell is the capabilities that programs of a tree need over its files and themselves.
// Of those over others, as ptrace, or over the machine, they get none.
var inCell = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP, // files
	unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP, unix.CAP_KILL, unix.CAP_SYS_CHROOT, unix.CAP_AUDIT_WRITE,
	unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, // without which programs that ask for it do not start
}

// raiseWall takes from this thread, and from what it becomes, all that leads out of a
// cell. left says that nothing is behind the cell's root.
func raiseWall(left bool) error {
	if err := scopeSockets(); err != nil {
		return fmt.Errorf("keep from the machine's sockets: %w", err)
	}
	// The filter asks for SYS_ADMIN. Without no_new_privs su(1) and its like go on working.
	filter, ok := cellFilter(runtime.GOARCH)
	if !ok {
		return fmt.Errorf("no system call numbers for %s", runtime.GOARCH)
	}
	if err := install(filter, 0); err != nil {
		return err
	}
	keep := inCell
	if !left { // out of a folder that merely is the root, chroot(2) leads
		keep = slices.DeleteFunc(slices.Clone(keep), func(c uintptr) bool { return c == unix.CAP_SYS_CHROOT })
	}
	return keepCapabilities(keep)
}

// keepCapabilities takes all others from this thread, and from all that it becomes.
func keepCapabilities(keep []uintptr) error {
	var kept uint64
	for _, capability := range keep {
		kept |= 1 << capability
	}
	for capability := range uintptr(lastCapability() + 1) {
		if kept&(1<<capability) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range has {
		mask := uint32(kept >> (32 * i)) //nolint:gosec // half of it
		has[i] = unix.CapUserData{Effective: has[i].Effective & mask, Permitted: has[i].Permitted & mask}
	}
	if err := unix.Capset(&header, &has[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// rulesetAttributes is struct landlock_ruleset_attr.
type rulesetAttributes struct{ files, network, scoped uint64 }

const scopeAbstractSockets = 1 // LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, since Linux 6.12

// scopeSockets keeps this thread from abstract sockets that were made outside, which
// belong to the network namespace. Kernels before 6.12, or without Landlock, cannot:
// see CanScopeSockets.
func scopeSockets() error {
	if !CanScopeSockets() {
		return nil
	}
	attributes := rulesetAttributes{scoped: scopeAbstractSockets}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	defer func() { _ = unix.Close(int(ruleset)) }()
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

// CanScopeSockets says whether this kernel can keep the programs of a tree from abstract
// sockets of the machine (landlock(7)).
func CanScopeSockets() bool {
	const scopes = 6 // the version that has them
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return errno == 0 && version >= scopes
}
