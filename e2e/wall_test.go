//go:build e2e

package e2e

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed testdata/escape.py
var escapes string

//go:embed testdata/nouserns.py
var noUserNamespaces string

// traps is what a layer of a build must not reach on the builder.
type traps struct {
	canary      string // file
	sentinel    *exec.Cmd
	ended       chan error // of the sentinel
	name        string     // of the sentinel, and of what else has one
	key         int
	connections atomic.Int32 // to the abstract sockets
	settings    string       // of the machine
	started     time.Time    // with the monotonic clock
}

const untouched = "the canary sings\n"

// setTraps sets those that the user of the ids could reach.
func setTraps(t *testing.T, folder string, uid, gid int) *traps {
	t.Helper()
	trap := &traps{canary: filepath.Join(folder, "canary"), ended: make(chan error, 1), name: fmt.Sprintf("vmctl-sentinel-%d-%d", os.Getpid(), uid), settings: settings(t), started: time.Now()}
	write(t, trap.canary, untouched)
	if err := errors.Join(os.Chown(trap.canary, uid, gid), os.Chmod(trap.canary, 0o600)); err != nil {
		t.Fatal(err)
	}
	trap.sentinel = exec.Command("sleep", "86400")
	trap.sentinel.Args[0] = trap.name
	trap.sentinel.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if err := trap.sentinel.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { trap.ended <- trap.sentinel.Wait() }()
	t.Cleanup(func() { _ = trap.sentinel.Process.Kill() })

	key, err := unix.AddKey("user", trap.name, []byte("secret"), unix.KEY_SPEC_USER_KEYRING)
	const all = 0x3f3f3f3f // for everybody: what keeps others from it is not its owner
	if err == nil {
		err = unix.KeyctlSetperm(key, all)
	}
	if err != nil {
		t.Fatal(err)
	}
	trap.key = key
	t.Cleanup(func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, key, unix.KEY_SPEC_USER_KEYRING, 0, 0) })

	listener, err := net.Listen("unix", "@"+trap.name)
	if err != nil {
		t.Fatal(err)
	}
	datagrams, err := net.ListenPacket("unixgram", "@"+trap.name+"-datagrams")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(listener.Close(), datagrams.Close()) })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			trap.connections.Add(1)
			connection.Close()
		}
	}()
	go func() {
		for {
			if _, _, err := datagrams.ReadFrom(make([]byte, 100)); err != nil {
				return
			}
			trap.connections.Add(1)
		}
	}()
	return trap
}

// arguments is what the script is told of them.
func (trap *traps) arguments(t *testing.T) string {
	t.Helper()
	disk := "7:0"
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		t.Fatal(err)
	}
	if major := unix.Major(root.Dev); major != 0 {
		disk = fmt.Sprintf("%d:%d", major, unix.Minor(root.Dev))
	}
	return fmt.Sprintf("'%s' %d %s %d %s %s %s", trap.canary, trap.sentinel.Process.Pid, trap.name, trap.key, trap.name, trap.name, disk)
}

// settings is what an escape would change of the machine.
func settings(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"kernel/hostname", "kernel/domainname", "kernel/core_pattern", "kernel/sysrq", "kernel/modprobe", "vm/swappiness", "fs/file-max", "user/max_user_namespaces"} {
		content, err := os.ReadFile(filepath.Join("/proc/sys", path))
		if err == nil {
			fmt.Fprintf(&all, "%s: %s", path, content)
		}
	}
	for _, path := range []string{"/dev/null", "/sys/fs/cgroup"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s: %v %d\n", path, info.Mode(), info.Sys().(*syscall.Stat_t).Uid)
	}
	for _, path := range []string{"/proc/swaps", "/proc/modules"} {
		content, _ := os.ReadFile(path)
		fmt.Fprintf(&all, "%s: %d lines\n", path, strings.Count(string(content), "\n"))
	}
	return all.String()
}

