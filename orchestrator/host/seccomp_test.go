package host

import (
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets the instructions that the filters use.
func run(filter []unix.SockFilter, arch, call uint32, first ...uint32) uint32 {
	var a uint32
	for pc := 0; pc < len(filter); pc++ {
		switch ins := filter[pc]; ins.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = map[uint32]uint32{0: call, 4: arch, 16: append(first, 0)[0]}[ins.K]
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if a == ins.K {
				pc += int(ins.Jt)
			} else {
				pc += int(ins.Jf)
			}
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jumps := a >= ins.K
			if ins.Code&unix.BPF_JSET == unix.BPF_JSET {
				jumps = a&ins.K != 0
			}
			if jumps {
				pc += int(ins.Jt)
			} else {
				pc += int(ins.Jf)
			}
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(ins.K)
		case unix.BPF_RET | unix.BPF_K:
			return ins.K
		}
	}
	return 0xdead
}

func TestSyncFilterSkipsSyncingAlone(t *testing.T) {
	filter, ok := syncFilter("amd64")
	if !ok {
		t.Fatal("no filter for amd64")
	}
	for _, call := range []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_MSYNC, unix.SYS_SYNC_FILE_RANGE} {
		if got := run(filter, unix.AUDIT_ARCH_X86_64, call); got != unix.SECCOMP_RET_ERRNO {
			t.Errorf("call %d: %#x, want success without a call", call, got)
		}
		if got := run(filter, unix.AUDIT_ARCH_I386, call); got != unix.SECCOMP_RET_ALLOW {
			t.Errorf("call %d of another architecture: %#x, want it allowed", call, got)
		}
	}
	for call := range uint32(400) {
		switch call {
		case unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_MSYNC, unix.SYS_SYNC_FILE_RANGE:
		default:
			if got := run(filter, unix.AUDIT_ARCH_X86_64, call); got != unix.SECCOMP_RET_ALLOW {
				t.Errorf("call %d: %#x, want it allowed", call, got)
			}
		}
	}
}

func TestCellFilter(t *testing.T) {
	const (
		eperm   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		allowed = unix.SECCOMP_RET_ALLOW
	)
	filter, ok := cellFilter("amd64")
	if !ok {
		t.Fatal("no filter for amd64")
	}
	for _, c := range []struct {
		what              string
		arch, call, first uint32
		want              uint32
	}{
		{"read", unix.AUDIT_ARCH_X86_64, 0, 0, allowed},
		{"mount", unix.AUDIT_ARCH_X86_64, 165, 0, eperm},
		{"io_uring_setup", unix.AUDIT_ARCH_X86_64, 425, 0, enosys},
		{"clone3", unix.AUDIT_ARCH_X86_64, 435, 0, enosys},
		{"fork by clone", unix.AUDIT_ARCH_X86_64, 56, 0x1200011, allowed},
		{"clone of a user namespace", unix.AUDIT_ARCH_X86_64, 56, unix.CLONE_NEWUSER, eperm},
		{"unshare of files", unix.AUDIT_ARCH_X86_64, 272, unix.CLONE_FILES, allowed},
		{"unshare of time", unix.AUDIT_ARCH_X86_64, 272, unix.CLONE_NEWTIME, eperm},
		{"a socket", unix.AUDIT_ARCH_X86_64, 41, unix.AF_INET, allowed},
		{"a socket of the host's", unix.AUDIT_ARCH_X86_64, 41, unix.AF_VSOCK, eperm},
		{"x32", unix.AUDIT_ARCH_X86_64, 0x40000000, 0, enosys},
		{"read of i386", unix.AUDIT_ARCH_I386, 3, 0, allowed},
		{"mount of i386", unix.AUDIT_ARCH_I386, 21, 0, eperm},
		{"lseek of i386, whose number is another's", unix.AUDIT_ARCH_I386, 19, 0, allowed},
		{"unshare of i386", unix.AUDIT_ARCH_I386, 310, unix.CLONE_NEWNS, eperm},
		{"keyctl of i386", unix.AUDIT_ARCH_I386, 288, 0, enosys},
		{"another architecture", unix.AUDIT_ARCH_ARM, 0, 0, enosys},
	} {
		if got := run(filter, c.arch, c.call, c.first); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
}
