//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/budget"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/proof"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// loginSector is a boot sector that writes a login prompt to the first serial port, which
// is all that a guest with an old systemd has to show.
func loginSector() []byte {
	disk := make([]byte, 1<<20)
	n := copy(disk, []byte{
		0x31, 0xc0, 0x8e, 0xd8, // ds = 0
		0xbe, 0x15, 0x7c, // si = 0x7c15, the text
		0xac,       // al = *si++
		0x84, 0xc0, // if al == 0
		0x74, 0x06, // goto halt
		0xba, 0xf8, 0x03, 0xee, // out 0x3f8, al
		0xeb, 0xf5, // next
		0xf4, 0xeb, 0xfd, // halt
	})
	copy(disk[n:], "\nguest login: \x00")
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

// TestADiskThatHasComeUpIsNotBootedAgain boots a disk that takes no time.
func TestADiskThatHasComeUpIsNotBootedAgain(t *testing.T) {
	h, folder := &host.Local{}, t.TempDir()
	image := filepath.Join(folder, "disk.raw")
	if err := os.WriteFile(image, loginSector(), 0o644); err != nil {
		t.Fatal(err)
	}
	accel, err := vm.ChooseAccelerator(t.Context(), vm.AccelTCG)
	if err != nil {
		t.Fatal(err)
	}
	proofs, shared := proof.In(t.TempDir()), budget.In(t.TempDir())
	for _, tc := range []struct {
		name, disk string
		again      bool
		memory     int64
		earlier    bool
	}{
		{"first", "disk-1", false, 64 << 20, false},
		{"second", "disk-1", false, 64 << 20, true},
		{"with more memory", "disk-1", false, 65 << 20, false},
		{"another disk", "disk-2", false, 64 << 20, false},
		{"once more", "disk-1", true, 64 << 20, false},
		{"and not again", "disk-1", false, 64 << 20, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			logs := t.TempDir()
			results, err := orchestrator.BootTest(t.Context(), h, image, "raw", boottest.Options{
				Firmware: []string{arch.BIOS}, Accel: accel, Memory: tc.memory, CPUs: 1, Timeout: 5 * time.Minute, Systemd: 252,
				Logs: logs, Proofs: proofs.Of(h, tc.disk, tc.again), Budget: shared, Task: func(status, text string) { t.Log(status, text) },
			})
			if err != nil {
				t.Fatal(err)
			}
			if r := results[0]; !r.Passed || (r.Earlier != nil) != tc.earlier {
				t.Errorf("%+v", r)
			}
			if console, err := os.ReadFile(filepath.Join(logs, "boot-bios.log")); err != nil || string(console) != "\nguest login: " {
				t.Errorf("the console says %q, %v", console, err)
			}
		})
	}
}
