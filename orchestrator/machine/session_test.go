package machine

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell is a session with a shell of this machine.
func shell(t *testing.T, command string) *Session {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	console, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	guest, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	file, err := guest.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = errors.Join(console.Close(), guest.Close(), file.Close(), listener.Close(), cmd.Process.Kill())
		_ = cmd.Wait()
	})
	return &Session{console: console}
}

func TestASessionRunsPrograms(t *testing.T) {
	s := shell(t, "cd / && exec sh")
	for name, tc := range map[string]struct {
		program, want string
		code          int
	}{
		"lines":       {"#!/bin/sh\necho a\necho b >&2\n", "a\nb\n", 0},
		"half a line": {"printf half", "half", 0},
		"empty lines": {"echo; echo a; echo; echo", "\na\n\n\n", 0},
		"fails":       {"echo a; exit 7", "a\n", 7},
		"nothing":     {"exit 3", "", 3},
		"reads":       {"read x || echo end", "end\n", 0},
		"a like mark": {"echo 'vmctl-$((1+1))-$code-'; echo vmctl-99-0-", "vmctl-$((1+1))-$code-\nvmctl-99-0-\n", 0},
		"long":        {"#!/bin/sh\n#" + strings.Repeat("x", 3*typedAtOnce) + "\necho a", "a\n", 0},
		"says a lot":  {"seq 30000 | tr -d '\\n'", "", 0},
		"where it is": {"test -x \"$0\" && dirname \"$(dirname \"$0\")\"", "/var/tmp\n", 0},
	} {
		var said strings.Builder
		code, err := s.Run(t.Context(), []byte(tc.program), &said)
		if err != nil || code != tc.code || name != "says a lot" && said.String() != tc.want {
			t.Errorf("%s: %d, %v, %q", name, code, err, said.String())
		}
	}
}

func TestASessionEndsWithItsCaller(t *testing.T) {
	s := shell(t, "cat >/dev/null")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Run(ctx, []byte("x"), &strings.Builder{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	mark := s.nextMark()
	if _, err := s.until(t.Context(), 50*time.Millisecond, "x\n", mark, &strings.Builder{}); err == nil {
		t.Error("a guest that says nothing is waited for")
	}
}
