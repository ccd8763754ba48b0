//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// endless is a disk whose boot sector does nothing for ever.
func endless() string {
	return "\xeb\xfe" + strings.Repeat("\x00", 508) + "\x55\xaa" + strings.Repeat("\x00", 1<<20-512)
}

// hostileImages are images that would show QEMU a file of the host, by name.
func hostileImages(t *testing.T, secret string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("flat.vmdk"), "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \""+secret+"\" 0\n")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+at("data")+",data_file_raw=on", at("data.qcow2"), "1M")
	tool(t, "qemu-img", "amend", "-q", "-f", "qcow2", "-o", "data_file="+secret, at("data.qcow2"))
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", secret, at("backed.qcow2"), "1M")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", at("backed.qcow2"), at("nested.qcow2"))
	tool(t, "qemu-img", "create", "-q", "-f", "vmdk", at("parent.vmdk"), "1M")
	tool(t, "qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", at("parent.vmdk"), at("child.vmdk"))
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.hash-alg=sha512", at("luks.qcow2"), "1M")
	images := map[string]string{}
	for _, name := range []string{"flat.vmdk", "data.qcow2", "backed.qcow2", "nested.qcow2", "child.vmdk", "luks.qcow2"} {
		images[name] = at(name)
	}
	return images
}

// TestForeignImagesReadNoFileOfTheHost has both vmctl's own reading of the header and
// QEMU's description refuse each hostile image.
func TestForeignImagesReadNoFileOfTheHost(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, endless())
	confinement, err := vm.Confine(t.Context(), os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range hostileImages(t, secret) {
		t.Run(name, func(t *testing.T) {
			r := run(t, t.TempDir(), "test", path, "--firmware", "bios", "--timeout", "5s")
			if r.code != 2 || !strings.Contains(r.stderr, path+": it") {
				t.Errorf("exit code %d, want 2\n%s", r.code, r.stderr)
			}
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if _, err := confinement.Describe(t.Context(), file, strings.TrimPrefix(filepath.Ext(path), ".")); fail.ExitCode(err) != 2 {
				t.Errorf("QEMU's word: %v", err)
			}
		})
	}
}

// TestARawDiskStaysRaw boots a disk whose guest wrote a header that names a file.
func TestARawDiskStaysRaw(t *testing.T) {
	folder := t.TempDir()
	disk := filepath.Join(folder, "disk.raw")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/shadow", disk, "1M")
	if r := run(t, folder, "test", disk, "--firmware", "bios"); r.code != 2 || !strings.Contains(r.stderr, `"/etc/shadow"`) {
		t.Errorf("exit code %d, want 2\n%s", r.code, r.stderr)
	}
	write(t, filepath.Join(folder, "build.json"), `{"name": "x", "outputs": [{"name": "disk.raw", "format": "raw"}]}`)
	write(t, filepath.Join(folder, "packages.json"), "[]")
	expectFailure(t, disk, "nothing to boot", "--timeout", "1m")
}

// TestQEMUIsConfined looks at the process that boots an image which nobody else may read.
func TestQEMUIsConfined(t *testing.T) {
	for name, tc := range map[string]struct {
		caller string
		memory int
		uid    string
	}{"root": {"", 77, "65534"}, "sudo": {"12345", 78, "12345"}} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SUDO_UID", tc.caller)
			t.Setenv("SUDO_GID", tc.caller)
			disk := filepath.Join(t.TempDir(), "disk.raw")
			if err := os.WriteFile(disk, []byte(endless()), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := command(t.TempDir(), "test", disk, "--firmware", "bios", "--accel", "tcg", "--memory", fmt.Sprintf("%dM", tc.memory), "--timeout", "1m")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Signal(os.Interrupt)
				_ = cmd.Wait()
			}()
			var found []int
			for len(found) == 0 && ctx.Err() == nil {
				time.Sleep(100 * time.Millisecond)
				found = pids("qemu-system-x86_64", "chardev=monitor", fmt.Sprintf("-m\x00%d\x00", tc.memory))
			}
			if len(found) == 0 {
				t.Fatal("no QEMU runs")
			}
			time.Sleep(time.Second) // for the sandbox
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", found[0]))
			if err != nil {
				t.Fatal(err)
			}
			ids := strings.Repeat("\t"+tc.uid, 4) + "\n"
			for _, want := range []string{"Uid:" + ids, "Gid:" + ids, "Groups:\t \n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
				if !strings.Contains(string(status), want) {
					t.Errorf("no %q in\n%s", want, status)
				}
			}
		})
	}
}
