package filesystem_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// The room of ext4 is computed, and mke2fs is right.
func TestExt4HasTheRoomThatIsComputed(t *testing.T) {
	ext4, h := filesystem.Named(filesystem.Ext4), &host.Local{Log: t.Output()}
	for _, mib := range []int64{16, 34, 64, 127, 128, 511, 512, 600, 1024, 2048, 3900, 4096, 8192, 20480, 65536, 1 << 20} {
		t.Run(fmt.Sprintf("%d MiB", mib), func(t *testing.T) {
			file, size := filepath.Join(t.TempDir(), "image"), mib<<20
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, size); err != nil {
				t.Fatal(err)
			}
			if err := h.Run(t.Context(), ext4.Mkfs(filesystem.Volume{UUID: id}, filesystem.Target{File: file, Size: size}, "")); err != nil {
				t.Fatal(err)
			}
			super, err := h.Output(t.Context(), host.Cmd("dumpe2fs", "-h", file))
			if err != nil {
				t.Fatal(err)
			}
			number := func(what string) int64 {
				found := regexp.MustCompile(what + `: +([0-9]+)`).FindSubmatch(super)
				if found == nil {
					t.Fatalf("dumpe2fs does not tell %s", what)
				}
				n, _ := strconv.ParseInt(string(found[1]), 10, 64)
				return n
			}
			room, blocks := ext4.Room(size), number("Free blocks")
			if more := blocks - room.Bytes/room.Block; more < 0 || more > 32 {
				t.Errorf("%d blocks are free, %d more than computed", blocks, more)
			}
			if files := number("Free inodes"); files != room.Files {
				t.Errorf("there is room for %d files, not %d", files, room.Files)
			}
		})
	}
}

func TestALargerFileSystemHoldsMore(t *testing.T) {
	for _, name := range filesystem.Names((*filesystem.Filesystem).Mountable) {
		fs := filesystem.Named(name)
		before := fs.Room(fs.Smallest)
		for size := fs.Smallest; size < 1<<43; size += size/16>>20<<20 + 1<<20 {
			room := fs.Room(size)
			if room.Files < before.Files-before.Files/200 || room.Bytes < before.Bytes-before.Bytes/20 || room.Bytes > size {
				t.Fatalf("%s of %d MiB: %+v, and less before that: %+v", name, size>>20, room, before)
			}
			before = room
		}
	}
}
