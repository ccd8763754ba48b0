package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

const testJail = "as-jail"

// TestMain lets this binary be a jail.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != testJail {
		os.Exit(m.Run())
	}
	if err := RunInJail(nil, confess); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// confess is the verb that these tests run in a jail.
func confess(_ context.Context, arguments []string, stdout, stderr io.Writer) int {
	if arguments[0] == "read-only-but" {
		fmt.Fprint(stdout, host.ReadOnlyBut(arguments[1]), " ")
		for _, folder := range arguments[1:] {
			err := os.WriteFile(filepath.Join(folder, "written"), nil, 0o600)
			fmt.Fprint(stdout, errors.Is(err, unix.EROFS), " ", err == nil, " ")
		}
		return 0
	}
	fmt.Fprintf(stdout, "process %d, %q", os.Getpid(), arguments)
	fmt.Fprint(stderr, "user ", os.Geteuid())
	return 7
}

func TestAVerbRunsInAJail(t *testing.T) {
	needRoot(t)
	var stdout, stderr bytes.Buffer
	code, err := RunVerbInJail(t.Context(), testJail, []string{"a", "b c"}, &stdout, &stderr)
	if code != 7 || err != nil || stdout.String() != `process 1, ["a" "b c"]` || stderr.String() != "user 0" {
		t.Errorf("exit code %d, %v: %q, %q", code, err, stdout.String(), stderr.String())
	}
}

func TestAJailCanBeReadOnlyButForAFolder(t *testing.T) {
	needRoot(t)
	var stdout, stderr bytes.Buffer
	code, err := RunVerbInJail(t.Context(), testJail, []string{"read-only-but", t.TempDir(), t.TempDir(), "/run", "/dev/shm"}, &stdout, &stderr)
	if code != 0 || err != nil || stdout.String() != "<nil> false true true false true false true false " {
		t.Errorf("exit code %d, %v: %s", code, err, &stdout)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces, loop devices and files of all users; make test runs this as root")
	}
}

// sparse makes a file of that size, which it holds nothing of.
func sparse(t *testing.T, name string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// do does an errand as the parent of a confined jail has it done; the files are this
// process's.
func do(t *testing.T, e errand, log io.Writer) error {
	t.Helper()
	e.Root = "/"
	_, err := converse(t.Context(), host.JailOptions{Args: []string{testJail}, Privilege: host.Mounting, Request: request{Errand: &e}, Log: log}, nil)
	return err
}

const smallDisk = 16 << 20

func TestAnErrandIsDoneAndSaysWhatWentWrong(t *testing.T) {
	needRoot(t)
	if err := host.CanLoop(); err != nil {
		t.Fatal(err) // root's host has loop devices, or builds no xfs either
	}
	part := disk.Partition{Number: 1, Filesystem: "ext4", UUID: "00000001-0000-4000-8000-000000000000", Mount: "/", Size: smallDisk}
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := sparse(t, "image", smallDisk)
	for _, e := range []errand{{Fill: &part, File: file, Tree: tree}, {Compare: &disk.Plan{Partitions: []disk.Partition{part}}, File: file, Tree: tree}} {
		if err := do(t, e, t.Output()); err != nil {
			t.Fatal(err, fail.Tail(err))
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "large"), bytes.Repeat([]byte("x"), 2*smallDisk), 0o644); err != nil {
		t.Fatal(err)
	}
	err := do(t, errand{Fill: &part, File: file, Tree: tree}, io.Discard)
	if fail.ExitCode(err) != fail.Build.ExitCode() || !strings.Contains(fmt.Sprint(err), "too small") || fail.Hint(err) == "" || !strings.Contains(fail.Tail(err), "No space left") {
		t.Errorf("error %v, hint %q, tail %q", err, fail.Hint(err), fail.Tail(err))
	}
}

// A jail that has been taken over cannot have a disk of the host's overwritten.
func TestAnErrandTouchesFilesAlone(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	for _, err := range []error{
		os.Mkdir(at("work"), 0o755), os.WriteFile(at("work/file"), nil, 0o600), os.Symlink("file", at("work/link")), os.Symlink("work", at("elsewhere")),
		unix.Mkfifo(at("work/fifo"), 0o600), unix.Mknod(at("work/disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, good := range map[string]bool{
		"/work/file": true, "/../../work/file": true, "/work/link": false, "/elsewhere/file": false, "/work/disk": false, "/work/fifo": false, "/work": false, "/no": false,
	} {
		file, err := errand{File: name, Root: root}.open()
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if file != nil {
			file.Close()
		}
	}
}

func TestWhatAJailCannotDoAtAllKeepsItsKind(t *testing.T) {
	needRoot(t)
	file := sparse(t, "image", smallDisk)
	none := disk.Plan{Partitions: []disk.Partition{{Number: 1, Filesystem: "ext4", Mount: "/nowhere", Size: smallDisk}}}
	err := do(t, errand{Compare: &none, File: file, Tree: t.TempDir()}, io.Discard)
	if fail.ExitCode(err) != fail.Build.ExitCode() || fail.Hint(err) != "let a layer make the folder /nowhere" {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = converse(ctx, host.JailOptions{Args: []string{testJail}, Request: request{}, Log: io.Discard}, nil)
	if fail.ExitCode(err) != fail.Interrupted.ExitCode() {
		t.Errorf("cancelled before it began: %v", err)
	}
}
