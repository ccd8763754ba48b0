//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator"
)

// TestLiveSystem builds a medium, which the build boots from a CD, boots it from a disk too, and
// makes it again of the disk.
func TestLiveSystem(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "install.d/rescue.yml"), "extends: debian\nfirmware: [bios, secureboot]\ninstall:\n  - name: Live system\n    packages: [live-boot]\noutputs: [iso]\n")
	good(t, folder, "build", "rescue")
	out := filepath.Join(folder, "images/rescue")
	medium := filepath.Join(out, "rescue-13-amd64.iso")
	var m orchestrator.Manifest
	content, err := os.ReadFile(filepath.Join(out, "build.json"))
	if err == nil {
		err = json.Unmarshal(content, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"cd-bios", "cd-secureboot"} {
		boot := m.Boot[i]
		if boot.Name() != want || !boot.Passed || boot.Report == nil || boot.Report.Root != "overlay,overlay" || (boot.Report.SecureBoot == "enabled") != (want == "cd-secureboot") {
			t.Errorf("%+v %+v", boot, boot.Report)
		}
		for _, name := range []string{".log", "-loader.png", "-screen.png"} {
			if _, err := os.Stat(filepath.Join(out, "boot-"+want+name)); err != nil {
				t.Error(err)
			}
		}
	}

	stick := filepath.Join(t.TempDir(), "stick.raw") // which is no file of a build
	tool(t, "cp", "--sparse=always", medium, stick)
	if r := good(t, folder, "test", stick, "--firmware", "bios", "--timeout", "9m"); strings.TrimSpace(r.stdout) != "bios passed" {
		t.Errorf("%s", r.stdout)
	}

	good(t, folder, "build", "rescue", "--no-test", "--format", "raw", "-o", "again")
	disk := filepath.Join(folder, "again/rescue/rescue-13-amd64.raw")
	good(t, folder, "convert", disk, "iso", "-o", "converted")
	if digest(t, filepath.Join(folder, "converted/rescue-13-amd64.iso")) != digest(t, medium) {
		t.Error("the same disk gave another medium")
	}
}
