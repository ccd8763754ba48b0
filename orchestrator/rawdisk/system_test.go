package rawdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/arch"
)

func TestAccessListsAreAsTheKernelGivesThem(t *testing.T) {
	stored := "\x01\x00\x00\x00" + "\x01\x00\x06\x00" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00" + "\x10\x00\x04\x00" + "\x20\x00\x00\x00"
	none := "\xff\xff\xff\xff"
	want := "\x02\x00\x00\x00" + "\x01\x00\x06\x00" + none + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00" + none + "\x10\x00\x04\x00" + none + "\x20\x00\x00\x00" + none
	if got := accessList([]byte(stored)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for n := range stored {
		accessList([]byte(stored[:n])) // does not panic
	}
}

func TestFieldsOfFstab(t *testing.T) {
	for field, want := range map[string]string{"/a\\040b": "/a b", "/a\\": "/a\\", "/\\0": "/\\0", "/\\134x": "/\\x", "/\\999": "/\\999"} {
		if got := unescaped(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
}

// made is an ext4 file system of those names, each of which is a folder or, with a dot in it, an
// empty file.
func made(t *testing.T, label string, names ...string) []byte {
	t.Helper()
	root, path := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 4<<20))
	for _, name := range names {
		if strings.Contains(name, ".") {
			err = errors.Join(err, os.WriteFile(filepath.Join(root, name), nil, 0o600))
		} else {
			err = errors.Join(err, os.MkdirAll(filepath.Join(root, name), 0o755))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mkfs.ext4", "-q", "-F", "-L", label, "-d", root, path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

func namesOf(t *testing.T, s *System) (names []string) {
	t.Helper()
	err := s.Walk(t.Context(), func(e Entry) error {
		names = append(names, e.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestARootWithoutFstabIsKnownByItsLabel(t *testing.T) {
	for label, want := range map[string]bool{"root": true, "cloudimg-rootfs": true, "data": false} {
		disk := made(t, label, "etc", "usr")
		s, err := OpenSystem(bytes.NewReader(disk), int64(len(disk)))
		if (err == nil) != want || err == nil && strings.Join(namesOf(t, s), " ") != " etc usr" {
			t.Errorf("%s: %v", label, err)
		}
	}
	disk := made(t, "root", "etc")
	if _, err := OpenSystem(bytes.NewReader(disk), int64(len(disk))); err == nil {
		t.Error("a tree without programs is a root")
	}
}

func TestTheTypeOfAPartitionTellsTheRoot(t *testing.T) {
	tree, _, err := Open(bytes.NewReader(made(t, "", "etc", "usr")), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	plain, typed := volume{tree: tree, Partition: Partition{Number: 1}}, volume{tree: tree, Partition: Partition{Number: 2, Type: strings.ToLower(arch.Target.RootType)}}
	named := volume{tree: tree, Partition: Partition{Number: 3, Label: "root"}}
	for _, tc := range []struct {
		volumes []volume
		want    int
	}{{[]volume{plain, named, typed}, 2}, {[]volume{plain, named}, 3}, {[]volume{plain}, 0}} {
		root, _, err := rootOf(tc.volumes)
		if err != nil || root == nil && tc.want != 0 || root != nil && root.Number != tc.want {
			t.Errorf("%+v, %v, want %d", root, err, tc.want)
		}
	}
}

func TestWhatOnlyTheKernelReads(t *testing.T) {
	disk := append([]byte("XFSB"), make([]byte, headSize)...)
	_, err := OpenSystem(bytes.NewReader(disk), int64(len(disk)))
	unread, is := errors.AsType[*Unread](err)
	if !is || unread.Filesystem != "xfs" || unread.Size != int64(len(disk)) || !strings.Contains(err.Error(), "vmctl does not read files of xfs") {
		t.Errorf("%+v, %v", unread, err)
	}
}

func TestWhatBelongsIntoARootThatIsReadElsewhere(t *testing.T) {
	disk := made(t, "boot", "grub", "vmlinuz.x")
	s, err := OpenMounts(bytes.NewReader(disk), int64(len(disk)), 9, []byte("UUID=x / xfs defaults\nLABEL=boot /boot ext4 defaults\nLABEL=gone /srv ext4 defaults\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(namesOf(t, s), " "); got != "boot boot/grub boot/vmlinuz.x" {
		t.Errorf("%q", got)
	}
	below, _, err := Open(bytes.NewReader(made(t, "below", "x.cfg")), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	s.mounts["boot/grub"] = below
	if got := strings.Join(namesOf(t, s), " "); got != "boot boot/grub boot/grub/x.cfg boot/vmlinuz.x" {
		t.Errorf("one in another: %q", got)
	}
}

// A disk that is cut off, or damaged anywhere in its structures, ends in an error or in a tree, and
// in no panic and no endless walk.
func TestDamagedSystems(t *testing.T) {
	root, path := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/fstab"), []byte("/dev/sda1 / ext4 defaults\n\n#\nUUID= /x ext4\nLABEL=\"\" /y\n"), 0o644),
		os.WriteFile(path, nil, 0o600), os.Truncate(path, 4<<20))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mkfs.ext4", "-q", "-F", "-d", root, path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	walk := func(disk []byte) (names []string, err error) {
		system, err := OpenSystem(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			return nil, err
		}
		err = system.Walk(t.Context(), func(e Entry) error {
			names = append(names, e.Path)
			if e.IsRegular() {
				content, err := e.Content()
				if err != nil {
					return err
				}
				_, err = io.CopyN(io.Discard, io.NewSectionReader(content, 0, e.Size), min(e.Size, 1<<20))
				return err
			}
			return nil
		})
		return names, err
	}
	if names, err := walk(whole); err != nil || strings.Join(names, " ") != " etc etc/fstab" {
		t.Fatalf("%q, %v", names, err)
	}
	for _, size := range []int{0, 100, 1 << 11, 1 << 13, 1 << 16, 1 << 18} {
		if _, err := walk(whole[:size]); err == nil {
			t.Errorf("a disk of %d bytes has a tree", size)
		}
	}
	for at := 1024; at < 512<<10; at += 37 {
		if whole[at] == 0 && at > 4096 {
			continue
		}
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0xff
		_, _ = walk(damaged)
	}
}

// parted is a disk with an MBR and partitions of 4 MiB with those contents.
func parted(contents ...[]byte) []byte {
	const each = 4 << 20
	disk := make([]byte, each*(len(contents)+1))
	copy(disk[440:], []byte{0xef, 0xbe, 0xad, 0xde})
	disk[510], disk[511] = 0x55, 0xaa
	for i, content := range contents {
		entry := disk[446+16*i:]
		entry[4] = 0x83
		binary.LittleEndian.PutUint32(entry[8:], uint32((i+1)*each/SectorSize))
		binary.LittleEndian.PutUint32(entry[12:], each/SectorSize)
		copy(disk[(i+1)*each:], content)
	}
	return disk
}

func TestWhatPartitionsAreFor(t *testing.T) {
	swap := make([]byte, 8192)
	copy(swap[1036:], "abcdefghijklmnop")
	copy(swap[1052:], "sleep")
	copy(swap[4086:], "SWAPSPACE2")
	xfs := make([]byte, headSize)
	copy(xfs, "XFSB")
	copy(xfs[32:], "qrstuvwxyz012345")
	const uuidOfSwap, uuidOfXFS = "UUID=61626364-6566-6768-696a-6b6c6d6e6f70", "/dev/disk/by-uuid/71727374-7576-7778-797a-303132333435"
	disk := parted(made(t, "", "etc", "usr"), swap, xfs, made(t, "", "x.cfg"))
	open := func(fstab string) ([]Use, error) {
		s, err := OpenMounts(bytes.NewReader(disk), int64(len(disk)), 1, []byte(fstab))
		if err != nil {
			return nil, err
		}
		return s.Uses, nil
	}
	uses, err := open("/dev/vda1 / ext4 noatime 0 1\n" + uuidOfSwap + " none swap sw,pri=1 0 0\n/dev/vda4 /srv ext4 nodev 0 2\n/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n")
	if err != nil || len(uses) != 4 {
		t.Fatalf("%+v, %v", uses, err)
	}
	for i, want := range []Use{{Filesystem: "ext4", Mount: "/", Options: "noatime"}, {Filesystem: "swap", FilesystemLabel: "sleep", Options: "sw,pri=1"}, {Filesystem: "xfs"}, {Filesystem: "ext4", Mount: "/srv", Options: "nodev"}} {
		got := uses[i]
		if want.Partition = got.Partition; got != want || got.Number != i+1 || got.Size != 4<<20 {
			t.Errorf("partition %d: %+v, want %+v", i+1, got, want)
		}
	}
	if uses, err := open("PARTUUID=deadbeef-04 /srv ext4 defaults\n/dev/vda4 /home ext4 defaults\n"); err != nil || uses[3].Mount != "/srv" {
		t.Errorf("%+v, %v", uses, err)
	}
	if _, err := OpenMounts(bytes.NewReader(disk), int64(len(disk)), 3, []byte(uuidOfXFS+" / xfs defaults\n"+uuidOfXFS+" /home xfs subvol=@home\n")); err == nil || !strings.Contains(err.Error(), "other subvolumes of xfs than the root's (partition 3, of /home)") {
		t.Errorf("a subvolume is left out: %v", err)
	}
	if _, err := open(uuidOfXFS + " /srv xfs defaults\n"); err == nil || !strings.Contains(err.Error(), "vmctl does not read files of xfs (partition 3, of /srv)") {
		t.Errorf("files that are not read are left out: %v", err)
	}
}
