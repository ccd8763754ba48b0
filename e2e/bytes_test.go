//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/btw-img/btw-img/orchestrator"
)

// elsewhere runs a command on one processor of a machine of another name and with another
// resolv.conf, more than a day later: the host's programs take that for now, those of the tree and vmctl itself do not.
// $1 is a folder for it, $2 is libfaketime, which would date files, too, as mtools reads
// them, but for NO_FAKE_STAT.
const elsewhere = `set -e
umask 077
hostname elsewhere
mount --make-rprivate /
mkdir -m 755 "$1/mtools"
echo "$2" >"$1/preload"
echo +31h >"$1/rc"
chmod 644 "$1/preload" "$1/rc"
for tool in mcopy mmd mdir; do cp /usr/bin/mtools "$1/mtools/$tool"; done
printf '#!/bin/sh\nNO_FAKE_STAT=1 exec "%s/${0##*/}" "$@"\n' "$1/mtools" >"$1/mtool"
chmod 755 "$1/mtool"
mount --bind "$1/mtool" /usr/bin/mtools
{ cat /etc/resolv.conf; echo "# elsewhere"; } >"$1/resolv.conf"
chmod 644 "$1/resolv.conf"
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/rc" /etc/faketimerc
mount --bind "$1/preload" /etc/ld.so.preload
shift 2
exec taskset --cpu-list 0 "$@"
`

// TestTheSameInputsGiveTheSameBytes builds all that is shipped twice: as this machine does,
// one after the other, from layers; and all at once, from nothing, in a store without
// overlays, on another day, in another folder, on one processor of a machine of another
// name, for somebody with other habits.
func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "another folder")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	first := map[string]built{"debian": debian(t)}
	build := func(name string) built {
		good(t, folder, "build", name, "--no-test", "--format", "raw,qcow2", "-o", "first")
		b := built{folder: filepath.Join(folder, "first", name)}
		readJSON(t, filepath.Join(b.folder, "build.json"), &b.manifest)
		return b
	}
	for _, name := range []string{"webserver", "debian-12"} {
		first[name] = build(name)
	}

	clock := t.TempDir()
	for _, place := range []string{"/etc/faketimerc", "/etc/ld.so.preload"} { // to mount on
		if _, err := os.Lstat(place); err != nil {
			tool(t, "touch", place)
			t.Cleanup(func() { _ = os.Remove(place) })
		}
	}
	cmd := exec.Command("unshare", "--uts", "--mount", "sh", "-c", elsewhere, "sh", clock, libfaketime(t),
		vmctl, "build", "debian", "webserver", "debian-12", "--jobs", "3", "--no-test", "--format", "raw,qcow2", "--no-cache")
	cmd.Dir = folder
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=/nowhere", "HOME=/nowhere", "LC_ALL=de_DE.UTF-8", "LANGUAGE=de", "TZ=Asia/Tokyo", "VMCTL_CACHE=" + filepath.Join(onOverlay(t), "cache"),
		"ANSIBLE_GATHERING=explicit", "ANSIBLE_BECOME=1", "PYTHONPATH=/nowhere", "GNUPGHOME=/nowhere", "APT_CONFIG=/nowhere", "DPKG_ROOT=/nowhere",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, b := range first {
		again := filepath.Join(folder, "images", name)
		var manifest orchestrator.Manifest
		readJSON(t, filepath.Join(again, "build.json"), &manifest)
		if len(manifest.Outputs) != 2 {
			t.Errorf("%d images", len(manifest.Outputs))
		}
		if !slices.Equal(manifest.Archives, b.manifest.Archives) { // they have changed in between
			if b = build(name); !slices.Equal(manifest.Archives, b.manifest.Archives) {
				t.Fatal("the archives change faster than this test builds")
			}
		}
		for _, image := range manifest.Outputs {
			if want := digest(t, b.image(image.Format)); image.SHA256 != want || image.SHA256 != digest(t, filepath.Join(again, image.Name)) {
				t.Errorf("%s: the digest is %s, want %s\n%s", image.Name, image.SHA256, want, run(t, folder, "diff", b.folder, again).stdout)
			}
		}
	}
}

// libfaketime is the library that gives programs another time.
func libfaketime(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(found) != 1 {
		t.Fatalf("libfaketime: %v, %v: 'vmctl doctor --install-missing --tests' installs it", found, err)
	}
	return found[0]
}

// onOverlay is a folder that cannot be part of an overlay itself, so that layers are copied.
func onOverlay(t *testing.T) string {
	t.Helper()
	base, at := t.TempDir(), t.TempDir()
	for _, sub := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "mount", "-t", "overlay", "-o", "lowerdir="+base+"/lower,upperdir="+base+"/upper,workdir="+base+"/work", "overlay", at)
	t.Cleanup(func() { tool(t, "umount", at) })
	return at
}
