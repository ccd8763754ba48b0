package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// smallFolder is a file system of 1 MiB.
func smallFolder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts; make test runs this as root")
	}
	folder := t.TempDir()
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "mode=755,size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(folder, 0) })
	return folder
}

// fillUp leaves no room in a smallFolder.
func fillUp(t *testing.T, folder string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, "filler"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func TestAFullPlaceIsTheHostsFault(t *testing.T) {
	full, store := smallFolder(t), storePlace(t.TempDir())
	fillUp(t, full)
	results, fullResults := resultsPlace(t.TempDir(), "images"), resultsPlace(full, "images")
	toldByTool := &fail.Error{Kind: fail.Build, Op: "dpkg", Tail: "dpkg: error: failed to write (No space left on device)", Err: errors.New("exit status 2")}
	quiet := errors.New("exit status 1")
	hinted := fail.New(fail.Host, "", "a hint of its own", "no apt-helper")
	for name, tc := range map[string]struct {
		err    error
		places []place
		code   int
		hint   string
		says   string
	}{
		"a tool tells, in the store":   {toldByTool, []place{store, results}, 3, "--cache", "exit status 2"},
		"a tool tells, in the results": {toldByTool, []place{store, fullResults}, 3, "-o", "exit status 2"},
		"the kernel tells":             {fmt.Errorf("write x: %w", unix.ENOSPC), []place{results}, 3, "-o", "write x"},
		"a quota":                      {fmt.Errorf("write x: %w", unix.EDQUOT), []place{results}, 3, "-o", "write x"},
		"nobody tells":                 {quiet, []place{store, fullResults}, 3, "-o", "no space left in images: exit status 1"},
		"there is room":                {quiet, []place{store, results}, 1, "", "exit status 1"},
		"told better before":           {hinted, []place{fullResults}, 3, "a hint of its own", "no apt-helper"},
		"interrupted":                  {context.Canceled, []place{fullResults}, 130, "", "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			err := explainFull(tc.err, tc.places...)
			if fail.ExitCode(err) != tc.code || !strings.Contains(fail.Hint(err), tc.hint) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("exit code %d, %v, hint %q", fail.ExitCode(err), err, fail.Hint(err))
			}
		})
	}
	if err := explainFull(nil, fullResults); err != nil {
		t.Error(err)
	}
}

func TestResultsThatFindNoRoomLeaveTheBuildBefore(t *testing.T) {
	folder := smallFolder(t)
	deliver(t, folder, "the good one")
	w := open(t, folder)
	if _, err := fmt.Fprintln(w.log, "what happened"); err != nil {
		t.Fatal(err)
	}
	fillUp(t, folder)
	failure := w.deliver(t.Context(), Manifest{Name: "debian", Stages: make([]StageTime, 1000)}, DiskFacts{})
	if err := explainFull(failure, resultsPlace(w.work, folder)); fail.ExitCode(err) != 3 || !strings.Contains(fail.Hint(err), "free space in "+folder) {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
	if err := w.close(failure); err != nil {
		t.Error(err)
	}
	if content := built(t, folder); content != "the good one" {
		t.Errorf("the build before is now %q", content)
	}
	content, err := os.ReadFile(LogPath(folder, "debian", true))
	if err != nil || !strings.HasPrefix(string(content), "what happened") {
		t.Errorf("the log is %q, %v", content, err)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, ".debian.work")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
