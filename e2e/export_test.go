//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/export"
)

// TestExport has each description checked by a program that knows its language; what Proxmox
// and systemd would be told is looked at through stand-ins for their programs.
func TestExport(t *testing.T) {
	t.Parallel()
	raw := debian(t).image("raw")
	folder := filepath.Join(t.TempDir(), "it's a \"folder\"")
	write(t, filepath.Join(folder, "key.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2eqqFVuNxmEuAyFpHPKUkOGyMSW0ZZtEIXqkKOsJYz alice\n")
	stands := t.TempDir()
	for _, name := range []string{"qm", "systemd-vmspawn"} {
		write(t, filepath.Join(stands, name), "#!/bin/sh\nprintf '%s' \"${0##*/}\"\nprintf '|%s' \"$@\"\necho\n")
		tool(t, "chmod", "755", filepath.Join(stands, name))
	}
	script := func(path string, args ...string) string {
		t.Helper()
		cmd := exec.Command("sh", append([]string{path}, args...)...)
		cmd.Env = []string{"PATH=" + stands + ":" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return string(out)
	}
	for kind, check := range map[string]func(t *testing.T, description, disk string){
		"libvirt": func(t *testing.T, description, disk string) {
			tool(t, "virt-xml-validate", description, "domain")
			if source := strings.TrimSpace(tool(t, "xmllint", "--xpath", "string(//disk/source/@file)", description)); source != disk {
				t.Errorf("the disk is %s", source)
			}
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, disk)
		},
		"terraform": func(t *testing.T, _, disk string) {
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, disk)
		},
		"proxmox": func(t *testing.T, description, disk string) {
			told := script(description, "123", "big")
			if !strings.Contains(told, "qm|create|123|--name|debian|") || !strings.Contains(told, "|--bios|seabios|") || !strings.Contains(told, "|--scsi0|big:0,import-from="+disk+",") {
				t.Error(told)
			}
		},
		"systemd-vmspawn": func(t *testing.T, description, disk string) {
			if told := script(description, "--quiet"); !strings.Contains(told, "|--image="+disk+"|--ram=1024M|") || !strings.HasSuffix(told, " alice|--quiet\n") {
				t.Error(told)
			}
			tool(t, "cmp", raw, disk)
		},
		"vagrant": func(t *testing.T, description, disk string) {
			tool(t, "ruby", "-c", description)
			tool(t, "tar", "--list", "-f", disk)
		},
	} {
		t.Run(kind, func(t *testing.T) {
			args := []string{"export", kind, raw, "--name", "debian"}
			if export.Named(kind).Keyed {
				args = append(args, "--ssh-key", "key.pub")
			}
			written := strings.Split(strings.TrimSpace(good(t, folder, args...).stdout), "\n")
			if len(written) != 2 {
				t.Fatal(written)
			}
			check(t, filepath.Join(folder, written[0]), filepath.Join(folder, written[1]))
			if r := run(t, folder, args...); r.code != 2 || !strings.Contains(r.stderr, "there already") {
				t.Errorf("once more: exit code %d\n%s", r.code, r.stderr)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(folder, ".vmctl*")); len(left) > 0 || len(export.Kinds) != 5 {
		t.Errorf("left: %v; %d kinds", left, len(export.Kinds))
	}
}
