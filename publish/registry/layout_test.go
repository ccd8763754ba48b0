package registry

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// TestLayoutLeavesFoldersOfOthersAlone has a folder that looks like a layout that
// lost its mark, such as another program's store of blobs.
func TestLayoutLeavesFoldersOfOthersAlone(t *testing.T) {
	dir := t.TempDir()
	theirs := filepath.Join(dir, "blobs", "sha256", "theirs")
	if err := os.MkdirAll(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	err := send(t, Access{}, parse(t, "oci:"+dir), "disk")
	if fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "something else") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
	if names := folderNames(t, dir); !slices.Equal(names, []string{"blobs"}) {
		t.Errorf("the folder holds %v", names)
	}
}

// TestLayoutGoesOnAfterAKilledPush has what SIGKILL leaves of a first push.
func TestLayoutGoesOnAfterAKilledPush(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	ref := parse(t, "oci:"+dir)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, stageName, "half"), 0o755), os.MkdirAll(filepath.Join(dir, "blobs"), 0o755), os.WriteFile(filepath.Join(dir, lockName), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := send(t, Access{}, ref, "disk"); err != nil {
		t.Fatal(err)
	}
	if names := folderNames(t, dir); !slices.Equal(names, []string{lockName, "blobs", "index.json", "oci-layout"}) {
		t.Errorf("the folder holds %v", names)
	}
}

func TestLayoutKeepsHoles(t *testing.T) {
	disk := strings.Repeat("a", 1<<20) + strings.Repeat("\x00", 2<<20) + strings.Repeat("b", 1<<20)
	dir := filepath.Join(t.TempDir(), "layout")
	if err := send(t, Access{}, parse(t, "oci:"+dir), disk); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "blobs/sha256", blob(disk).Digest.Encoded()), &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > 5<<19 { // 2 of 4 MiB are a hole
		t.Errorf("%d of %d bytes are on disk", used, stat.Size)
	}
}
