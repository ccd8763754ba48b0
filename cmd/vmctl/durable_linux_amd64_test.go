package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// traced runs vmctl and returns what it had written through to the disk and
// renamed, in order: "sync PATH", "rename PATH". It is the parent of a traced
// process (ptrace(2)) and of its threads.
func traced(t *testing.T, dir string, args ...string) []string {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("vmctl", args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Dir, cmd.Stderr = dir, log
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	main := cmd.Process.Pid
	var calls []string
	known, inside := map[int]bool{main: true}, map[int]bool{}
	for first := true; ; first = false {
		var status unix.WaitStatus
		thread, err := unix.Wait4(-main, &status, unix.WALL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if first {
			if err := unix.PtraceSetOptions(main, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL); err != nil {
				t.Fatal(err)
			}
		}
		if thread == main && (status.Exited() || status.Signaled()) {
			if status.ExitStatus() != 0 {
				told, _ := os.ReadFile(log.Name())
				t.Fatalf("vmctl %v: exit code %d\n%s", args, status.ExitStatus(), told)
			}
			return calls
		}
		if !status.Stopped() {
			continue
		}
		signal := status.StopSignal()
		switch {
		case signal == unix.SIGTRAP|0x80:
			if inside[thread] = !inside[thread]; !inside[thread] {
				calls = append(calls, finished(thread)...)
			}
			signal = 0
		case signal == unix.SIGTRAP, signal == unix.SIGSTOP && !known[thread]:
			signal = 0
		}
		known[thread] = true
		_ = unix.PtraceSyscall(thread, int(signal)) // a thread may have ended
	}
}

// finished is the call that a thread returns from, if it is one to know of.
func finished(thread int) []string {
	var registers unix.PtraceRegs
	if unix.PtraceGetRegs(thread, &registers) != nil || registers.Rax != 0 {
		return nil
	}
	switch registers.Orig_rax {
	case unix.SYS_FSYNC:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, registers.Rdi))
		if err == nil {
			return []string{"sync " + path}
		}
	case unix.SYS_RENAMEAT:
		path := make([]byte, 4096)
		if n, err := unix.PtracePeekData(thread, uintptr(registers.R10), path[:256]); err == nil {
			end := bytes.IndexByte(path[:n], 0)
			name := string(path[:max(end, 0)])
			if folder, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, registers.Rdx)); err == nil { // it is below an opened one
				name = filepath.Join(folder, name)
			}
			return []string{"rename " + name}
		}
	}
	return nil
}

// TestWhatIsDoneSurvivesAPowerFailure looks at the order in which files and the
// folders that name them are written through to the disk.
func TestWhatIsDoneSurvivesAPowerFailure(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VMCTL_REGISTRY", "")
	t.Setenv("CI_REGISTRY_IMAGE", "")
	if err := writeBuild(filepath.Join(dir, "images/debian")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want []string // in this order, among others
	}{
		{[]string{"push", "debian"}, []string{
			"sync images", "sync images/oci", "sync images/oci/debian/blobs/sha256", "sync images/oci/debian/blobs",
			"rename images/oci/debian/index.json", "sync images/oci/debian",
		}},
		{[]string{"push", "debian", "oci-archive:debian.tar"}, []string{"rename debian.tar", "sync ."}},
		{[]string{"pull", "oci:images/oci/debian", "-o", "got/here"}, []string{
			"sync .", "sync got", "sync got/here/.debian.qcow2.", "rename got/here/debian.qcow2", "sync got/here",
		}},
	} {
		calls := traced(t, dir, tc.args...)
		rest := calls
		for _, want := range tc.want {
			verb, path, _ := strings.Cut(want, " ")
			at := slices.IndexFunc(rest, func(call string) bool {
				return call == want || call == verb+" "+filepath.Join(dir, path) || strings.HasSuffix(path, ".") && path != "." && strings.HasPrefix(call, verb+" "+filepath.Join(dir, path))
			})
			if at < 0 {
				t.Errorf("vmctl %s: %q does not come in its place among\n%s", strings.Join(tc.args, " "), want, strings.Join(calls, "\n"))
				break
			}
			rest = rest[at+1:]
		}
	}
}
