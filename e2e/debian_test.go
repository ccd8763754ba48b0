//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDebianBootsOnEveryFirmware(t *testing.T) {
	b := debian(t)
	t.Logf("built and tested in %.0f s", b.result.took.Seconds())
	if !b.manifest.Tested || len(b.manifest.Boot) != 3 {
		t.Fatalf("build.json tells of %d boots", len(b.manifest.Boot))
	}
	ids, keys := map[string]bool{}, map[string]bool{}
	for _, boot := range b.manifest.Boot {
		t.Logf("%s: %.0f s on %s", boot.Firmware, boot.Seconds, boot.Accel)
		if !boot.Passed || boot.Proof != "report" || boot.Report == nil || boot.Report.State != "running" {
			t.Errorf("%+v", boot)
			continue
		}
		ids[boot.Report.MachineID], keys[boot.Report.SSHHostKey] = true, true
	}
	if len(ids) != 3 || len(keys) != 3 || ids[""] || keys[""] {
		t.Errorf("three copies have the machine ids %v and the ssh host keys %v", ids, keys)
	}
}

func TestDebiansFolderIsComplete(t *testing.T) {
	t.Parallel()
	b := debian(t)
	for _, name := range []string{"debian-13-amd64.qcow2", "debian-13-amd64.raw", "debian-13-amd64.vmdk", "build.json", "packages.json", "report.html", "SHA256SUMS", "build.log", "boot-bios.log", "boot-uefi.log", "boot-secureboot.log",
		"boot-bios-loader.png", "boot-bios-screen.png", "boot-uefi-loader.png", "boot-uefi-screen.png", "boot-secureboot-loader.png", "boot-secureboot-screen.png"} {
		if info, err := os.Stat(filepath.Join(b.folder, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Log(tool(t, "sh", "-c", "cd "+b.folder+" && sha256sum --check --strict SHA256SUMS"))
	info, err := os.Stat(b.image("qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("qcow2: %.1f MB", float64(info.Size())/1e6)
	if info.Size() > 240e6 {
		t.Errorf("the qcow2 has %d bytes, more than 240 MB", info.Size())
	}
	tool(t, "qemu-img", "compare", b.image("qcow2"), b.image("raw"))
	var packages []struct{ Name, Version string }
	readJSON(t, filepath.Join(b.folder, "packages.json"), &packages)
	if len(packages) < 100 {
		t.Errorf("packages.json lists %d packages", len(packages))
	}
	left, err := filepath.Glob(filepath.Join(shared, ".debian.work"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDebiansDiskReadBackByOtherTools(t *testing.T) {
	raw := debian(t).image("raw")
	if out := tool(t, "sgdisk", "--verify", raw); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	table := partitions(t, raw)
	for name, p := range table {
		if p.Start%(1<<20) != 0 || p.Size%(1<<20) != 0 {
			t.Errorf("partition %s is not aligned: %+v", name, p)
		}
	}
	d := openDisk(t, raw)
	tool(t, "e2fsck", "-f", "-n", d.root)
	esp := filepath.Join(t.TempDir(), "esp")
	tool(t, "dd", "if="+raw, "of="+esp, "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse",
		"skip="+itoa(table["esp"].Start), "count="+itoa(table["esp"].Size))
	tool(t, "truncate", "--size="+itoa(table["esp"].Size), esp)
	tool(t, "fsck.fat", "-n", esp)
	if files := tool(t, "mdir", "-/", "-b", "-i", esp, "::/"); !strings.Contains(files, "/EFI/BOOT/BOOTX64.EFI") || !strings.Contains(files, "/EFI/debian/grub.cfg") {
		t.Error(files)
	}
	info, err := os.Stat(raw)
	if err != nil {
		t.Fatal(err)
	}
	used := strings.Fields(tool(t, "du", "--block-size=1", raw))[0]
	t.Logf("raw: %d bytes, of which %s are on disk", info.Size(), used)
}

func TestDebianIsSealed(t *testing.T) {
	d := openDisk(t, debian(t).image("raw"))
	if id := d.cat("/etc/machine-id"); id != "uninitialized\n" {
		t.Errorf("machine-id is %q", id)
	}
	for _, name := range d.ls("/etc/ssh") {
		if strings.HasPrefix(name, "ssh_host_") {
			t.Errorf("/etc/ssh/%s is left", name)
		}
	}
	for _, folder := range []string{"/var/lib/apt/lists", "/var/cache/apt/archives/partial", "/tmp", "/var/tmp", "/run", "/var/log/apt", "/dev/shm"} {
		if names := d.ls(folder); len(names) > 0 {
			t.Errorf("%s holds %v", folder, names)
		}
	}
	for _, path := range []string{"/usr/sbin/policy-rc.d", "/usr/sbin/start-stop-daemon.real", "/usr/sbin/update-initramfs.deferred", "/var/lib/systemd/random-seed", "/root/.ansible"} {
		if d.stat(path) != "" {
			t.Errorf("%s is left", path)
		}
	}
	if diversions := d.cat("/var/lib/dpkg/diversions"); strings.Contains(diversions, "update-initramfs") {
		t.Error("update-initramfs is still diverted")
	}
	for _, path := range []string{"/etc/fstab", "/boot/grub/grub.cfg"} {
		content := d.cat(path)
		if !strings.Contains(content, "UUID=") || strings.Contains(content, "/dev/loop") {
			t.Errorf("%s names devices of the builder:\n%s", path, content)
		}
	}
	if name := d.cat("/etc/hostname"); name != "debian\n" {
		t.Errorf("host name %q", name)
	}
	if content := d.cat("/etc/initramfs-tools/conf.d/modules"); !strings.Contains(content, "MODULES=most") {
		t.Errorf("initramfs: %q", content)
	}
}
