package host

import (
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets the instructions that syncFilter uses.
func run(filter []unix.SockFilter, arch, call uint32) uint32 {
	var a uint32
	for pc := 0; pc < len(filter); pc++ {
		switch ins := filter[pc]; ins.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = map[uint32]uint32{0: call, 4: arch}[ins.K]
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if a == ins.K {
				pc += int(ins.Jt)
			} else {
				pc += int(ins.Jf)
			}
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
