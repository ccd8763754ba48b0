package machine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"debian": true, "web-1.test": true, "": false, "-a": false, "a/b": false, ".new-1": false, "Web": false, strings.Repeat("a", 64): false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	for source, want := range map[string]string{
		"images/debian/debian-13-amd64.qcow2": "debian-13-amd64", "registry.example:5000/lab/web:13": "web",
		"oci:images/oci/debian:13": "debian", "My Disk.RAW": "my-disk", "ü.raw": "machine", "lab/web@sha256:00": "web",
		strings.Repeat("a", 80): strings.Repeat("a", 63),
	} {
		if got := NameFor(source); got != want || CheckName(got) != nil {
			t.Errorf("%s: %q", source, got)
		}
	}
}

// tools puts a QEMU and a qemu-img on PATH. QEMU stands still with what it has inherited.
func tools(t *testing.T, qemu string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		arch.Target.QEMU.Binary: `case " $* " in *' -device help '*) exit ;; esac; ` + qemu,
		"qemu-img":              `for last; do case $last in */disk) : >"$last" ;; esac; done`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func testFolder(t *testing.T) Folder {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	f, err := UsersFolder()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// made is a machine that was never started, on an empty image.
func made(t *testing.T, f Folder, name string) Machine {
	t.Helper()
	n, err := f.Prepare(name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	r := Record{Name: name, Guest: Guest{Known: true, Systemd: 257, SSH: true}, Settings: Defaults()}
	if r.Image, err = identity(image, "raw"); err != nil {
		t.Fatal(err)
	}
	if r.Image.Path, err = n.keep(path, image); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join((told{name: name}).write(n.dir, r.Guest), os.WriteFile(filepath.Join(n.dir, diskName), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	m, err := n.Finish(r)
	if err := errors.Join(err, n.Close()); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAMachineIsThereWholeOrNotAtAll(t *testing.T) {
	f := testFolder(t)
	if all, err := f.List(); err != nil || len(all) > 0 {
		t.Fatalf("%v, %v", all, err)
	}
	n, err := f.Prepare("web")
	if err != nil {
		t.Fatal(err)
	}
	if all, err := f.List(); err != nil || len(all) > 0 {
		t.Errorf("half of a machine is listed: %v, %v", all, err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(f.path)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	m := made(t, f, "web")
	all, err := f.List()
	if err != nil || len(all) != 1 || all[0].Name != "web" || all[0].State != Stopped || all[0].Run != nil {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := f.Prepare("web"); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "already") {
		t.Errorf("%v", err)
	}
	if err := m.Remove(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(f.path); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := f.Open("web"); fail.ExitCode(err) != 2 {
		t.Errorf("%v", err)
	}
}

func TestTwoMachinesOfOneNameAtOnce(t *testing.T) {
	f := testFolder(t)
	n, err := f.Prepare("web")
	if err != nil {
		t.Fatal(err)
	}
	made(t, f, "web")
	if _, err := n.Finish(Record{Name: "web"}); fail.ExitCode(err) != 2 {
		t.Errorf("%v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(f.path); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestADamagedRecordHidesNoOtherMachine(t *testing.T) {
	f := testFolder(t)
	made(t, f, "web")
	damaged := made(t, f, "damaged")
	if err := os.WriteFile(filepath.Join(damaged.dir, recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := f.List()
	if len(all) != 1 || all[0].Name != "web" || !strings.Contains(fail.Hint(err), "vmctl clean damaged") {
		t.Errorf("%+v, %v, %q", all, err, fail.Hint(err))
	}
}

func TestWhatKilledVmctlsLeftIsTidiedUp(t *testing.T) {
	f := testFolder(t)
	made(t, f, "web")
	long := time.Now().Add(-time.Hour)
	var paths []string
	for _, name := range []string{unfinished + "dead", unfinished + "alive", unfinished + "young", removed + "dead"} {
		path := filepath.Join(f.path, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	lock, err := acquire(filepath.Join(paths[1], lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for _, i := range []int{0, 1, 3} {
		if err := os.Chtimes(paths[i], long, long); err != nil {
			t.Fatal(err)
		}
	}
	n, err := f.Prepare("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	var left []string
	entries, err := os.ReadDir(f.path)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	if want := []string{unfinished + "alive", unfinished + "young", "web"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestALockIsTheProcessesThatInheritedIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if held(path) {
		t.Error("held without a file")
	}
	lock, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "60")
	sleep.ExtraFiles = []*os.File{lock}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if _, err := acquire(path); !held(path) || !errors.Is(err, errHeld) {
		t.Errorf("held %v, %v", held(path), err)
	}
	if err := sleep.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = sleep.Wait()
	if held(path) {
		t.Error("held by the dead")
	}
	if lock, err = acquire(path); err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

// testHost is a host whose QEMU is the script.
func testHost(t *testing.T, qemu string) Host {
	t.Helper()
	tools(t, qemu)
	h, err := FindHost(t.Context(), vm.AccelTCG)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// answering is a QEMU that takes one talk of OpenMonitor and Forwards at descriptor 3.
const answering = `exec python3 -c '
import socket, time
s = socket.socket(fileno=3)
c, _ = s.accept()
c.sendall(b"{\"QMP\": {}}")
for answer in (b"{\"id\": 1, \"return\": {}}", b"{\"id\": 2, \"return\": \"TCP[HOST_FORWARD]  9 127.0.0.1 4022 10.0.2.15 22 0 0\\\\r\\\\n\"}"):
    c.recv(4096)
    c.sendall(answer)
time.sleep(60)'`

// What a machine has written may be anything once its QEMU was taken over.
func TestADiskThatNamesAnotherFileIsNotFlattened(t *testing.T) {
	h := testHost(t, "exit")
	m := made(t, testFolder(t), "web")
	header := make([]byte, 112)
	copy(header, "QFI\xfb\x00\x00\x00\x03")
	header[79] = 1 << 2 // incompatible feature: the data is in another file
	for name, content := range map[string]string{"another file": string(header), "another format": "raw"} {
		if err := os.WriteFile(filepath.Join(m.dir, diskName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := m.Flatten(t.Context(), h, out); fail.ExitCode(err) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
}

func TestAMachineThatWasKilledIsStopped(t *testing.T) {
	h := testHost(t, answering)
	m := made(t, testFolder(t), "web")
	run, err := m.Start(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Status(); s.State != Running || s.Run.SSHPort() != 4022 || run.Accel != vm.AccelTCG {
		t.Errorf("%+v", s)
	}
	if _, err := m.Start(t.Context(), h); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("%v", err)
	}
	if err := unix.Kill(run.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); m.Running() && time.Since(start) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	if s := m.Status(); s.State != Stopped || s.Run != nil {
		t.Errorf("%+v", s)
	}
	if _, err := m.SSHOptions(""); fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), "vmctl start web") {
		t.Errorf("%v", err)
	}
	// Its number may be anybody's by now.
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	run.PID = other.Process.Pid
	if err := errors.Join(writeJSON(filepath.Join(m.dir, runName), run), m.kill(run.PID), m.Kill(), m.Remove()); err != nil {
		t.Error(err)
	}
	if !lives(other) {
		t.Error("another process was killed")
	}
}

func TestAMachineIsRemovedWhileItRuns(t *testing.T) {
	h := testHost(t, answering)
	m := made(t, testFolder(t), "web")
	if _, err := m.Start(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(); err != nil || m.Exists() {
		t.Errorf("%v", err)
	}
}

// lives says whether a child has not ended. One that has takes signals until somebody waits for it.
func lives(child *exec.Cmd) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.Process.Pid)) // proc_pid_stat(5)
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// obeying is a QEMU that takes talks at descriptor 3 until it is told to quit.
const obeying = `exec python3 -c '
import json, socket
s = socket.socket(fileno=3)
while True:
    c, _ = s.accept()
    c.sendall(b"{\"QMP\": {}}")
    for line in c.makefile():
        question = json.loads(line)
        if question["execute"] == "quit":
            raise SystemExit
        answer = {"id": question["id"], "return": {}}
        if question["execute"] == "human-monitor-command":
            answer["return"] = ""
        c.sendall(json.dumps(answer).encode())'`

// What a container numbers 7 may be anybody's for the host, or for another one.
func TestANumberOfElsewhereIsNobodys(t *testing.T) {
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	here, err := numberedHere()
	if err != nil {
		t.Fatal(err)
	}
	h := testHost(t, obeying)
	for name, at := range map[string]Numbered{"another container": {here.Boot, "pid:[1]"}, "another host": {"other", here.Namespace}} {
		t.Run(name, func(t *testing.T) {
			m := made(t, testFolder(t), "web")
			run, err := m.Start(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			if run.Numbered != here || run.elsewhere() {
				t.Errorf("started %+v, here %+v", run.Numbered, here)
			}
			pid := run.PID
			run.PID, run.Numbered = other.Process.Pid, at
			if err := errors.Join(writeJSON(filepath.Join(m.dir, runName), run), m.Kill()); err != nil {
				t.Error(err, unix.Kill(pid, unix.SIGKILL))
			}
			if !lives(other) || m.Running() {
				t.Errorf("another process lives: %t; QEMU runs: %t", lives(other), m.Running())
			}
		})
	}
}

func TestAnOlderVmctlsMachineIsKilledByItsNumber(t *testing.T) {
	h := testHost(t, answering) // which talks no more
	m := made(t, testFolder(t), "web")
	run, err := m.Start(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	run.Numbered = Numbered{}
	if err := errors.Join(writeJSON(filepath.Join(m.dir, runName), run), m.Kill()); err != nil || m.Running() {
		t.Errorf("%v; it runs: %t", err, m.Running())
	}
}

func TestAQEMUThatDoesNotStartTellsWhy(t *testing.T) {
	h := testHost(t, `echo "qemu: no such machine" >&2; exit 1`)
	m := made(t, testFolder(t), "web")
	_, err := m.Start(t.Context(), h)
	if fail.ExitCode(err) != 3 || !strings.Contains(fail.Tail(err), "no such machine") || m.Running() {
		t.Errorf("%v, %q", err, fail.Tail(err))
	}
}

func TestWhatQEMUsUserMayNotIsTold(t *testing.T) {
	const user, group = 54321, 54322 // nobody's
	open := t.TempDir()
	for dir := open; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	closed := filepath.Join(open, "closed")
	if err := errors.Join(os.MkdirAll(filepath.Join(closed, "site"), 0o755), os.Chmod(closed, 0o700), os.Symlink("closed/site", filepath.Join(open, "link"))); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ports  []vm.Forward
		share  string
		uid    int
		groups []int
		want   string
	}{
		"nothing":                  {[]vm.Forward{{Host: 61000, Guest: 80}}, open, user, nil, ""},
		"a port":                   {[]vm.Forward{{Host: 61000, Guest: 80}, {Host: privilegedPorts() - 1, Guest: 80}}, "", user, nil, "listen on port"},
		"a folder below":           {nil, filepath.Join(closed, "site"), user, nil, "enter " + closed},
		"a folder behind a link":   {nil, filepath.Join(open, "link"), user, nil, "enter " + closed},
		"its owner's":              {nil, filepath.Join(closed, "site"), os.Getuid(), nil, ""},
		"not its group's":          {nil, filepath.Join(closed, "site"), user, []int{os.Getgid()}, "enter " + closed},
		"another group's, not all": {nil, filepath.Join(closed, "site"), user, []int{group}, "enter " + closed},
		"root's":                   {[]vm.Forward{{Host: 80, Guest: 80}}, filepath.Join(closed, "site"), 0, nil, ""},
	} {
		m := Machine{dir: t.TempDir()}
		m.Ports, m.Share = tc.ports, tc.share
		err := m.refused(nil, tc.uid, tc.groups)
		if hint := fail.Hint(err); fail.ExitCode(err) != 3 || (hint == "") != (tc.want == "") || !strings.Contains(hint, tc.want) {
			t.Errorf("%s: hint %q, want %q", name, hint, tc.want)
		}
	}
}

func TestAPortThatIsTakenIsTold(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	m := made(t, testFolder(t), "web")
	m.Ports = []vm.Forward{{Host: listener.Addr().(*net.TCPAddr).Port, Guest: 80}}
	if _, err := m.Start(t.Context(), Host{}); fail.ExitCode(err) != 3 || !strings.Contains(err.Error(), m.Ports[0].String()) {
		t.Errorf("%v", err)
	}
}

func TestAnImageThatHasChangedIsNotStarted(t *testing.T) {
	m := made(t, testFolder(t), "web")
	path := filepath.Join(m.dir, imageName)
	if m.Image.Path != imageName {
		t.Fatalf("the image is not kept: %s", m.Image.Path)
	}
	if err := os.WriteFile(path, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), Host{}); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), Host{}); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("%v", err)
	}
}

func TestTheConsoleHasPlaceForOne(t *testing.T) {
	h := testHost(t, answering)
	m := made(t, testFolder(t), "web")
	if _, _, err := m.Attach(); fail.ExitCode(err) != 2 {
		t.Errorf("of one that does not run: %v", err)
	}
	if _, err := m.Start(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
	}()
	_, release, err := m.Attach()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Attach(); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "somebody is at the console") {
		t.Errorf("%v", err)
	}
	release()
	if _, release, err = m.Attach(); err != nil {
		t.Fatal(err)
	}
	release()
}

func TestWhenAMachineIsUp(t *testing.T) {
	limit := time.Minute
	server, none, unknown := Guest{Known: true, SSH: true}.expect(limit), Guest{Known: true}.expect(limit), Guest{}.expect(limit)
	for name, tc := range map[string]struct {
		e    expectation
		s    sighting
		how  string
		fail string
	}{
		"ssh":                   {server, sighting{ssh: true}, UpBySSH, ""},
		"prompt, ssh to come":   {server, sighting{prompt: 40 * time.Second}, "", ""},
		"prompt, no ssh":        {none, sighting{prompt: 1}, UpByPrompt, ""},
		"prompt, just now":      {unknown, sighting{prompt: 1}, "", ""},
		"prompt, for a while":   {unknown, sighting{prompt: promptGrace}, UpByPrompt, ""},
		"panic":                 {server, sighting{problem: errors.New("kernel panic")}, "", "kernel panic"},
		"gone":                  {unknown, sighting{gone: true}, "", "switched itself off"},
		"too late":              {none, sighting{elapsed: limit}, "", "not up within 1m0s"},
		"too late, with prompt": {server, sighting{elapsed: limit, prompt: 1}, "", "ssh does not answer"},
		"ssh at the last":       {server, sighting{ssh: true, elapsed: limit}, UpBySSH, ""},
	} {
		how, err := tc.e.judge(tc.s)
		if how != tc.how || (err == nil) != (tc.fail == "") || err != nil && !strings.Contains(err.Error(), tc.fail) {
			t.Errorf("%s: %q, %v", name, how, err)
		}
	}
}

func TestAServerThatGreets(t *testing.T) {
	for text, want := range map[string]bool{"SSH-2.0-OpenSSH_10.0\r\n": true, "HTTP/1.1 400": false, "": false} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if conn, err := listener.Accept(); err == nil {
				_, _ = conn.Write([]byte(text))
				conn.Close()
			}
		}()
		if got := greets(t.Context(), listener.Addr().(*net.TCPAddr).Port); got != want {
			t.Errorf("%q: %v", text, got)
		}
		_ = listener.Close()
	}
}

// What was tried in vain reaches the server later, by libslirp, and counts there as
// somebody who does not log in. The server must let us in all the same.
func TestTriesAreTooFewToBeRefused(t *testing.T) {
	const (
		penalty  = time.Second      // of sshd(8) for one that does not log in
		enforced = 15 * time.Second // that have added up
		step     = 100 * time.Millisecond
	)
	for up := time.Duration(0); up < 2*time.Minute; up += time.Second {
		for _, later := range []time.Duration{-time.Minute, -4 * time.Second, -time.Second, 0, 2 * time.Second, 20 * time.Second} {
			start := time.Unix(1, 0)
			prompt := start.Add(max(0, up+later))
			var tries pace
			var tried, arrived []time.Duration
			for now := time.Duration(0); now < up+2*step || len(tried) == 0; now += step {
				var prompted time.Time
				if at := start.Add(now); !at.Before(prompt) {
					prompted = prompt
				}
				if tries.due(start.Add(now), prompted) {
					tried = append(tried, now)
				}
			}
			for _, at := range tried {
				for _, again := range []time.Duration{0, 6 * time.Second, 18 * time.Second, 42 * time.Second} {
					if at+again >= up {
						arrived = append(arrived, at+again)
						break
					}
				}
			}
			slices.Sort(arrived)
			var until time.Duration
			for _, at := range arrived {
				if until = max(until, at) + penalty; until-at >= enforced {
					t.Fatalf("up after %s, prompt after %s: refused %s later, with %d tries on their way", up, prompt.Sub(start), at-up, len(arrived))
				}
			}
		}
	}
}

var testSeed = told{
	name: "web", login: "ssh-ed25519 AAAA vmctl web\n", share: true,
	host: keyPair{"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbg==\n-----END OPENSSH PRIVATE KEY-----\n", "ssh-ed25519 BBBB web\n"},
}

func TestSeeds(t *testing.T) {
	var b strings.Builder
	credentials := testSeed.credentials(Guest{})
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range credentials {
			if !yield(name) {
				return
			}
		}
	}) {
		b.WriteString("# " + name + "\n" + credentials[name] + "\n")
	}
	golden.Equal(t, "credentials.golden", b.String())
	golden.Equal(t, "user-data.golden", testSeed.userData())
	if withoutSSH := testSeed.credentials(Guest{Known: true, Systemd: 257}); withoutSSH["tmpfiles.extra"] != "" {
		t.Error("a guest without ssh gets its host key")
	}
	if got := smbios("a.b", "c,d"); got != "io.systemd.credential.binary:a.b=Yyxk" {
		t.Error(got)
	}
}

func TestAPassingMachineNamesNothing(t *testing.T) {
	s := testSeed
	s.passing = true
	if meta := s.metaData("x"); meta != "instance-id: \"x\"\n" {
		t.Errorf("meta-data %q", meta)
	}
	if !strings.Contains(s.userData(), "\nusers: []\n") || strings.Contains(testSeed.userData(), "users:") {
		t.Error("cloud-init makes its users in what an image is made of")
	}
}

// oddNames is names of machines that YAML takes for something else.
var oddNames = []string{"42", "true", "null", "1e3", "0x10", "1.5", "no", "2026-01-02"}

func TestNamesAreNoNumbers(t *testing.T) {
	for _, name := range oddNames {
		s := testSeed
		s.name = name
		for _, content := range []string{s.metaData(name), s.userData()} {
			var settings map[string]any
			if err := yaml.Unmarshal([]byte(content), &settings); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"instance-id", "local-hostname"} {
				if settings["ssh_keys"] == nil && settings[key] != name {
					t.Errorf("%s: %s is %#v", name, key, settings[key])
				}
			}
		}
	}
}

func TestWhatGuestsUnderstand(t *testing.T) {
	for name, tc := range map[string]struct {
		g                                Guest
		credentials, cloud, open, shares bool
	}{
		"unknown":       {Guest{}, true, true, true, true},
		"Debian 13":     {Guest{Known: true, Systemd: 257, SSH: true}, true, false, true, true},
		"Debian 12":     {Guest{Known: true, Systemd: 252, SSH: true}, true, false, true, false},
		"old, cloud":    {Guest{Known: true, Systemd: 247, SSH: true, CloudInit: true}, false, true, true, true},
		"old":           {Guest{Known: true, Systemd: 247, SSH: true}, false, false, false, false},
		"own seed":      {Guest{Known: true, Systemd: 257, SSH: true, CloudInit: true, Seeded: true}, true, false, true, true},
		"old, own seed": {Guest{Known: true, Systemd: 247, SSH: true, CloudInit: true, Seeded: true}, false, true, true, true},
		"no ssh server": {Guest{Known: true, Systemd: 257}, true, false, false, true},
	} {
		if g := tc.g; g.credentials() != tc.credentials || g.NeedsSeedDisk() != tc.cloud || g.Open() != tc.open || g.Shares() != tc.shares {
			t.Errorf("%s: %v %v %v %v", name, g.credentials(), g.NeedsSeedDisk(), g.Open(), g.Shares())
		}
	}
}

func TestKeysAreThoseOfSSH(t *testing.T) {
	pair, err := newKeyPair("vmctl web")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey([]byte(pair.private))
	if err != nil {
		t.Fatal(err)
	}
	public, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(pair.public))
	if err != nil || comment != "vmctl web" || string(public.Marshal()) != string(signer.PublicKey().Marshal()) {
		t.Errorf("%q, %v", pair.public, err)
	}
}

func TestTheSeedDiskIsMade(t *testing.T) {
	dir := t.TempDir()
	if err := testSeed.write(dir, Guest{}); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, seedDiskName)
	if info, err := os.Stat(disk); err != nil || info.Mode() != 0o600 {
		t.Errorf("the host key is for all to read: %v, %v", info, err)
	}
	if content, err := os.ReadFile(disk); err != nil || !strings.Contains(string(content), "local-hostname: \"web\"\n") || !strings.Contains(string(content), "disable_root: false\n") {
		t.Errorf("it holds no seed: %v", err)
	}
	if known, err := os.ReadFile(filepath.Join(dir, knownHostsName)); err != nil || len(known) > 0 {
		t.Errorf("of a guest that may not take its key: %q, %v", known, err)
	}
}

func TestOptionsOfSSH(t *testing.T) {
	dir := t.TempDir()
	m := Machine{Record: Record{Name: "web"}, dir: filepath.Join(dir, `a "b" 100%`)}
	own := strings.Join(m.sshOptions(4022, "alice"), " ")
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, knownHostsName), []byte("web ssh-ed25519 BBBB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := strings.Join(m.sshOptions(4022, ""), " ")
	golden.Equal(t, "ssh.golden", strings.ReplaceAll(own+"\n"+root+"\n", dir, "DIR"))
}
