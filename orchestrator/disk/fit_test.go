package disk

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

// heavy is a tree with a folder /data that holds files of so many MiB in all, and so
// many empty ones.
func heavy(t *testing.T, mib, empty int) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "data"), 0o755))
	content := make([]byte, 1<<20)
	_, err := rand.Read(content)
	must(t, err)
	for i := range mib {
		must(t, os.WriteFile(filepath.Join(root, fmt.Sprintf("data/full-%d", i)), content, 0o644))
	}
	for i := range empty {
		must(t, unix.Mknod(filepath.Join(root, fmt.Sprintf("data/empty-%d", i)), unix.S_IFREG|0o644, 0))
	}
	return root
}

func withData(t *testing.T, kind string, size definition.Size) Plan {
	return planOf(t, size+definition.GiB, definition.Partition{Filesystem: kind, Size: size, Mount: "/data"}, definition.Partition{Filesystem: "ext4", Mount: "/"})
}

var needs = regexp.MustCompile(`^partition 1 \(/data\) of [0-9]+M is too small: its content needs about ([0-9]+[MG])$`)

// A partition of the size that the error asks for is enough, and not far too much.
func TestATreeThatDoesNotFitSaysByHowMuch(t *testing.T) {
	for _, tc := range []struct {
		kind             string
		size             definition.Size
		mib, empty       int
		smallest, enough definition.Size
	}{
		{"ext4", 32 * definition.MiB, 40, 10, 40 * definition.MiB, 52 * definition.MiB},
		{"ext4", 17 * definition.MiB, 0, 5000, 19 * definition.MiB, 22 * definition.MiB},
		{"vfat", 34 * definition.MiB, 40, 10, 40 * definition.MiB, 43 * definition.MiB},
		{"xfs", 300 * definition.MiB, 230, 0, 310 * definition.MiB, 350 * definition.MiB},
		{"btrfs", 256 * definition.MiB, 200, 0, 270 * definition.MiB, 300 * definition.MiB},
	} {
		t.Run(fmt.Sprintf("%s %d MiB %d files", tc.kind, tc.mib, tc.empty), func(t *testing.T) {
			root, fake := heavy(t, tc.mib, tc.empty), &hosttest.Fake{}
			scratch, at := folders(t)
			file := filepath.Join(filepath.Dir(scratch), "disk.raw")
			err := Assemble(t.Context(), fake, withData(t, tc.kind, tc.size), root, file, scratch, directly{})
			if err == nil {
				t.Fatal("no error")
			}
			told := needs.FindStringSubmatch(err.Error())
			if told == nil || fail.ExitCode(err) != fail.Build.ExitCode() || !strings.Contains(fail.Hint(err), "disk.layout") {
				t.Fatalf("error %v, hint %q", err, fail.Hint(err))
			}
			if _, err := os.Stat(file); err == nil || len(fake.Calls) > 0 {
				t.Errorf("something was done before: %q", fake.Calls)
			}
			need, err := definition.ParseSize(told[1])
			must(t, err)
			if need < tc.smallest || need > tc.enough {
				t.Errorf("needs %s, want %s to %s", need, tc.smallest, tc.enough)
			}
			if filesystem.Named(tc.kind).Filling == filesystem.ByKernel {
				return // TestNewFileSystemsHaveTheRoom asks the kernel
			}
			needRoot(t)
			h, plan := local(t), withData(t, tc.kind, need)
			must(t, Assemble(t.Context(), h, plan, root, file, scratch, directly{h, at}))
		})
	}
}

