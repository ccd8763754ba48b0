package product_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/product"
)

const mib = 1 << 20

// run runs a tool and returns what it prints.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

const (
	newline    = "etc/two\nlines"
	sparse     = "var/sparse"
	sparseSize = 40 * mib
	capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	grubCfg    = "menuentry 'Debian' {\n\tlinux\t/boot/vmlinuz-6 root=UUID=1 ro console=ttyS0 $vt\n\tinitrd\t/boot/initrd.img-6\n}\nmenuentry 'other' {\n\tlinux /other\n}\n"
)

var long = "usr/" + strings.Repeat("long/", 60) + strings.Repeat("n", 200)

// tree is a folder of hostile names.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"etc/fstab": "UUID=11111111-2222-3333-4444-555555555558 / ext4 defaults 0 1\nUUID=1234-5678 /boot/efi vfat defaults 0 2\nUUID=99999999-2222-3333-4444-555555555558 /elsewhere ext4 nofail 0 2\n",
		newline:     "a", "etc/ a space": "b", "etc/-dash": "c", "etc/ümläut": "d", "etc/\xff\xfe": "e", "etc/back\\slash": "f", "etc/' \"$(id)`": "g",
		"etc/*": "h", long: "i", "bin/ping": "program", "boot/grub/grub.cfg": grubCfg, "boot/vmlinuz-6": "kernel", "boot/initrd.img-6": "initramfs", "etc/empty": "",
		"var/data":                       strings.Repeat("0123456789abcdef", 20000),
		"usr/lib/live/boot/9990-main.sh": "Live () { :; }\n", "boot/grub/i386-pc/eltorito.img": strings.Repeat("CD", 5000), "usr/lib/grub/i386-pc/boot_hybrid.img": strings.Repeat("H", 512),
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Create(filepath.Join(root, sparse))
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte("middle"), 20*mib)
	err = errors.Join(err, file.Truncate(sparseSize), file.Close(),
		os.Mkdir(filepath.Join(root, "boot/efi"), 0o755),
		os.Link(filepath.Join(root, "bin/ping"), filepath.Join(root, "bin/zlink")),
		os.Symlink("/etc/"+strings.Repeat("x", 300), filepath.Join(root, "etc/far")),
		os.Symlink("ping", filepath.Join(root, "bin/near")),
		unix.Mkfifo(filepath.Join(root, "etc/fifo"), 0o600), os.Mkdir(filepath.Join(root, "usr/lost+found"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/empty", "var", "var/data", newline, "."} {
		if err := os.Chtimes(filepath.Join(root, name), time.Time{}, time.Unix(1e9, 123456789)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// disk is a disk with an ESP and the tree, on ext4; requests of debugfs change it.
func disk(t *testing.T, root string, requests ...string) product.Subject {
	t.Helper()
	dir := t.TempDir()
	raw, esp := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "esp")
	const size = 96 * mib
	for path, size := range map[string]int64{raw: size, esp: 8 * mib} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nstart=2048, size=16384, type=uefi, name=esp, uuid=11111111-2222-3333-4444-555555555556\nstart=18432, size=163840, type=linux, name=root, uuid=11111111-2222-3333-4444-555555555557\n", "sfdisk", "-q", raw)
	run(t, "", "mkfs.fat", "--invariant", "-i", "12345678", esp)
	run(t, "loader", "mcopy", "-i", esp, "-", "::/A long name.efi")
	run(t, "", "mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
	for _, program := range []string{"BOOTX64.EFI", "grubx64.efi"} {
		run(t, program, "mcopy", "-i", esp, "-", "::/EFI/BOOT/"+program)
	}
	run(t, "", "dd", "if="+esp, "of="+raw, "bs=1M", "seek=1", "conv=notrunc", "status=none")
	run(t, "", "mkfs.ext4", "-q", "-F", "-b", "4096", "-U", "11111111-2222-3333-4444-555555555558", "-E", "hash_seed=11111111-2222-3333-4444-555555555559,root_owner=0:0,offset=9437184", "-d", root, raw, "80M")
	value := filepath.Join(dir, "value")
	if err := os.WriteFile(value, []byte(capability), 0o600); err != nil {
		t.Fatal(err)
	}
	requests = append([]string{
		"ea_set -f " + value + " bin/ping security.capability", "ea_set bin/ping user.note kept", "ea_set etc/empty trusted.secret dropped",
		"set_inode_field bin/ping uid 100000", "set_inode_field bin/ping gid 70000", "set_inode_field bin/ping mode 0104755",
		"cd etc", "mknod null c 1 3", "mknod disk b 253 7", "mknod socket p", "set_inode_field socket mode 0140777",
	}, requests...)
	if out := run(t, strings.Join(requests, "\n")+"\n", "debugfs", "-w", "-f", "-", raw+"?offset=9437184"); strings.Contains(out, "not found") {
		t.Fatal(out)
	}
	sum, length, err := image.Digest(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return product.Subject{Disk: raw, Size: length, SHA256: sum, Base: "a 'disk'-1", Name: "Some Build", Version: "13", Epoch: time.Unix(1e9, 0), Memory: 512 * mib, CPUs: 2}
}

// made is the files of a format, by their names.
func made(t *testing.T, name string, of product.Subject) (folder string, files []image.File) {
	t.Helper()
	folder = t.TempDir()
	var log bytes.Buffer
	files, err := product.Make(t.Context(), &host.Local{Log: &log}, name, of, folder)
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, &log)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != len(files) {
		t.Errorf("%d files are told of, %d are there (%v): %v", len(files), len(entries), err, entries)
	}
	for _, file := range files {
		sum, size, err := image.Digest(t.Context(), filepath.Join(folder, file.Name))
		if err != nil || sum != file.SHA256 || size != file.Size || file.Format != name {
			t.Errorf("%+v is told of, %s of %d bytes is there (%v)", file, sum, size, err)
		}
	}
	return folder, files
}

// Every format of a disk is the same bytes twice, in another folder and at another time; each
// compares itself with the disk before.
func TestFormatsOfADiskAreTheSameBytes(t *testing.T) {
	of := disk(t, tree(t))
	for _, f := range format.All() {
		if f.Disk || f.Name == format.Partitions {
			continue // package image has those; partclone is slow, and e2e's
		}
		t.Run(f.Name, func(t *testing.T) {
			_, one := made(t, f.Name, of)
			_, two := made(t, f.Name, of)
			if !slices.Equal(one, two) {
				t.Errorf("%+v\n%+v", one, two)
			}
		})
	}
}

// entries reads an archive as GNU tar prints it and as Go does.
func entries(t *testing.T, archive io.Reader) map[string]*tar.Header {
	t.Helper()
	all := map[string]*tar.Header{}
	for reader := tar.NewReader(archive); ; {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h
		if h.Typeflag == tar.TypeReg {
			content, err := io.ReadAll(reader)
			if err != nil {
				t.Fatalf("%q: %v", h.Name, err)
			}
			h.Uname = string(content) // for the tests
		}
	}
}

func TestTreeOfADisk(t *testing.T) {
	folder, files := made(t, format.Tar, disk(t, tree(t)))
	path := filepath.Join(folder, files[0].Name)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) > 4*mib {
		t.Errorf("the holes of a file fill %d bytes", len(content))
	}
	all := entries(t, bytes.NewReader(content))
	for name, want := range map[string]tar.Header{
		"./":                       {Typeflag: tar.TypeDir, Mode: 0o755},
		newline:                    {Typeflag: tar.TypeReg, Mode: 0o644, Uname: "a"},
		"etc/ a space":             {Typeflag: tar.TypeReg, Mode: 0o644, Uname: "b"},
		"etc/\xff\xfe":             {Typeflag: tar.TypeReg, Mode: 0o644, Uname: "e"},
		"etc/' \"$(id)`":           {Typeflag: tar.TypeReg, Mode: 0o644, Uname: "g"},
		long:                       {Typeflag: tar.TypeReg, Mode: 0o644, Uname: "i"},
		"bin/ping":                 {Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 100000, Gid: 70000, Uname: "program"},
		"bin/zlink":                {Typeflag: tar.TypeLink, Mode: 0o4755, Uid: 100000, Gid: 70000, Linkname: "bin/ping"},
		"bin/near":                 {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "ping"},
		"etc/far":                  {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "/etc/" + strings.Repeat("x", 300)},
		"etc/null":                 {Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		"etc/disk":                 {Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 253, Devminor: 7},
		"etc/fifo":                 {Typeflag: tar.TypeFifo, Mode: 0o600},
		"boot/efi/A long name.efi": {Typeflag: tar.TypeReg, Mode: 0o644, Uname: "loader"},
		"usr/lost+found/":          {Typeflag: tar.TypeDir, Mode: 0o755},
		"etc/empty":                {Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		h := all[name]
		if h == nil {
			t.Errorf("%q is missing", name)
			continue
		}
		owned := h.Uid == want.Uid && h.Gid == want.Gid || want.Uid == 0 // the others are the tester's
		if h.Typeflag != want.Typeflag || h.Mode&0o7777 != want.Mode&0o7777 && want.Typeflag != tar.TypeChar && want.Typeflag != tar.TypeBlock || !owned ||
			h.Linkname != want.Linkname || h.Devmajor != want.Devmajor || h.Devminor != want.Devminor || h.Uname != want.Uname {
			t.Errorf("%q: %+v, want %+v", name, h, want)
		}
	}
	if h := all["bin/ping"]; h.PAXRecords["SCHILY.xattr.security.capability"] != capability || h.PAXRecords["SCHILY.xattr.user.note"] != "kept" {
		t.Errorf("attributes %q", h.PAXRecords)
	}
	if h := all["etc/empty"]; len(h.PAXRecords) != 0 || h.ModTime.Unix() != 1e9 {
		t.Errorf("%+v", h)
	}
	if h := all[sparse]; h == nil || len(h.Uname) != sparseSize || strings.Trim(h.Uname, "\x00") != "middle" || h.Uname[20*mib:][:6] != "middle" {
		t.Errorf("%s is not as it was", sparse)
	}
	for name := range all {
		if strings.HasPrefix(name, "lost+found") || strings.HasPrefix(name, "elsewhere") || name == "etc/socket" {
			t.Errorf("%q is there", name)
		}
	}
	t.Run("as GNU tar reads it", func(t *testing.T) {
		listed := strings.Split(strings.TrimSpace(run(t, "", "tar", "--list", "--quoting-style=escape", "-f", path)), "\n")
		if len(listed) != len(all) {
			t.Errorf("%d entries, want %d: %q", len(listed), len(all), listed)
		}
		out := t.TempDir()
		run(t, "", "tar", "--extract", "--no-same-owner", "-C", out, "-f", path, sparse, "bin", "etc/two\nlines", long)
		if back, err := os.ReadFile(filepath.Join(out, sparse)); err != nil || string(back) != all[sparse].Uname {
			t.Errorf("the sparse file differs: %d bytes, %q, %v", len(back), bytes.Trim(back, "\x00"), err)
		}
	})
}

func TestRefusedDisks(t *testing.T) {
	for name, tc := range map[string]struct {
		requests []string
		format   string
		want     string
	}{
		"a name that removes others":  {[]string{"mkdir /etc/.wh.passwd"}, format.OCI, `"etc/.wh.passwd"`},
		"in use":                      {[]string{"feature needs_recovery"}, format.Tar, "was in use"},
		"no root":                     {[]string{"rm /etc/fstab", "cd /", "unlink usr"}, format.Squashfs, "no Linux root file system"},
		"no menu":                     {[]string{"rm /boot/grub/grub.cfg"}, format.Kernel, "boot/grub/grub.cfg"},
		"a menu that leads elsewhere": {[]string{"rm /boot/vmlinuz-6"}, format.Kernel, "vmlinuz-6"},
		"not live":                    {[]string{"cd /usr/lib/live", "unlink boot"}, format.ISO, "it has no live-boot"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := product.Make(t.Context(), &host.Local{}, tc.format, disk(t, tree(t), tc.requests...), t.TempDir())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

// The second table of a grown disk is where firmware looks for it, and the partitions hold what
// they held.
func TestDiskForGCE(t *testing.T) {
	of := disk(t, tree(t))
	folder, files := made(t, format.GCE, of)
	out := t.TempDir()
	run(t, "", "tar", "--extract", "--gzip", "--sparse", "-C", out, "-f", filepath.Join(folder, files[0].Name))
	grown := filepath.Join(out, "disk.raw")
	if info, err := os.Stat(grown); err != nil || info.Size() != 1<<30 || files[0].VirtualSize != 1<<30 {
		t.Fatal(info, err)
	}
	if told := run(t, "", "sfdisk", "--verify", grown); strings.Contains(told, "backup GPT") {
		t.Error(told)
	}
	for _, path := range []string{of.Disk, grown} {
		run(t, "", "dd", "if="+path, "of="+filepath.Join(out, fmt.Sprint(len(path))), "bs=1M", "skip=1", "count=88", "status=none")
	}
	run(t, "", "cmp", filepath.Join(out, fmt.Sprint(len(of.Disk))), filepath.Join(out, fmt.Sprint(len(grown))))
}

// Azure takes whole MiB alone. The disk grows to them, and its second table with it.
func TestVHDIsOfWholeMiB(t *testing.T) {
	dir := t.TempDir()
	of := product.Subject{Disk: filepath.Join(dir, "disk.raw"), Base: "disk"}
	content := make([]byte, 10*mib+1536)
	copy(content[2*mib:], "partition")
	if err := os.WriteFile(of.Disk, content, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "label: gpt\nstart=4096, size=8192, type=linux\n", "sfdisk", "-q", of.Disk)
	var err error
	if of.SHA256, of.Size, err = image.Digest(t.Context(), of.Disk); err != nil {
		t.Fatal(err)
	}
	folder, files := made(t, diskformat.VHD, of)
	if _, again := made(t, diskformat.VHD, of); !slices.Equal(files, again) {
		t.Errorf("%+v\n%+v", files, again)
	}
	if files[0].VirtualSize != 11*mib || files[0].Size != 11*mib+512 {
		t.Errorf("%+v", files[0])
	}
	opened, is, err := image.Open(filepath.Join(folder, files[0].Name), "")
	if err != nil || is != diskformat.VHD {
		t.Fatal(is, err)
	}
	defer opened.Close()
	back := filepath.Join(dir, "back")
	if err := (&host.Local{}).Run(t.Context(), image.Unpack(opened, is, back)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(back); err != nil || info.Size() != 11*mib {
		t.Errorf("%v, %v", info, err)
	}
	run(t, "", "cmp", "--ignore-initial=1048576", fmt.Sprintf("--bytes=%d", 8*mib), of.Disk, back)
	if told := run(t, "", "sfdisk", "--verify", back); strings.Contains(told, "backup GPT") {
		t.Error(told)
	}
}

func TestKernelOfADisk(t *testing.T) {
	folder, files := made(t, format.Kernel, disk(t, tree(t)))
	for i, want := range []string{"kernel", "initramfs", "root=UUID=1 ro console=hvc0 console=ttyS0\n"} {
		if content, err := os.ReadFile(filepath.Join(folder, files[i].Name)); err != nil || string(content) != want {
			t.Errorf("%s: %q, %v", files[i].Name, content, err)
		}
	}
}

// A medium has what the disk boots with, under names that only it has. Its kernel is told of no
// file system of the disk.
func TestLiveMedium(t *testing.T) {
	of := disk(t, tree(t))
	folder, files := made(t, format.ISO, of)
	medium, back := filepath.Join(folder, files[0].Name), filepath.Join(t.TempDir(), "back")
	run(t, "", "xorriso", "-osirrox", "on", "-indev", medium, "-extract", "/", back)
	place := "live/" + of.SHA256[:16]
	for name, want := range map[string]string{
		place + "/vmlinuz": "kernel", place + "/initrd": "initramfs", ".disk/info": "Some Build 13\n",
		"boot/grub/grub.cfg": "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\nset timeout=3\n" +
			"menuentry 'Some Build 13' {\n\tlinux /" + place + "/vmlinuz boot=live live-media-path=/" + place + " fstab=no console=ttyS0\n\tinitrd /" + place + "/initrd\n}\n",
		"EFI/debian/grub.cfg": "search.file /" + place + "/vmlinuz root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n",
	} {
		if got, err := os.ReadFile(filepath.Join(back, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(back, place, "filesystem.squashfs")); err != nil {
		t.Error(err)
	}
	if label := run(t, "", "blkid", "-p", "-o", "value", "-s", "LABEL", medium); label != "A__DISK__1\n" {
		t.Errorf("label %q", label)
	}
	if table := run(t, "", "sfdisk", "--dump", medium); !strings.Contains(table, "type=ef") || !strings.Contains(table, "bootable") {
		t.Errorf("a disk of it has no partition that firmware boots: %s", table)
	}
	esp := filepath.Join(t.TempDir(), "images")
	run(t, "", "xorriso", "-indev", medium, "-osirrox", "on", "-extract_boot_images", esp)
	for _, program := range []string{"BOOTX64.EFI", "grubx64.efi"} {
		if got := run(t, "", "mtype", "-i", filepath.Join(esp, "mbr_part2_efi.img"), "::/EFI/BOOT/"+program); got != program {
			t.Errorf("%s: %q", program, got)
		}
	}
}

// A disk for one kind of firmware makes a medium for that kind.
func TestLiveMediumOfOneFirmware(t *testing.T) {
	for name, tc := range map[string]struct {
		request string
		want    string
	}{
		"UEFI": {"rm /boot/grub/i386-pc/eltorito.img", "UEFI"},
		"BIOS": {"rm /etc/fstab", "BIOS"}, // which mounts the ESP
	} {
		t.Run(name, func(t *testing.T) {
			folder, files := made(t, format.ISO, disk(t, tree(t), tc.request))
			var platforms []string
			for line := range strings.Lines(run(t, "", "xorriso", "-indev", filepath.Join(folder, files[0].Name), "-report_el_torito", "plain")) {
				if words := strings.Fields(line); strings.HasPrefix(line, "El Torito boot img") && len(words) > 6 {
					platforms = append(platforms, words[6])
				}
			}
			if !slices.Equal(platforms, []string{tc.want}) {
				t.Errorf("it boots by %q", platforms)
			}
		})
	}
}
