//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/format"
)

// converted writes the shared build in a format and gives the first file's path, less the
// format's suffix, and all files.
func converted(t *testing.T, name string) (base string, files []string) {
	t.Helper()
	folder := t.TempDir()
	r := good(t, folder, "convert", debian(t).image("qcow2"), name)
	files = strings.Split(strings.TrimSpace(r.stdout), "\n")
	for i := range files {
		files[i] = filepath.Join(folder, files[i])
	}
	return filepath.Join(folder, strings.TrimSuffix(filepath.Base(debian(t).image("qcow2")), ".qcow2")), files
}

// mounted is a file mounted by the kernel, read-only, until the test ends.
func mounted(t *testing.T, file, kind, options string) string {
	t.Helper()
	at := t.TempDir()
	tool(t, "mount", "-t", kind, "-o", "ro,loop"+options, file, at)
	t.Cleanup(func() { tool(t, "umount", at) })
	return at
}

// listing is all that find knows of each file but the size of folders, and a digest of all content.
func listing(t *testing.T, root string) string {
	t.Helper()
	return tool(t, "sh", "-c", `cd "$1" && find . -xdev \( -path ./lost+found -o -path ./boot/efi \) -prune -o \( -type d -printf '%p %M %U:%G %T@\n' -o -printf '%p %M %U:%G %T@ %s %n %l\n' \) | sed 's/\.[0-9]*\( \|$\)/\1/' | sort &&
		find . -xdev \( -path ./lost+found -o -path ./boot/efi \) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum &&
		getcap -r . | sort`, "sh", root)
}

// TestFormatsOfTheTree looks at them with the kernel, Docker and an ordinary user's rights.
func TestFormatsOfTheTree(t *testing.T) {
	t.Parallel()
	b := debian(t)
	raw := b.image("raw")
	root := mounted(t, raw, "ext4", fmt.Sprintf(",noload,offset=%d", partitions(t, raw)["root"].Start))
	want := listing(t, root)
	t.Run("squashfs", func(t *testing.T) {
		_, files := converted(t, format.Squashfs)
		if got := listing(t, mounted(t, files[0], "squashfs", "")); got != want {
			t.Errorf("the trees differ: %s", firstDifference(got, want))
		}
	})
	t.Run("tar", func(t *testing.T) {
		_, files := converted(t, format.Tar)
		out := t.TempDir()
		tool(t, "tar", "--extract", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", out, "-f", files[0])
		if got := listing(t, out); got != want {
			t.Errorf("the trees differ: %s", firstDifference(got, want))
		}
		user := newAccount(t)
		folder := filepath.Join(user.home, "out")
		cmd := exec.Command(user.vmctl, "convert", raw, format.Tar, "-o", folder)
		cmd.Dir = user.home
		cmd.Env = []string{"HOME=" + user.home, "PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user.uid), Gid: uint32(user.gid)}}
		tool(t, "chmod", "755", shared)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("as an ordinary user: %v\n%s", err, out)
		}
		if digest(t, files[0]) != digest(t, filepath.Join(folder, filepath.Base(files[0]))) {
			t.Error("an ordinary user's is other bytes")
		}
	})
	t.Run("oci", func(t *testing.T) {
		docker(t)
		_, files := converted(t, format.OCI)
		if told := tool(t, "docker", "load", "-i", files[0]); !strings.Contains(told, "localhost/debian:13") {
			t.Fatal(told)
		}
		t.Cleanup(func() { tool(t, "docker", "rmi", "--force", "localhost/debian:13") })
		told := tool(t, "docker", "run", "--rm", "--network=none", "localhost/debian:13", "sh", "-c", ". /etc/os-release; echo $VERSION_ID; stat -c '%U:%G %a' /etc/shadow; dpkg --audit && dpkg-query -W | wc -l")
		if wanted := fmt.Sprintf("13\nroot:shadow 640\n%d\n", packagesOf(t, b)); told != wanted {
			t.Errorf("the container says %q, want %q", told, wanted)
		}
		tool(t, "skopeo", "copy", "--quiet", "oci-archive:"+files[0], "dir:"+t.TempDir())
	})
}

func packagesOf(t *testing.T, b built) int {
	t.Helper()
	var packages []any
	readJSON(t, filepath.Join(b.folder, "packages.json"), &packages)
	return len(packages)
}

func firstDifference(got, want string) string {
	gots, wants := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(gots), len(wants)) {
		if gots[i] != wants[i] {
			return fmt.Sprintf("%q, want %q", gots[i], wants[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(gots), len(wants))
}

// TestFormatsOfMachines unpacks them with other tools.
func TestFormatsOfMachines(t *testing.T) {
	t.Parallel()
	raw := debian(t).image("raw")
	t.Run("ova", func(t *testing.T) {
		base, files := converted(t, format.OVA)
		out := t.TempDir()
		tool(t, "tar", "--extract", "-C", out, "-f", files[0])
		if order := tool(t, "tar", "--list", "-f", files[0]); !strings.HasPrefix(order, filepath.Base(base)+".ovf\n") {
			t.Errorf("the description is not the first: %s", order)
		}
		for line := range strings.Lines(tool(t, "cat", filepath.Join(out, filepath.Base(base)+".mf"))) {
			name, sum, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "SHA256("), ")= ")
			if got := digest(t, filepath.Join(out, name)); got != sum {
				t.Errorf("%s is %s, not %s", name, got, sum)
			}
		}
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, filepath.Join(out, filepath.Base(base)+"-disk1.vmdk"))
	})
	t.Run("vhd", func(t *testing.T) {
		_, files := converted(t, diskformat.VHD)
		good(t, t.TempDir(), "diff", raw, files[0])
	})
	t.Run("box", func(t *testing.T) {
		_, files := converted(t, format.Box)
		out := t.TempDir()
		tool(t, "tar", "--extract", "--gzip", "-C", out, "-f", files[0])
		var metadata struct {
			Provider, Format string
			VirtualSize      int `json:"virtual_size"`
		}
		if readJSON(t, filepath.Join(out, "metadata.json"), &metadata); metadata.Provider != "libvirt" || metadata.Format != "qcow2" || metadata.VirtualSize != 2 {
			t.Errorf("%+v", metadata)
		}
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, filepath.Join(out, "box.img"))
	})
}

