package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// fakeQEMU puts a script on PATH as the emulator.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	fakeTool(t, arch.Target.QEMU.Binary, script)
}

// fakeTool puts a script on PATH, where any user reaches it.
func fakeTool(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755),
		os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestQEMUIsConfinedAsFarAsTheHostCan(t *testing.T) {
	const noSeccomp = `case " $* " in *-sandbox*) echo "$0: -sandbox support is not enabled in this QEMU binary" >&2; exit 1 ;; esac`
	for name, tc := range map[string]struct{ script, note, problem string }{
		"sandbox":    {script: `[ "$1 $2 $3 $4 $5 $6" = "-nodefaults -no-user-config -display none -sandbox ` + sandbox + `" ]`},
		"no seccomp": {script: noSeccomp, note: "QEMU runs without its sandbox: exit status 1: "},
		"broken":     {script: "echo cannot load libfoo >&2; exit 127", problem: "exit status 127: cannot load libfoo"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeQEMU(t, tc.script)
			c, err := Confine(t.Context(), 0, 0)
			if tc.problem != "" {
				if fail.ExitCode(err) != 3 || !strings.Contains(err.Error(), tc.problem) || fail.Hint(err) == "" {
					t.Errorf("%v", err)
				}
				return
			}
			if notes := strings.Join(c.Notes(AccelTCG), "\n"); err != nil || !strings.HasPrefix(notes, tc.note) || (notes == "") != (tc.note == "") {
				t.Errorf("%v, notes %q", err, notes)
			}
		})
	}
}

func TestRootsQEMUIsAnotherUsers(t *testing.T) {
	for _, tc := range []struct {
		uid, gid int
		want     string
	}{{12345, 12346, "12345:12346"}, {0, 0, "65534:65534"}, {12345, 0, "65534:65534"}, {-1, -1, "65534:65534"}} {
		if os.Geteuid() != 0 { // an ordinary user's QEMU is the user's own
			tc.want = fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
		}
		fakeQEMU(t, `[ "$(id -u):$(id -g)" = `+tc.want+` ]`)
		c, err := Confine(t.Context(), tc.uid, tc.gid)
		if err != nil || c.Notes(AccelTCG) != nil || (c.as(AccelTCG) == nil) != (os.Geteuid() != 0) {
			t.Errorf("%d:%d: %v, notes %q", tc.uid, tc.gid, err, c.Notes(AccelTCG))
		}
	}
}

func TestWhoOpensKVM(t *testing.T) {
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	for name, tc := range map[string]struct {
		user   syscall.Credential
		mode   os.FileMode
		may    bool
		groups int
	}{
		"its owner":         {syscall.Credential{Uid: uid, Gid: gid + 1}, 0o600, true, 0},
		"everybody":         {syscall.Credential{Uid: uid + 1, Gid: gid + 1}, 0o666, true, 0},
		"nobody else":       {syscall.Credential{Uid: uid + 1, Gid: gid + 1}, 0o600, false, 0},
		"only for reading":  {syscall.Credential{Uid: uid + 1, Gid: gid + 1}, 0o644, false, 0},
		"its group":         {syscall.Credential{Uid: uid + 1, Gid: gid}, 0o660, true, 1},
		"root's group only": {syscall.Credential{Uid: uid + 1, Gid: gid + 1}, 0o660, gid != 0, 1},
	} {
		if err := os.Chmod(device, tc.mode); err != nil {
			t.Fatal(err)
		}
		got := forKVM(tc.user, device)
		if (got != nil) != tc.may || got != nil && len(got.Groups) != tc.groups {
			t.Errorf("%s: %+v", name, got)
		}
	}
	root := Confinement{user: &syscall.Credential{Uid: nobody}}
	if notes := root.Notes(AccelKVM); root.as(AccelKVM) != nil || len(notes) != 1 || !strings.Contains(notes[0], "runs as root") {
		t.Errorf("notes %q", notes)
	}
	if root.as(AccelTCG) == nil {
		t.Error("emulation runs as root")
	}
}

func TestWhatQEMUSaysOfAnImage(t *testing.T) {
	const file = `{"node-name": "image-file", "file": "/dev/fdset/4", "image": {"virtual-size": 9}}`
	for name, tc := range map[string]struct{ nodes, problem string }{
		"whole":            {`{"node-name": "image", "file": "/dev/fdset/4", "image": {"virtual-size": 512}}, ` + file, ""},
		"whole, rewritten": {`{"node-name": "image", "file": "json:{}", "image": {"virtual-size": 512}}, ` + file, ""},
		"extent":           {`{"node-name": "#block092", "file": "/etc/shadow"}, {"node-name": "image", "file": "/dev/fdset/4", "image": {"virtual-size": 512}}, ` + file, `depends on another file, "/etc/shadow"`},
		"backing file":     {`{"node-name": "image", "file": "json:{}", "image": {"virtual-size": 512, "backing-filename": "nbd://\u001b[2J"}}, ` + file, `depends on another file, "nbd://\x1b[2J"`},
		"encrypted":        {`{"node-name": "image", "file": "/dev/fdset/4", "image": {"virtual-size": 512, "encrypted": true}}, ` + file, "encrypted"},
		"twice":            {`{"node-name": "image", "file": "/dev/fdset/4", "image": {"virtual-size": 512}}, ` + file + `, ` + file, "not describe it as one disk"},
		"empty":            {`{"node-name": "image", "file": "/dev/fdset/4", "image": {"virtual-size": 0}}, ` + file, "not describe it as one disk"},
		"nothing":          {``, "not describe it as one disk"},
	} {
		m := fakeMonitor(t, `{"event": "RESUME"} {"return": [`+tc.nodes+`]}`)
		nodes, err := nodesOf(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		size, err := judgeNodes(nodes, "/dev/fdset/4")
		if tc.problem == "" && (err != nil || size != 512) {
			t.Errorf("%s: %d, %v", name, size, err)
		}
		if tc.problem != "" && (fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), tc.problem)) {
			t.Errorf("%s: %v, want %s", name, err, tc.problem)
		}
	}
}

func TestAnImageThatQEMUCannotOpen(t *testing.T) {
	fakeQEMU(t, `case " $* " in *' -device help '*) exit ;; esac; echo "qemu: Image is corrupt" >&2; exit 1`)
	c, err := Confine(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := c.Describe(t.Context(), image, "qcow2"); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "cannot read it as qcow2: exit status 1: qemu: Image is corrupt") {
		t.Errorf("%v", err)
	}
}
