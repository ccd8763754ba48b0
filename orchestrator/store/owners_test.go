package store_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// A file system on which no owner can be changed is known by a user namespace in which
// there is but one.
func TestAStoreWhoseFilesCannotHaveSeveralOwnersIsRefused(t *testing.T) {
	needsRoot(t)
	folder := t.TempDir()
	cmd, err := helper{Folder: folder, Key: "base", Script: "touch file"}.command(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	root := []syscall.SysProcIDMap{{Size: 1}}
	cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = root, root
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "cannot belong to all users of an image") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, _ := os.ReadDir(folder + "/work"); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
}
