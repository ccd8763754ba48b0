package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

// Somebody else's file system is read where it lies in a disk, and is the same afterwards.
func TestFileSystemsOfOthersAreRead(t *testing.T) {
	needRoot(t)
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			part := planOf(t, 400*definition.MiB, definition.Partition{Filesystem: kind, Mount: "/"}).Partitions[0]
			folder, at := folders(t)
			tree, file, device := t.TempDir(), filepath.Join(folder, "partition"), filepath.Join(folder, "disk")
			inside := "."
			if kind == "btrfs" {
				inside = "@rootfs" // as Debian's installer has it
			}
			must(t, os.MkdirAll(filepath.Join(tree, inside, "etc"), 0o755), os.WriteFile(filepath.Join(tree, inside, "etc/hostname"), []byte("theirs"), 0o600))
			must(t, newSparse(file, part.Size), Fill(t.Context(), local(t), part, file, tree, at))
			must(t, newSparse(device, part.Size+2<<20), splice(t.Context(), file, device, 1<<20))
			before, err := os.ReadFile(device)
			must(t, err)
			var content []byte
			read := func(root string) error {
				var err error
				content, err = os.ReadFile(filepath.Join(root, "etc/hostname"))
				if writing := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); writing == nil {
					err = errors.New("it can be written")
				}
				return err
			}
			must(t, Read(local(t), Volume{Filesystem: kind, Start: 1 << 20, Size: part.Size}, device, at, read))
			if string(content) != "theirs" {
				t.Errorf("read %q", content)
			}
			after, err := os.ReadFile(device)
			must(t, err)
			if string(before) != string(after) {
				t.Error("the disk has changed")
			}
			failure := errors.New("enough")
			if err := Read(local(t), Volume{Filesystem: kind, Start: 1 << 20, Size: part.Size}, device, at, func(string) error { return failure }); !errors.Is(err, failure) {
				t.Error(err)
			}
			if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
				t.Errorf("still mounted: %v, %v", entries, err)
			}
			if err := Read(local(t), Volume{Filesystem: kind, Start: 0, Size: 1 << 20}, device, at, read); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("no file system: %v", err)
			}
		})
	}
}
