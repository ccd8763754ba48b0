package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// consolePair is a console and the guest at its other end.
func consolePair(t *testing.T) (ours, guest *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "console")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return ends[0], ends[1]
}

// typed is what somebody types. It ends where end is set.
func typed(t *testing.T, keys string, end bool) *os.File {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, keys); err != nil {
		t.Fatal(err)
	}
	if end {
		out.Close()
	}
	t.Cleanup(func() { in.Close(); out.Close() })
	return in
}

func TestAConsoleIsLeft(t *testing.T) {
	for name, tc := range map[string]struct {
		keys, got string
		end, off  bool
	}{
		"by its key":               {keys: "ls\n\x1drm\n", got: "ls\n"},
		"at the end of the input":  {keys: "ls\n", got: "ls\n", end: true},
		"when the machine is gone": {got: "", off: true},
	} {
		t.Run(name, func(t *testing.T) {
			ours, guest := consolePair(t)
			ended := make(chan error, 1)
			var shown bytes.Buffer
			go func() { ended <- exchange(t.Context(), ours, typed(t, tc.keys, tc.end), &shown) }()
			got := make([]byte, len(tc.got))
			if _, err := io.ReadFull(guest, got); err != nil || string(got) != tc.got {
				t.Fatalf("%q, %v", got, err)
			}
			answer := ""
			if tc.end || tc.off {
				answer = "answer"
			}
			if _, err := io.WriteString(guest, answer); err != nil {
				t.Fatal(err)
			}
			if tc.off {
				_ = guest.Close()
			}
			if err := <-ended; err != nil || shown.String() != answer {
				t.Errorf("%v, shown %q", err, &shown)
			}
			if tc.off {
				return
			}
			_ = ours.Close()
			if rest, err := io.ReadAll(guest); err != nil || len(rest) > 0 {
				t.Errorf("typed behind the key: %q, %v", rest, err)
			}
		})
	}
}

func TestAnInterruptedConsoleIsLeft(t *testing.T) {
	ours, _ := consolePair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := exchange(ctx, ours, typed(t, "", false), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestLinesOfAFileThatGrows(t *testing.T) {
	var file bytes.Buffer
	lines := lineReader{from: &file}
	var got []string
	read := func(end bool) {
		for {
			line, err := lines.next(end)
			if err != nil {
				t.Fatal(err)
			}
			if line == nil {
				return
			}
			got = append(got, *line)
		}
	}
	file.WriteString("one\ntw")
	read(false)
	file.WriteString("o\n\nlast")
	read(false)
	read(true)
	if want := []string{"one", "two", "", "last"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	got = nil
	file.WriteString(strings.Repeat("x", 2*longestLine))
	read(false)
	read(true)
	if joined := strings.Join(got, ""); len(joined) != 2*longestLine || len(got) < 2 {
		t.Errorf("%d bytes in %d lines", len(joined), len(got))
	}
}

func TestPathsInMachines(t *testing.T) {
	for path, want := range map[string]string{"web:/etc": "web", "web:": "web", "./a:b": "", "a b:c": "", "/x:y": "", "plain": ""} {
		if got := machineOf(path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got := localOnes([]string{"-r", "web:/x"}, "web"); !slices.Equal(got, []string{"./-r", "web:/x"}) {
		t.Errorf("%q", got)
	}
}
