package files_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
)

func TestFoldersAreMadeWhereThereAreNone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := (files.Owner{}).MakeFolders(path); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(file, "below")} {
		if err := (files.Owner{}).MakeFolders(bad); err == nil {
			t.Errorf("%s is no folder, and none can be made there", bad)
		}
	}
}

// TestCallerOfSudoGetsWhatRootMakes runs where the tests run as root; the
// end-to-end tests always do.
func TestCallerOfSudoGetsWhatRootMakes(t *testing.T) {
	const uid = 54321
	t.Setenv("SUDO_UID", "54321")
	t.Setenv("SUDO_GID", "54321")
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b")
	if err := files.Caller().MakeFolders(path); err != nil {
		t.Fatal(err)
	}
	planted := filepath.Join(path, "planted")
	file, other := filepath.Join(path, "file"), filepath.Join(dir, "other")
	for _, name := range []string{file, other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(other, planted); err != nil {
		t.Fatal(err)
	}
	if err := files.Caller().GiveFolder(path); err != nil {
		t.Fatal(err)
	}
	want := uint32(uid)
	if os.Geteuid() != 0 {
		want = uint32(os.Geteuid()) // sudo's variables mean nothing to others
	}
	for name, want := range map[string]uint32{filepath.Dir(path): want, path: want, file: want, planted: uint32(os.Geteuid())} {
		var stat unix.Stat_t
		if err := unix.Lstat(name, &stat); err != nil || stat.Uid != want {
			t.Errorf("%s belongs to %d, want %d; %v", name, stat.Uid, want, err)
		}
	}
}
