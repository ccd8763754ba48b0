package host

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// suppressSync makes fsync and its kin succeed without doing anything, for
// this process and all it starts, as systemd-nspawn --suppress-sync does. What
// is built in the jail is thrown away when the build dies, so nothing in it
// needs to reach the platters before the image as a whole does.
func suppressSync() error {
	filter, ok := syncFilter(runtime.GOARCH)
	if !ok {
		return fmt.Errorf("no system call numbers for %s", runtime.GOARCH)
	}
	return install(filter, unix.SECCOMP_FILTER_FLAG_TSYNC)
}

// install has the kernel ask the filter about each call of this thread and of all that it
// starts.
func install(filter []unix.SockFilter, flags uintptr) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// auditArchitectures is how seccomp(2) calls the architectures of Go.
var auditArchitectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Offsets in struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
)

// syncFilter is the program in classic BPF (seccomp(2)): for the native
// architecture, the calls that sync return 0; all else is allowed.
func syncFilter(arch string) ([]unix.SockFilter, bool) {
	audit, ok := auditArchitectures[arch]
	if !ok {
		return nil, false
	}
	const (
		load      = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret       = unix.BPF_RET | unix.BPF_K
	)
	calls := []uint32{
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS,
		unix.SYS_MSYNC, unix.SYS_SYNC_FILE_RANGE,
	}
	filter := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: jumpEqual, K: audit, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: load, K: offsetNumber},
	}
	for i, call := range calls {
		toSuccess := len(calls) - i
		filter = append(filter, unix.SockFilter{Code: jumpEqual, K: call, Jt: uint8(toSuccess & math.MaxUint8)})
	}
	return append(filter,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO}, // errno 0
	), true
}
