package files

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatTheKernelCannotTellIsAskedAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		fail  int // so often
		with  error
		tries int
		err   error
	}{
		"well": {tries: 1}, "renamed": {fail: 3, with: unix.EAGAIN, tries: 4}, "interrupted": {fail: 1, with: unix.EINTR, tries: 2},
		"missing": {fail: 9, with: unix.ENOENT, tries: 1, err: unix.ENOENT}, "always": {fail: 2 * mostTries, with: unix.EAGAIN, tries: mostTries, err: unix.EAGAIN},
	} {
		tries := 0
		_, err := again(func() (int, error) {
			if tries++; tries <= tc.fail {
				return -1, tc.with
			}
			return 1, nil
		})
		if tries != tc.tries || !errors.Is(err, tc.err) {
			t.Errorf("%s: %d tries, %v", name, tries, err)
		}
	}
}

// TestAWayUpIsFoundWhileOthersRename opens the top of a root by way of folders above it.
func TestAWayUpIsFoundWhileOthersRename(t *testing.T) {
	folder, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "a")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(root) }()
	var done atomic.Bool
	renaming := make(chan struct{})
	go func() {
		defer close(renaming)
		for !done.Load() {
			_ = errors.Join(os.Rename(elsewhere, elsewhere+"b"), os.Rename(elsewhere+"b", elsewhere))
		}
	}()
	defer func() {
		done.Store(true)
		<-renaming
	}()
	for range 2000 {
		fd, err := Openat2(root, strings.Repeat("../", 40), &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
	}
}
