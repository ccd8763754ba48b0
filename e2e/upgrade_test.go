//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// upgradeScript installs kernel and GRUB again, as an upgrade does, on the
// disk that the guest runs from.
const upgradeScript = `exec >/dev/ttyS1 2>&1
set -e
trap 'echo upgrade-exit=$?; sync; systemctl poweroff --force' EXIT
for i in 1 2 3 4 5 6 7 8 9; do apt-get -q update && break; sleep 5; done
export DEBIAN_FRONTEND=noninteractive
rm /boot/grub/grub.cfg
apt-get -q -y install --reinstall linux-image-$(uname -r) grub-cloud-amd64 grub-efi-amd64-signed shim-signed grub-pc-bin
grep -q root=UUID= /boot/grub/grub.cfg
test -e /boot/grub/i386-pc/core.img
test -e /boot/efi/EFI/debian/grubx64.efi`

// TestKernelAndGrubAreUpgradedInTheGuest runs the upgrade in the image and boots
// it again, with the boot code of BIOS and of Secure Boot.
func TestKernelAndGrubAreUpgradedInTheGuest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.qcow2")
	tool(t, "cp", debian(t).image("qcow2"), image)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	accel, err := vm.ChooseAccelerator(ctx, vm.AccelAuto)
	if err != nil {
		t.Fatal(err)
	}
	m := vm.Machine{
		Firmware: "bios", Accel: accel.For("bios"), Memory: 1 << 30, CPUs: 2, Disk: image,
		Console: filepath.Join(dir, "console"), Report: filepath.Join(dir, "report"), SeaBIOS: filepath.Join(dir, "seabios"),
		Units: vm.ScriptUnits("upgrade.service", upgradeScript),
	}
	command := m.Command()
	for i, arg := range command.Args {
		command.Args[i] = strings.Replace(arg, ",restrict=on", "", 1) // the guest needs Debian's archive
	}
	started := time.Now()
	out, err := exec.CommandContext(ctx, host.Find(command.Path), command.Args...).CombinedOutput()
	report, _ := os.ReadFile(m.Report)
	if err != nil || !strings.Contains(string(report), "upgrade-exit=0") {
		console, _ := os.ReadFile(m.Console)
		t.Fatalf("%v %s\n%s\nconsole:\n%s", err, out, report, console[max(0, len(console)-2000):])
	}
	t.Logf("upgraded in %.0f s", time.Since(started).Seconds())
	good(t, dir, "test", image, "--firmware", "bios,secureboot", "--logs", filepath.Join(dir, "logs"))
}