// TestPartitionImages restores them onto a disk that is larger and not empty, which then boots.
func TestPartitionImages(t *testing.T) {
	t.Parallel()
	base, files := converted(t, format.Partitions)
	_, again := converted(t, format.Partitions)
	for i := range files {
		if digest(t, files[i]) != digest(t, again[i]) {
			t.Errorf("%s: the same disk gave other bytes", filepath.Base(files[i]))
		}
	}
	disk := filepath.Join(t.TempDir(), "disk.raw")
	tool(t, "sh", "-c", `head -c 300M /dev/urandom >"$1" && truncate -s 3G "$1"`, "sh", disk)
	device := strings.TrimSpace(tool(t, "losetup", "--find", "--show", disk))
	detached := false
	detach := func() {
		if !detached {
			tool(t, "losetup", "--detach", device)
		}
		detached = true
	}
	t.Cleanup(detach)
	tool(t, "sh", base+".restore.sh", device)
	detach()
	if told := tool(t, "sfdisk", "--verify", disk); !strings.Contains(told, "No errors") {
		t.Error(told)
	}
	good(t, t.TempDir(), "test", disk, "--firmware", "bios", "--timeout", "9m")

	write(t, files[0], "damaged")
	if out, err := exec.Command("sh", base+".restore.sh", disk).CombinedOutput(); err == nil || !strings.Contains(string(out), "FAILED") {
		t.Errorf("a damaged file is restored: %v\n%s", err, out)
	}
}

// TestKernelImages starts a machine with a console of virtio alone.
func TestKernelImages(t *testing.T) {
	t.Parallel()
	base, files := converted(t, format.Kernel)
	line, err := os.ReadFile(base + ".cmdline")
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	console := filepath.Join(t.TempDir(), "console")
	qemu := arch.Target.QEMU
	cmd := exec.CommandContext(ctx, qemu.Binary, "-machine", qemu.Machine, "-accel", "tcg", "-cpu", qemu.CPU, "-m", "1024", "-display", "none", "-nodefaults", "-no-reboot",
		"-kernel", base+".vmlinuz", "-initrd", base+".initrd", "-append", strings.TrimSpace(string(line)),
		"-drive", "file="+debian(t).image("raw")+",format=raw,if=virtio,snapshot=on",
		"-device", "virtio-serial-pci", "-chardev", "file,id=console,path="+console, "-device", "virtconsole,chardev=console")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		content, _ := os.ReadFile(console)
		if strings.Contains(string(content), "login:") {
			cancel()
			<-ended
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("no login: %v\n%s", err, content[max(0, len(content)-2000):])
		case <-time.After(500 * time.Millisecond):
		}
	}
}