// unsprung looks at the traps from outside.
func (trap *traps) unsprung(t *testing.T) {
	t.Helper()
	if content, err := os.ReadFile(trap.canary); string(content) != untouched {
		t.Errorf("the builder's file was changed: %q, %v", content, err)
	}
	select {
	case err := <-trap.ended:
		t.Errorf("the builder's process was ended: %v", err)
	default:
	}
	if n := trap.connections.Load(); n > 0 {
		t.Errorf("%d connections to abstract sockets of the builder", n)
	}
	if now := settings(t); now != trap.settings {
		t.Errorf("the machine was changed from\n%s\nto\n%s", trap.settings, now)
	}
	monotonic, real := time.Since(trap.started), time.Now().Round(0).Sub(trap.started.Round(0))
	if off := (monotonic - real).Abs(); off > 2*time.Second {
		t.Errorf("the clock was set by %v", off)
	}
	if _, err := os.Stat("/sys/fs/cgroup/escape"); err == nil {
		t.Error("a cgroup was made")
	}
}

// hostile is a build whose command and whose package try all ways out.
func hostile(t *testing.T, folder string, trap *traps) {
	t.Helper()
	write(t, filepath.Join(folder, "install.d/hostile/escape.py"), escapes)
	archive := t.TempDir()
	write(t, filepath.Join(archive, "DEBIAN/control"), "Package: hostile\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: tries to get out\n")
	write(t, filepath.Join(archive, "DEBIAN/postinst"), "#!/bin/sh\nset -e\npython3 /srv/escape.py "+trap.arguments(t)+" >/srv/by-package\n")
	tool(t, "chmod", "0755", archive, filepath.Join(archive, "DEBIAN/postinst"))
	tool(t, "dpkg-deb", "--root-owner-group", "--build", archive, filepath.Join(folder, "install.d/hostile/hostile.deb"))
	write(t, filepath.Join(folder, "install.d/hostile.yml"), `
extends: debian
firmware: [bios]
install:
  - files:
      - {path: /srv/escape.py, source: hostile/escape.py}
      - {path: /srv/hostile.deb, source: hostile/hostile.deb}
`)
	write(t, filepath.Join(folder, "commands.d/hostile.yml"), `
commands:
  - run: python3 /srv/escape.py `+trap.arguments(t)+` >/srv/by-command
  - run: dpkg --install /srv/hostile.deb
`)
}

// fewestAttempts is how many ways out there are at least.
const fewestAttempts = 40

// judge fails the test for each attempt that did not end blocked.
func judge(t *testing.T, who, report string) {
	t.Helper()
	attempts := 0
	for line := range strings.Lines(report) {
		attempts++
		if !strings.HasPrefix(line, "blocked ") {
			t.Errorf("%s: %s", who, strings.TrimSpace(line))
		}
	}
	if attempts < fewestAttempts {
		t.Errorf("%s: %d attempts:\n%s", who, attempts, report)
	}
	t.Logf("%s:\n%s", who, report)
}

// TestWallHolds has a command and a package of a layer try to reach the builder, from each
// kind of jail.
func TestWallHolds(t *testing.T) {
	judgeAll := func(t *testing.T, folder string, trap *traps, vmctl func(args ...string) string) {
		hostile(t, folder, trap)
		vmctl("build", "hostile", "--no-test", "--format", "raw")
		for _, who := range []string{"command", "package"} {
			judge(t, who, vmctl("shell", "hostile", "--", "cat", "/srv/by-"+who))
		}
		judge(t, "shell", vmctl("shell", "hostile", "--", "sh", "-c", "python3 /srv/escape.py "+trap.arguments(t)))
		trap.unsprung(t)
	}
	t.Run("root", func(t *testing.T) {
		folder := t.TempDir()
		judgeAll(t, folder, setTraps(t, folder, 0, 0), func(args ...string) string { return good(t, folder, args...).stdout })
	})
	t.Run("root without user namespaces", func(t *testing.T) {
		folder := t.TempDir()
		without := filepath.Join(t.TempDir(), "nouserns.py")
		write(t, without, noUserNamespaces)
		judgeAll(t, folder, setTraps(t, folder, 0, 0), func(args ...string) string {
			cmd := exec.Command("python3", append([]string{without, vmctl}, args...)...)
			var stderr strings.Builder
			cmd.Dir, cmd.Stderr = folder, &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("vmctl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
			}
			return string(out)
		})
	})
	t.Run("user", func(t *testing.T) {
		a := newAccount(t)
		traps := setTraps(t, filepath.Join(filepath.Dir(a.home), "traps"), a.uid, a.gid) // a name that shells leave alone
		judgeAll(t, a.home, traps, func(args ...string) string { return a.good(t, args...).stdout })
	})
}

