package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Access lists and capabilities as the kernel takes them: struct posix_acl_xattr_entry
// (user::rwx, user:1000:r-x, group::r-x, mask::rwx, other::---) and struct
// vfs_cap_data (cap_net_raw=ep).
const (
	accessList   = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x05\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	capabilities = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// must stops the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fillOddly puts into the folder whatever a tree may hold that a copy could lose.
func fillOddly(t *testing.T, folder string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(folder, name) }
	write := func(name, content string) { must(t, os.WriteFile(in(name), []byte(content), 0o644)) }
	must(t, os.MkdirAll(in("a/deep/er"), 0o755), os.Mkdir(in("empty"), 0o755), os.Mkdir(in("b"), 0o755), os.Mkdir(in("many"), 0o755))
	for _, name := range []string{
		"plain", "a/deep/hidden", "setuid", "closed", "ping", "attributes", "acl", "owned", "-dash", "sp ace", "new\nline", "no\xffutf8", `quote"'\`,
		"a/" + strings.Repeat("l", 255), "a/deep/er/before1970", "a/after2038",
	} {
		write(name, "content of "+name)
	}
	for i := range 300 { // more than one block of names
		write("many/"+strings.Repeat("n", 40+i%7)+string(rune('a'+i%26))+strings.Repeat("m", i/26), "")
	}
	sparse, err := os.Create(in("sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 1<<30)
	must(t, err, sparse.Close())
	must(t,
		os.Link(in("plain"), in("a/linked")), os.Link(in("plain"), in("b/linked")), os.Link(in("a/deep/hidden"), in("b/other")),
		os.Symlink("/absolute/"+strings.Repeat("x", 200), in("long")), os.Symlink("plain", in("short")), os.Symlink("../nowhere", in("a/dangling")),
		unix.Mkfifo(in("fifo"), 0o640), unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(in("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))),
		os.Chown(in("owned"), 1234, 4000000000), os.Lchown(in("short"), 5, 6), os.Chown(in("empty"), 100, 200), os.Chown(in("setuid"), 0, 42),
		unix.Chmod(in("setuid"), 0o6755), unix.Chmod(in("closed"), 0), unix.Chmod(in("empty"), 0o3000), unix.Chmod(in("b"), 0),
		unix.Lsetxattr(in("ping"), "security.capability", []byte(capabilities), 0),
		unix.Lsetxattr(in("attributes"), "user.short", []byte("value"), 0), unix.Lsetxattr(in("attributes"), "user.long", []byte(strings.Repeat("v", 1500)), 0),
		unix.Lsetxattr(in("attributes"), "user.bytes", []byte("\x00\xff\n"), 0), unix.Lsetxattr(in("a"), "user.folder", []byte("x"), 0),
		unix.Lsetxattr(in("acl"), "system.posix_acl_access", []byte(accessList), 0), unix.Lsetxattr(in("a"), "system.posix_acl_default", []byte(accessList), 0),
	)
	for name, at := range map[string]time.Time{
		"a/deep/er/before1970": time.Date(1950, 1, 2, 3, 4, 5, 678, time.UTC), "a/after2038": time.Date(2100, 1, 2, 3, 4, 5, 999999999, time.UTC),
		"short": time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC), "null": time.Date(2002, 2, 3, 4, 5, 6, 700, time.UTC), "many": time.Date(2003, 2, 3, 4, 5, 6, 0, time.UTC),
		"a": time.Date(2004, 2, 3, 4, 5, 6, 123456789, time.UTC), ".": time.Date(2005, 2, 3, 4, 5, 6, 123456789, time.UTC),
	} {
		setTime(t, in(name), at)
	}
}

func setTime(t *testing.T, path string, at time.Time) {
	t.Helper()
	stamp := unix.NsecToTimespec(at.UnixNano())
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW))
}

// oddTree is a tree with mount points at /var, /var/log and /boot/efi, each of which
// holds something and differs from what a new folder would be.
func oddTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "var/log"), 0o755), os.MkdirAll(filepath.Join(root, "boot/efi/EFI/debian"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "boot/efi/EFI/debian/grub.cfg"), []byte("configfile\n"), 0o600), os.WriteFile(filepath.Join(root, "boot/efi/A long name.txt"), nil, 0o644))
	for i, folder := range []string{"", "var", "var/log"} {
		at := filepath.Join(root, folder)
		fillOddly(t, at)
		must(t, os.Chown(at, 10+i, 20+i), unix.Chmod(at, 0o1711+uint32(i)), unix.Lsetxattr(at, "user.mounted", []byte(folder), 0))
		setTime(t, at, time.Date(2010+i, 2, 3, 4, 5, 6, 123456789, time.UTC))
	}
	for _, above := range []string{"var", ""} { // making what is below changed them
		setTime(t, filepath.Join(root, above), time.Date(2015, 2, 3, 4, 5, 6, 987654321, time.UTC))
	}
	return root
}
