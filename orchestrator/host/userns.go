package host

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// JailKind is what keeps a confined jail from harming the machine.
type JailKind int

// The kinds, the best last.
const (
	NoJail            JailKind = iota
	FewerCapabilities          // real root, without the capabilities that reach beyond a tree
	OwnIDs                     // root of a user namespace in which every id stands for itself
	SubordinateIDs             // an ordinary user, who is root of a user namespace with subordinate ids
)

// String is the kind in words for people.
func (k JailKind) String() string {
	return [...]string{"none", "root's, with fewer capabilities", "root's, in a user namespace of its own", "an ordinary user's, in a user namespace with subordinate ids"}[k]
}

// BestJail is the kind of jail that this process gets, and why it is no better one, or
// none; the error may have a hint.
func BestJail() (JailKind, error) {
	kind, able := OwnIDs, canOwnIDs
	if os.Geteuid() != 0 {
		kind, able = SubordinateIDs, canSubordinate
	}
	seen, err := able()
	switch {
	case err == nil:
		return kind, seen
	case os.Geteuid() != 0:
		return NoJail, err
	}
	if privileges := CanUnshare(); privileges != nil {
		return NoJail, &fail.Error{Kind: fail.Host, Err: fmt.Errorf("%w; %w", err, privileges), Hint: cmp.Or(fail.Hint(err), containerHint)}
	}
	return FewerCapabilities, &fail.Error{Kind: fail.Host, Err: err, Hint: cmp.Or(fail.Hint(err), containerHint)}
}

// CanMountDisks is why no jail can be Mounting, or nil.
func CanMountDisks() error {
	if os.Geteuid() != 0 {
		return fail.New(fail.Host, "", "use sudo", "only root can mount disks")
	}
	if err := CanUnshare(); err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "in a container, add the capabilities SYS_ADMIN and MKNOD"}
	}
	return nil
}

// namespace readies a process for the kind of jail; mapIDs is to be called once it runs
// and waits.
func (k JailKind) namespace(attributes *syscall.SysProcAttr) (mapIDs func(pid int) error, err error) {
	nothing := func(int) error { return nil }
	switch k {
	case OwnIDs:
		return nothing, mapIdentity(attributes)
	case SubordinateIDs:
		unmapped(attributes)
		return mapSubordinates, nil
	}
	return nothing, nil
}

// canOwnIDs is why root's jail cannot have a user namespace of its own, or nil, and what
// tryNamespace says of one.
var canOwnIDs = sync.OnceValues(func() (seen, err error) {
	attributes := &syscall.SysProcAttr{}
	if err := mapIdentity(attributes); err != nil {
		return nil, err
	}
	return tryNamespace(attributes, func(int) error { return nil })
})

// tryNamespace starts a process in the user namespace that the attributes make. The error
// is why it cannot mount there, seen is why it cannot have a /proc of its own: it is masked,
// as containers have it, and the processes of the container are seen in the jail.
func tryNamespace(attributes *syscall.SysProcAttr, mapIDs func(pid int) error) (seen, err error) {
	// A shell that gets its ids while it asks for them takes itself for setuid, and becomes nobody.
	const script = `echo ready && read -r go && { mount -t proc proc /proc || { mount -t tmpfs tmpfs /proc && exit 77; }; }`
	const masked = 77
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = CleanEnv()
	attributes.Cloneflags |= unix.CLONE_NEWPID | unix.CLONE_NEWNS
	cmd.SysProcAttr = attributes
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, &fail.Error{Kind: fail.Host, Err: fmt.Errorf("no user namespace can be made: %w", err), Hint: namespaceHint()}
	}
	_, _ = ready.Read(make([]byte, len("ready\n"))) // where it has ended, Wait tells why
	mapping := mapIDs(cmd.Process.Pid)
	if mapping == nil {
		_, _ = input.Write([]byte("go\n")) // where it has ended, that tells more
	}
	input.Close()
	running := cmd.Wait()
	switch {
	case mapping != nil:
		return nil, mapping
	case cmd.ProcessState.ExitCode() == masked:
		return &fail.Error{Kind: fail.Host, Err: errors.New("the processes around it are seen in it, since parts of /proc are masked"), Hint: procHint}, nil
	case running != nil:
		why := cmp.Or(firstLine([]byte(said.String())), running.Error())
		return nil, &fail.Error{Kind: fail.Host, Err: fmt.Errorf("nothing can be mounted in a user namespace: %s", why), Hint: namespaceHint()}
	}
	return nil, nil
}

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
	unix.CAP_AUDIT_CONTROL, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PACCT, unix.CAP_SYS_TTY_CONFIG,
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
