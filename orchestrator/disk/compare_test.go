package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestEachKindOfDifferenceIsFound(t *testing.T) {
	needRoot(t)
	tree, copied := t.TempDir(), t.TempDir()
	fillOddly(t, tree)
	must(t, local(t).Run(t.Context(), host.Cmd("cp", "-a", "-T", tree, copied)))
	s := share{Partition: Partition{Filesystem: "ext4", Mount: "/srv"}, folder: tree}
	look := func() differences {
		found := differences{keep: 1000}
		must(t, s.compare(t.Context(), copied, describe, &found))
		return found
	}
	if found := look(); found.count > 0 {
		t.Fatalf("two that are alike: %q", found.first)
	}
	in := func(name string) string { return filepath.Join(copied, name) }
	for _, tc := range []struct {
		change func() error
		want   string
	}{
		{func() error { return os.WriteFile(in("plain"), []byte("contents of plain!"), 0) }, "/srv/plain: size"},
		{func() error { return os.WriteFile(in("more"), nil, 0o644) }, "/srv/more: is on the disk, but not in the tree"},
		{func() error { return os.Remove(in("fifo")) }, "/srv/fifo: is in the tree, but not on the disk"},
		{func() error { return unix.Chmod(in("setuid"), 0o755) }, "/srv/setuid: mode is 6755 in the tree, 0755 on the disk"},
		{func() error { return os.Lchown(in("short"), 5, 7) }, "/srv/short: owner is 5:6 in the tree, 5:7 on the disk"},
		{func() error { return unix.Lremovexattr(in("ping"), "security.capability") }, `/srv/ping: attribute security.capability is "\x01`},
		{func() error { return unix.Lsetxattr(in("attributes"), "user.new", nil, 0) }, `/srv/attributes: attribute user.new is missing in the tree, "" on the disk`},
		{func() error { return unix.Lremovexattr(in("a"), "system.posix_acl_default") }, "/srv/a: attribute system.posix_acl_default is "},
		{func() error {
			return replaceWith(in("a/dangling"), func() error { return os.Symlink("elsewhere", in("a/dangling")) })
		}, "/srv/a/dangling: target is ../nowhere in the tree, elsewhere on the disk"},
		{func() error {
			return replaceWith(in("null"), func() error { return unix.Mknod(in("null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) })
		}, "/srv/null: device is 1:3 in the tree, 1:5 on the disk"},
		{func() error {
			return replaceWith(in("disk"), func() error { return os.WriteFile(in("disk"), nil, 0o644) })
		}, "/srv/disk: type is 060000 in the tree, 100000 on the disk"},
		{func() error {
			return replaceWith(in("b/other"), func() error { return os.WriteFile(in("b/other"), []byte("content of a/deep/hidden"), 0o644) })
		}, "/srv/b/other: first name is a/deep/hidden in the tree, b/other on the disk"},
		{func() error {
			return replaceWith(in("sp ace"), func() error { return os.Link(in("-dash"), in("sp ace")) })
		}, "/srv/sp ace: first name is sp ace in the tree, -dash on the disk"},
		{func() error { setTime(t, in("closed"), time.Unix(0, 1)); return nil }, "/srv/closed: time is "},
		{func() error { setTime(t, copied, time.Unix(0, 1)); return nil }, "/srv: time is "},
	} {
		must(t, tc.change())
		found := look()
		if !slices.ContainsFunc(found.first, func(line string) bool { return strings.HasPrefix(line, tc.want) }) {
			t.Errorf("not found: %s in\n%s", tc.want, strings.Join(found.first, "\n"))
		}
	}
}

func replaceWith(path string, with func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return with()
}

func TestTheFirstDifferencesAreTold(t *testing.T) {
	found := differences{keep: 10}
	for i := range 25 {
		found.add(fmt.Sprintf("/file-%d\x1b", i), "is %s", "red")
	}
	err := found.error()
	if tail := fail.Tail(err); !strings.HasPrefix(tail, `/file-0\x1b: is red`) || !strings.HasSuffix(tail, "\nand 15 more") || strings.Count(tail, "\n") != 10 {
		t.Errorf("told:\n%s", tail)
	}
	if !strings.Contains(err.Error(), "25 differences") || fail.ExitCode(err) != fail.Build.ExitCode() {
		t.Errorf("error %v", err)
	}
}

func TestWhatADiskHasNoUseForIsNoDifference(t *testing.T) {
	tree, other := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(filepath.Join(other, "lost+found"), 0o700), unix.Mknod(filepath.Join(tree, "socket"), unix.S_IFSOCK|0o600, 0))
	for _, folder := range []string{tree, other} {
		must(t, os.Chmod(folder, 0o755))
		setTime(t, folder, time.Unix(1, 0))
	}
	found := differences{keep: 10}
	must(t, share{Partition: Partition{Filesystem: "ext4", Mount: "/"}, folder: tree}.compare(t.Context(), other, describe, &found))
	if found.count > 0 {
		t.Errorf("told: %q", found.first)
	}
}