func TestEveryPartitionThatIsTooSmallIsTold(t *testing.T) {
	root := heavy(t, 30, 0)
	plan := planOf(t, 300*definition.MiB, definition.Partition{Filesystem: "ext4", Size: 16 * definition.MiB, Mount: "/"}, definition.Partition{Label: "d", Filesystem: "ext4", Size: 17 * definition.MiB, Mount: "/data"})
	if err := os.WriteFile(filepath.Join(root, "large"), bytes.Repeat([]byte("x"), 20<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	err := Assemble(t.Context(), &hosttest.Fake{}, plan, root, filepath.Join(t.TempDir(), "disk.raw"), t.TempDir(), directly{})
	if err == nil || !strings.Contains(err.Error(), "partition 1 (/) of 16M") || !strings.Contains(err.Error(), "partition 2 (/data) of 17M") {
		t.Errorf("error %v", err)
	}
}

func TestADiskThatHasNoRoomIsNotBegun(t *testing.T) {
	root, fake, file := heavy(t, 1, 0), &hosttest.Fake{}, filepath.Join(t.TempDir(), "disk.raw")
	plan := planOf(t, 300*definition.MiB, definition.Partition{Filesystem: "ext4", Mount: "/"})
	err := Assemble(t.Context(), fake, plan, root, file, t.TempDir(), directly{at: noRoom})
	if _, there := os.Stat(file); err == nil || err.Error() != noRoom || there == nil || len(fake.Calls) > 0 {
		t.Errorf("error %v, and it called %v", err, fake.Calls)
	}
}

func TestHolesAndSecondNamesNeedNoRoom(t *testing.T) {
	root := heavy(t, 10, 0)
	for i := range 10 {
		must(t, os.Link(filepath.Join(root, fmt.Sprintf("data/full-%d", i)), filepath.Join(root, fmt.Sprintf("data/again-%d", i))))
	}
	must(t, os.WriteFile(filepath.Join(root, "data/sparse"), nil, 0o644), os.Truncate(filepath.Join(root, "data/sparse"), 1<<33))
	s := share{Partition: Partition{Filesystem: "ext4"}, folder: filepath.Join(root, "data")}
	used, err := s.measure(filesystem.Named("ext4").Room(1 << 30))
	must(t, err)
	if used.files != 12 || used.bytes < 10<<20 || used.bytes > 11<<20 {
		t.Errorf("%+v", used)
	}
}

// Estimates may be wrong.
func TestAFullPartitionIsToldAsOne(t *testing.T) {
	needRoot(t)
	root := heavy(t, 40, 0)
	for _, kind := range []string{"ext4", "vfat", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			if kind == "btrfs" {
				must(t, os.WriteFile(filepath.Join(root, "data/larger"), bytes.Repeat([]byte("x"), 120<<20), 0o644))
			}
			scratch, at := folders(t)
			file, h := filepath.Join(filepath.Dir(scratch), "disk.raw"), local(t)
			plan := withData(t, kind, definition.Size(map[string]int64{"ext4": 36, "vfat": 36, "btrfs": 120}[kind])*definition.MiB)
			shares, err := plan.shares(root)
			must(t, err, Create(t.Context(), h, plan, file))
			err = shares[0].put(t.Context(), h, file, scratch, directly{h, at})
			if err == nil || !strings.Contains(err.Error(), "is too small: it is full") || fail.Tail(err) == "" || fail.Hint(err) == "" {
				t.Errorf("error %v, the tool said %q", err, fail.Tail(err))
			}
			if left, _ := os.ReadDir(scratch); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestMountPointsAreFolders(t *testing.T) {
	root := t.TempDir()
	plan := withData(t, "ext4", 32*definition.MiB)
	look := func(want string) {
		t.Helper()
		err := Assemble(t.Context(), &hosttest.Fake{}, plan, root, filepath.Join(t.TempDir(), "disk.raw"), t.TempDir(), directly{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	look("partition 1 (/data): the tree has no folder to mount it on")
	must(t, os.Symlink("/", filepath.Join(root, "data")))
	look("partition 2 (/): partition 1 (/data) is mounted on the same folder")
}

// What the kernel says of new file systems is what Room promises, or a little more.
func TestNewFileSystemsHaveTheRoom(t *testing.T) {
	needRoot(t)
	for _, kind := range []string{"xfs", "btrfs"} {
		for _, size := range []int64{300 << 20, 2 << 30, 20 << 30, 100 << 30} {
			t.Run(fmt.Sprintf("%s %dM", kind, size>>20), func(t *testing.T) {
				_, at := folders(t)
				image, h := filepath.Join(filepath.Dir(at), "image"), local(t)
				must(t, newSparse(image, size))
				device, detach, err := h.AttachLoop(image, 0, size)
				must(t, err)
				fs := filesystem.Named(kind)
				must(t, h.Run(t.Context(), fs.Mkfs(filesystem.Volume{UUID: planOf(t, 1<<30, definition.Partition{Filesystem: kind, Mount: "/"}).Partitions[0].UUID}, filesystem.Target{File: device, Size: size}, "")))
				unmount, err := h.Mount(host.Mount{Source: device, Target: at, Type: kind})
				must(t, err)
				var stat unix.Statfs_t
				must(t, unix.Statfs(at, &stat), unmount(), detach())
				free := int64(stat.Bavail) * stat.Bsize
				if room := fs.Room(size).Bytes; room > free+free/100 || room < free-free/20-32<<20 {
					t.Errorf("room for %d MiB, the kernel has %d MiB", room>>20, free>>20)
				}
			})
		}
	}
}
