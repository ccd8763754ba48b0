package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A user namespace shares the machine's network without owning it, so that its root may
// not listen on ports below 1024, as a web server does that checks its configuration.
// The jail has the kernel ask its parent about each bind(2) (seccomp_unotify(2)), and
// the parent, where it is root of the network, binds those ports for it. A parent that is
// not gives it other ports: nobody but the tree's own programs calls there, and most of
// them never find out.

const firstFreePort = 1024 // ip_unprivileged_port_start, as Linux has it by default

// notification is struct seccomp_notif, decision is struct seccomp_notif_resp
// (linux/seccomp.h).
type notification struct {
	id          uint64
	pid, flags  uint32
	number      int32
	arch        uint32
	instruction uint64
	arguments   [6]uint64
}

type decision struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// askForBinds has the kernel ask about bind(2) in this process and all that it starts,
// and returns the descriptor from which the questions are read.
func askForBinds() (listener int, err error) {
	audit, ok := auditArchitectures[runtime.GOARCH]
	if !ok {
		return 0, fmt.Errorf("no system call numbers for %s", runtime.GOARCH)
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: audit, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNumber},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BIND, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("seccomp: %w", errno)
	}
	return int(fd), nil
}

// takeDescriptor is a copy of a descriptor of another process.
func takeDescriptor(pid, descriptor int) (int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(process) }()
	copied, err := unix.PidfdGetfd(process, descriptor, 0)
	if err != nil {
		return 0, fmt.Errorf("take descriptor %d of process %d: %w", descriptor, pid, err)
	}
	return copied, nil
}

// answerBinds answers the questions of a jail until none can come any more, and closes
// the listener.
func answerBinds(listener int) {
	defer func() { _ = unix.Close(listener) }()
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || ready[0].Revents&unix.POLLIN == 0 {
			return // hung up: nobody is left who could ask
		}
		var asked notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue // whoever asked is gone
		}
		answer := decide(listener, asked)
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// decide binds low ports of the Internet's protocols, and leaves the rest to the kernel.
func decide(listener int, asked notification) decision {
	itself := decision{id: asked.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	address := make([]byte, min(asked.arguments[2], unix.SizeofSockaddrAny))
	if readMemory(int(asked.pid), asked.arguments[1], address) != nil || !isLow(address) {
		return itself
	}
	group, err := threadGroup(int(asked.pid))
	if err != nil {
		return itself
	}
	socket, err := takeDescriptor(group, int(int32(asked.arguments[0])))
	if err != nil {
		return itself
	}
	defer func() { _ = unix.Close(socket) }()
	// The number may be another process's by now: then the question is void.
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_ID_VALID, uintptr(unsafe.Pointer(&asked.id))); errno != 0 {
		return itself
	}
	errno := bindTo(socket, address)
	if errno == unix.EACCES {
		binary.BigEndian.PutUint16(address[portOffset:], 0) // any that is free
		errno = bindTo(socket, address)
	}
	return decision{id: asked.id, errno: -int32(errno)}
}

func bindTo(socket int, address []byte) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(socket), uintptr(unsafe.Pointer(&address[0])), uintptr(len(address)))
	return errno
}

const portOffset = 2 // in sockaddr_in and sockaddr_in6

// isLow says whether a sockaddr is a port of IPv4 or IPv6 that needs root of the network.
func isLow(address []byte) bool {
	if len(address) < 8 {
		return false
	}
	family, port := binary.NativeEndian.Uint16(address), binary.BigEndian.Uint16(address[portOffset:])
	return (family == unix.AF_INET || family == unix.AF_INET6) && port > 0 && port < firstFreePort
}

func readMemory(pid int, at uint64, into []byte) error {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer memory.Close()
	_, err = io.ReadFull(io.NewSectionReader(memory, int64(at), int64(len(into))), into)
	return err
}

// threadGroup is the process that a thread belongs to.
func threadGroup(thread int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if group, found := strings.CutPrefix(line, "Tgid:"); found {
			return strconv.Atoi(strings.TrimSpace(group))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status tells no process", thread)
}