// TestWallIsThereFromTheStart looks at the processes of a bootstrap: what the builder's
// tools start in the tree must not be in a chroot, out of which there are ways.
func TestWallIsThereFromTheStart(t *testing.T) {
	seen := debian(t).packages
	if debian(t).result.stages()["Source"] != "done" { // another test was first
		folder := t.TempDir()
		var err error
		if seen, _, err = watch(command(folder, "build", "debian", "--no-test", "--format", "raw", "--cache", filepath.Join(folder, "cache"))); err != nil {
			t.Fatal(err)
		}
	}
	for command := range seen.chrooted {
		t.Errorf("in a mere chroot: %s", command)
	}
	scripts := 0
	for command := range seen.inCells {
		if strings.Contains(command, ".postinst") {
			scripts++
		}
	}
	if scripts < 3 {
		t.Errorf("only %d maintainer scripts were seen, among %d commands", scripts, len(seen.inCells))
	}
}

// packageScripts is what dpkg and packages have run, by where: commands and their arguments.
type packageScripts struct{ inCells, chrooted map[string]bool }

// watch runs a build to its end, and looks at what packages run until there is a disk.
func watch(cmd *exec.Cmd) (seen packageScripts, stderr string, err error) {
	var told stageWriter
	cmd.Stderr = &told
	if err := cmd.Start(); err != nil {
		return seen, "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	seen = packageScripts{map[string]bool{}, map[string]bool{}}
	for !told.disk.Load() {
		select {
		case err := <-ended:
			return seen, string(told.told), err
		case <-time.After(2 * time.Millisecond):
		}
		for _, pid := range append(pids("dpkg"), pids("/var/lib/dpkg/info/")...) {
			if descends(pid, cmd.Process.Pid) { // other builds may run on this machine
				look(pid, seen)
			}
		}
	}
	err = <-ended
	return seen, string(told.told), err
}

// stageWriter keeps what a build tells, and notes that it has made a disk.
type stageWriter struct {
	told []byte
	disk atomic.Bool
}

func (w *stageWriter) Write(p []byte) (int, error) {
	w.told = append(w.told, p...)
	w.disk.Store(result{stderr: string(w.told)}.stages()["Disk"] == "done")
	return len(p), nil
}

// descends says whether a process is another one's, or its child's, and so on.
func descends(pid, from int) bool {
	for pid > 1 && pid != from {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		_, fields, _ := strings.Cut(string(status), ") ") // state, parent
		if _, err := fmt.Sscanf(fields, "%1s %d", new(string), &pid); err != nil {
			return false
		}
	}
	return pid == from
}

// look notes what a process is, by where its root is and what it may do.
func look(pid int, seen packageScripts) {
	folder := fmt.Sprintf("/proc/%d/", pid)
	root, err := os.Readlink(folder + "root")
	status, _ := os.ReadFile(folder + "status")
	cmdline, _ := os.ReadFile(folder + "cmdline")
	command := strings.ReplaceAll(string(cmdline), "\x00", " ")
	if err != nil || command == "" {
		return // it has ended
	}
	const capabilities = "CapBnd:\t00000000a00425fb\n"
	switch {
	case strings.HasSuffix(root, "/run/vmctl/tree"):
		seen.chrooted[command] = true
	case strings.Contains(string(status), capabilities):
		seen.inCells[command] = true
	}
}

// TestLayersWithoutNetwork has a layer look for the builder's network.
func TestLayersWithoutNetwork(t *testing.T) {
	folder := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := listener.Addr().(*net.TCPAddr).Port
	write(t, filepath.Join(folder, "install.d/alone.yml"), "extends: debian\nfirmware: [bios]\n")
	write(t, filepath.Join(folder, "commands.d/alone.yml"), fmt.Sprintf(`
commands:
  - run: |
      python3 - >/srv/report <<'END'
      import os, socket
      print(sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line))
      try:
          print(socket.create_connection(("127.0.0.1", %d), 5))
      except OSError as e:
          print(e.strerror)
      own = socket.create_server(("127.0.0.1", 0))
      print(socket.create_connection(own.getsockname(), 5) and "itself")
      print([name for name in os.environ if name.startswith("VMCTL")])
      END
`, port))
	good(t, folder, "build", "alone", "--no-test", "--format", "raw", "--network", "none")
	if report := good(t, folder, "shell", "alone", "--", "cat", "/srv/report").stdout; report != "['lo']\nConnection refused\nitself\n[]\n" {
		t.Error(report)
	}
}
