//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBrokenGuestsAreRecognised changes copies of a good disk and expects each
// failure to be called by its name.
func TestBrokenGuestsAreRecognised(t *testing.T) {
	t.Parallel()
	raw := debian(t).image("raw")
	for _, tc := range []struct {
		name, want string
		args       []string
		damage     func(d disk)
	}{
		{name: "kernel panic", want: "kernel panic: Attempted to kill init", damage: func(d disk) {
			d.replace("/boot/grub/grub.cfg", strings.ReplaceAll(d.cat("/boot/grub/grub.cfg"), " ro ", " ro init=/bin/false "))
		}},
		{name: "missing root", want: "missing root", damage: func(d disk) {
			d.replace("/boot/grub/grub.cfg", strings.ReplaceAll(d.cat("/boot/grub/grub.cfg"), "root=UUID=", "rootdelay=1 root=UUID=dead"))
		}},
		{name: "emergency shell", want: "emergency shell", damage: func(d disk) {
			d.replace("/etc/fstab", d.cat("/etc/fstab")+"UUID=00000000-dead-4000-8000-000000000000 /data ext4 x-systemd.device-timeout=1s 0 2\n")
		}},
		{name: "failed unit", want: "failed units: broken.service", damage: func(d disk) {
			d.replace("/usr/lib/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n")
			d.edit("mkdir /etc/systemd/system/sysinit.target.wants", "symlink /etc/systemd/system/multi-user.target.wants/broken.service /usr/lib/systemd/system/broken.service")
		}},
		{name: "no kernel", want: "no grub.cfg", damage: func(d disk) { d.edit("rm /boot/grub/grub.cfg") }},
		{name: "no file system", want: "GRUB stopped at its prompt", damage: wipeRoot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := copyDisk(t, raw)
			tc.damage(d)
			expectFailure(t, d.raw, tc.want, "--timeout", "9m")
		})
	}
}

// wipeRoot makes the root file system unreadable.
func wipeRoot(d disk) {
	d.t.Helper()
	start := partitions(d.t, d.raw)["root"].Start
	tool(d.t, "dd", "if=/dev/zero", "of="+d.raw, "bs=1M", "count=1", "oflag=seek_bytes", "conv=notrunc", "seek="+itoa(start))
}

// TestBootSectorsThatGoNowhere uses disks that vmctl did not build.
func TestBootSectorsThatGoNowhere(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, want string
		code       []byte
	}{
		{"silence", "silence", []byte{0xeb, 0xfe}},                                             // jmp .
		{"reboot loop", "reboot loop", []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4}},                   // out 0x64, 0xfe resets
		{"off", "switched itself off", []byte{0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4}}, // ACPI S5
		{"no boot loader", "nothing to boot", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			sector := make([]byte, 1<<20)
			if tc.code != nil {
				copy(sector, tc.code)
				sector[510], sector[511] = 0x55, 0xaa
			}
			image := filepath.Join(t.TempDir(), "disk.raw")
			if err := os.WriteFile(image, sector, 0o600); err != nil {
				t.Fatal(err)
			}
			expectFailure(t, image, tc.want, "--timeout", "15s")
		})
	}
}

func expectFailure(t *testing.T, image, want string, args ...string) {
	t.Helper()
	r := run(t, t.TempDir(), append([]string{"test", image, "--firmware", "bios", "--logs", t.TempDir()}, args...)...)
	if r.code != 5 || !strings.Contains(r.stderr, want) {
		t.Errorf("exit code %d, want 5 and %q\n%s", r.code, want, r.stderr)
	}
}

// TestAnImageThatSecureBootMustRefuse boots an unsigned loader.
func TestAnImageThatSecureBootMustRefuse(t *testing.T) {
	t.Parallel()
	raw := debian(t).image("raw")
	target := copyDisk(t, raw).raw
	esp := partitions(t, raw)["esp"].Start
	unsigned := filepath.Join(t.TempDir(), "BOOTX64.EFI")
	tool(t, "sh", "-c", "head -c 4096 /dev/urandom >"+unsigned)
	at := target + "@@" + itoa(esp)
	loader := filepath.Join(t.TempDir(), "shim")
	tool(t, "mcopy", "-i", at, "::/EFI/BOOT/BOOTX64.EFI", loader)
	content, err := os.ReadFile(loader)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 0xff // the signature no longer fits
	if err := os.WriteFile(unsigned, content, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mcopy", "-o", "-i", at, unsigned, "::/EFI/BOOT/BOOTX64.EFI")
	r := run(t, t.TempDir(), "test", target, "--firmware", "secureboot", "--timeout", "6m", "--logs", t.TempDir())
	if r.code != 5 || !strings.Contains(r.stderr, "Secure Boot refuses the boot loader") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
