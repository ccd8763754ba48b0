package filesystem_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Two folders of the same content that were made in different seconds give the same file
// system.
func TestExt4TellsNothingOfWhenItWasMade(t *testing.T) {
	first := filledExt4(t, sameFolder(t))
	time.Sleep(1100 * time.Millisecond)
	second := filledExt4(t, sameFolder(t))
	for i := range first {
		if first[i] != second[i] {
			t.Fatalf("byte %#x differs: %#x, %#x", i, first[i], second[i])
		}
	}
}

// sameFolder differs from another in the times alone that nobody can set.
func sameFolder(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	for _, err := range []error{
		os.Mkdir(at("folder"), 0o750), os.WriteFile(at("folder/file"), bytes.Repeat([]byte("text"), 5000), 0o644),
		os.WriteFile(at("folder/.hidden"), nil, 0o600), os.Symlink("folder", at("link")), os.Link(at("folder/file"), at("same")),
		(&host.Local{}).Run(t.Context(), host.Cmd("touch", "--no-dereference", "--date=@1700000000", at("link"))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	epoch := time.Unix(1_700_000_000, 0)
	for _, name := range []string{"folder/file", "folder/.hidden", "folder", ""} {
		if err := os.Chtimes(at(name), time.Now(), epoch); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func filledExt4(t *testing.T, folder string) []byte {
	t.Helper()
	ext4, h := filesystem.Named(filesystem.Ext4), &host.Local{}
	target := filesystem.Target{File: filepath.Join(t.TempDir(), "disk"), Size: 32 << 20}
	mkfs := ext4.Mkfs(filesystem.Volume{UUID: id, Label: "root"}, target, folder)
	mkfs.Env = []string{"E2FSPROGS_FAKE_TIME=1700000000"}
	for _, step := range []func() error{
		func() error { return os.WriteFile(target.File, nil, 0o600) },
		func() error { return os.Truncate(target.File, target.Size) },
		func() error { return h.Run(t.Context(), mkfs) },
		func() error { return ext4.Finish(target, folder) },
		func() error { return h.Run(t.Context(), ext4.Fsck(target)) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(target.File)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
