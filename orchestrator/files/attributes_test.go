package files_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
)

func TestAttributes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := files.Attributes(path); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
	want := map[string]string{"user.empty": "", "user.binary": "a\x00b"}
	for name, value := range want {
		if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	// Only root can give it one of those that are left out.
	if err := unix.Setxattr(path, "trusted.x", []byte("x"), 0); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	if found, err := files.Attributes(path); err != nil || !maps.Equal(found, want) {
		t.Errorf("%q, %v", found, err)
	}
	if err := os.Symlink("file", filepath.Join(filepath.Dir(path), "link")); err != nil {
		t.Fatal(err)
	}
	if found, err := files.Attributes(filepath.Join(filepath.Dir(path), "link")); err != nil || len(found) > 0 {
		t.Errorf("of a link: %q, %v", found, err)
	}
	if _, err := files.Attributes(path + "gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
