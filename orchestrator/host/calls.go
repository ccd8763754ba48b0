package host

import (
	"slices"

	"golang.org/x/sys/unix"
)

// What a filter for cells refuses, of the system calls that take no capability in a user
// namespace, or one that only root of the machine should use: none of them is a package's
// business.

// refused is the calls that fail with EPERM, as if a capability were missing.
var refused = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_SETNS, // mounts and namespaces
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_MOUNT_SETATTR, openTreeAttr, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, // files by other ways than names
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, // others' processes
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_SYSLOG, // the kernel
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_VHANGUP, // the machine
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME,
}

// absent is the calls that fail with ENOSYS, as on a kernel without them: programs then
// do without. clone3 is among them because a filter cannot see its flags.
var absent = []uint32{
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_CLONE3,
}

const openTreeAttr = 467 // since Linux 6.15, the same for all

// On 64-bit x86 there are the calls of 32-bit programs, too.
const (
	cloneI386   = 120
	unshareI386 = 310
)

var refusedI386 = []uint32{
	21, 22, 52, 217, 346, // mount, umount, umount2, pivot_root, setns
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_MOUNT_SETATTR, openTreeAttr, 131, unix.SYS_QUOTACTL_FD, // quotactl
	342, 338, // open_by_handle_at, fanotify_init
	26, 347, 348, 349, unix.SYS_PIDFD_GETFD, // ptrace, process_vm_readv, process_vm_writev, kcmp
	357, 336, 374, 103, 101, 110, 113, 166, // bpf, perf_event_open, userfaultfd, syslog, ioperm, iopl, vm86old, vm86
	127, 128, 350, 129, 283, // create_module, init_module, finit_module, delete_module, kexec_load
	88, 87, 115, 51, 111, // reboot, swapon, swapoff, acct, vhangup
	25, 79, 264, 404, // stime, settimeofday, clock_settime, clock_settime64
}

var absentI386 = []uint32{
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	288, 286, 287, // keyctl, add_key, request_key
	unix.SYS_CLONE3,
}

// portsAMD64 is ioperm and iopl, which only x86 has.
var portsAMD64 = []uint32{173, 172}

// newNamespaces is the flags of unshare(2) for namespaces. Those of clone(2) have no time,
// whose bit is a signal's there.
const (
	newNamespaces = newByClone | unix.CLONE_NEWTIME
	newByClone    = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
)

// Fields of struct seccomp_data, and instructions.
const (
	offsetArguments = 16 // the low half of the first

	bpfLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	bpfEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfFrom  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	bpfAny   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	bpfRet   = unix.BPF_RET | unix.BPF_K

	fails = unix.SECCOMP_RET_ERRNO
)

// abi is the calls of one architecture.
type abi struct {
	audit           uint32
	refused, absent []uint32
	clone, unshare  uint32
	sockets         bool // it has socket(2)
}

func abis(arch string) []abi {
	switch arch {
	case "amd64":
		return []abi{
			{unix.AUDIT_ARCH_X86_64, slices.Concat(refused, portsAMD64), absent, unix.SYS_CLONE, unix.SYS_UNSHARE, true},
			{unix.AUDIT_ARCH_I386, refusedI386, absentI386, cloneI386, unshareI386, false},
		}
	case "arm64":
		return []abi{{unix.AUDIT_ARCH_AARCH64, refused, absent, unix.SYS_CLONE, unix.SYS_UNSHARE, true}}
	}
	return nil
}

// cellFilter is the program in classic BPF (seccomp(2)) for what runs in a cell. An
// architecture whose calls it does not know has none.
func cellFilter(arch string) ([]unix.SockFilter, bool) {
	known := abis(arch)
	filter := []unix.SockFilter{{Code: bpfLoad, K: offsetArch}}
	for _, a := range known {
		calls := a.filter()
		// A jump is too short for what may follow: over one that is not.
		filter = append(filter,
			unix.SockFilter{Code: bpfEqual, K: a.audit, Jt: 1},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(calls))}, //nolint:gosec // some hundred
		)
		filter = append(filter, calls...)
	}
	return append(filter, unix.SockFilter{Code: bpfRet, K: fails | uint32(unix.ENOSYS)}), len(known) > 0
}

func (a abi) filter() []unix.SockFilter {
	const x32 = 0x40000000 // __X32_SYSCALL_BIT; nothing else has such numbers
	filter := []unix.SockFilter{
		{Code: bpfLoad, K: offsetNumber},
		{Code: bpfFrom, K: x32, Jf: 1},
		{Code: bpfRet, K: fails | uint32(unix.ENOSYS)},
	}
	answer := func(calls []uint32, errno unix.Errno) {
		for _, call := range calls {
			filter = append(filter, unix.SockFilter{Code: bpfEqual, K: call, Jf: 1}, unix.SockFilter{Code: bpfRet, K: fails | uint32(errno)})
		}
	}
	answer(a.refused, unix.EPERM)
	answer(a.absent, unix.ENOSYS)
	first := func(call uint32, code uint16, operand uint32) { // EPERM where that holds of its first argument
		filter = append(filter,
			unix.SockFilter{Code: bpfEqual, K: call, Jf: 4},
			unix.SockFilter{Code: bpfLoad, K: offsetArguments},
			unix.SockFilter{Code: code, K: operand, Jf: 1},
			unix.SockFilter{Code: bpfRet, K: fails | uint32(unix.EPERM)},
			unix.SockFilter{Code: bpfRet, K: unix.SECCOMP_RET_ALLOW},
		)
	}
	first(a.clone, bpfAny, newByClone)
	first(a.unshare, bpfAny, newNamespaces)
	if a.sockets { // of a virtual machine with its host, which belong to no namespace
		first(unix.SYS_SOCKET, bpfEqual, unix.AF_VSOCK)
	}
	return append(filter, unix.SockFilter{Code: bpfRet, K: unix.SECCOMP_RET_ALLOW})
}
