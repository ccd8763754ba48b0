package bootloader

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the stand-ins answer is what the real tools of GRUB 2.06 and 2.12 answer of such
// disks, but for the names of devices, which are none's.
func TestProbeAnswersLikeTheRealOne(t *testing.T) {
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	boot, odd := folder+"/boot", folder+"/it's [*] $HOME"
	for _, name := range []string{boot + "/grub", folder + "/bootstrap", odd + "/deep"} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(boot, folder+"/link"); err != nil {
		t.Fatal(err)
	}
	p := Plan{Volumes: []Volume{
		{Mount: "/", Filesystem: "xfs", UUID: "root-id", Label: "-n", Partition: 3, PartUUID: "ABC-3"},
		{Mount: boot, Filesystem: "ext4", UUID: "boot-id", Label: `a\nb`, Partition: 2, PartUUID: "ABC-2"},
		{Mount: odd, Filesystem: "vfat", UUID: "1234-ABCD", Label: "it's \"$HOME\" `id` * ?", Partition: 4, PartUUID: "ABC-4"},
		{Mount: odd + "/deep", Filesystem: "btrfs", UUID: "deep-id", Partition: 5, PartUUID: "ABC-5"},
	}}
	ask := func(script string, args ...string) string {
		out, err := exec.Command("sh", append([]string{"-c", script, "tool"}, args...)...).Output()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	for _, tc := range []struct{ question, want string }{
		{"--target=fs /", "xfs"},
		{"-t fs " + boot, "ext2"},
		{"-t fs " + folder + "/bootstrap", "xfs"},
		{"-t fs_uuid " + folder + "/link/grub", "boot-id"},
		{"--target=fs_label /", "-n"},
		{"--target=fs_label " + boot, `a\nb`},
		{"--target=device " + boot, "/dev/disk/by-uuid/boot-id"},
		{"--device /dev/disk/by-uuid/boot-id --target=fs", "ext2"},
		{"-m /boot/grub/device.map -d /dev/disk/by-uuid/root-id -t partuuid", "abc-3"},
		{"--target=hints_string " + boot, "--hint-bios=hd0,gpt2 --hint-efi=hd0,gpt2 --hint-baremetal=ahci0,gpt2"},
		{"--target=partmap /", "gpt"},
		{"--target=zero_check /", "false"},
		{"--target=no-such /", "exit status 1"},
		{"--target=fs /no/such", "exit status 1"},
		{"--target=fs /dev/disk/by-uuid/other", "exit status 1"},
	} {
		if got := strings.TrimSuffix(ask(p.probeScript(), strings.Fields(tc.question)...), "\n"); got != tc.want {
			t.Errorf("grub-probe %s: %q, want %q", tc.question, got, tc.want)
		}
	}
	if got := ask(p.probeScript(), "-t", "fs_label", odd); got != p.Volumes[2].Label+"\n" {
		t.Errorf("label %q", got)
	}
	if got := ask(p.probeScript(), "-t", "fs", odd+"/deep") + ask(p.probeScript(), "-t", "abstraction", odd); got != "btrfs\n" {
		t.Errorf("file system and abstraction %q", got)
	}
	for path, want := range map[string]string{
		"/": "\n", "/etc": "/etc\n", boot: "\n", boot + "/grub": "/grub\n", folder + "/link/grub": "/grub\n",
		folder + "/bootstrap": folder + "/bootstrap\n", odd: "\n", odd + "/deep/": "\n", "/no/such": "exit status 1",
	} {
		if got := ask(p.relpathScript(), path); got != want {
			t.Errorf("grub-mkrelpath %s: %q, want %q", path, got, want)
		}
	}
}
