package proof

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// machineroom is a host whose QEMU and firmware are files that a test can change.
type machineroom struct {
	proofs Proofs
	qemu   string
	roms   []string
	host   *hosttest.Fake
}

func newMachineroom(t *testing.T) *machineroom {
	t.Helper()
	dir := t.TempDir()
	r := &machineroom{
		proofs: In(t.TempDir()), qemu: filepath.Join(dir, arch.Target.QEMU.Binary),
		host: &hosttest.Fake{Outputs: map[string]string{
			arch.Target.QEMU.Binary + " --version": "QEMU emulator version 7.2.22\nCopyright\n",
			arch.Target.QEMU.Binary + " -L help":   filepath.Join(dir, "not-there") + "\n" + dir + "\n",
		}},
	}
	t.Setenv("PATH", dir)
	put(t, r.qemu, "the emulator")
	for _, name := range arch.Target.FirmwareNamed(arch.BIOS).ROMs {
		r.roms = append(r.roms, filepath.Join(dir, name))
		put(t, filepath.Join(dir, name), "the firmware")
	}
	return r
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

var (
	machine = vm.Machine{Firmware: arch.BIOS, Accel: vm.AccelTCG, Memory: 1 << 30, CPUs: 2, Units: vm.ScriptUnits("report.service", "true")}
	passed  = boottest.Result{Firmware: arch.BIOS, Passed: true, Proof: "report", Accel: vm.AccelTCG, Seconds: 30, Report: &boottest.Report{State: "running", Systemd: 257}}
)

// keep remembers that disk-1 came up on the machine.
func (r *machineroom) keep(t *testing.T) {
	t.Helper()
	if err := r.proofs.Of(r.host, "disk-1", false).Keep(t.Context(), machine, passed, boottest.Traces{Console: []byte("login: \xff"), Screens: boottest.Screens{"screen": {0x89, 'P'}}}); err != nil {
		t.Fatal(err)
	}
}

func TestADiskIsKnownOnTheSameMachine(t *testing.T) {
	r := newMachineroom(t)
	r.keep(t)
	found, left := r.proofs.Of(r.host, "disk-1", false).Find(t.Context(), machine)
	if found == nil || string(left.Console) != "login: \xff" || string(left.Screens["screen"]) != "\x89P" || found.Report.Systemd != 257 || found.Seconds != 30 {
		t.Fatalf("found %+v with %q", found, left)
	}
	earlier := found.Earlier
	if earlier == nil || earlier.QEMU != "QEMU emulator version 7.2.22" || time.Since(earlier.Booted) > time.Minute || len(earlier.Files) != 3 {
		t.Errorf("it was booted %+v", earlier)
	}
	for name := range earlier.Files {
		if strings.Contains(name, "/") {
			t.Errorf("%s names a folder of this host", name)
		}
	}
}

func TestWhateverMayChangeABootMakesAnotherOne(t *testing.T) {
	for name, change := range map[string]func(r *machineroom, disk *string, m *vm.Machine){
		"disk":          func(_ *machineroom, disk *string, _ *vm.Machine) { *disk = "disk-2" },
		"memory":        func(_ *machineroom, _ *string, m *vm.Machine) { m.Memory = 2 << 30 },
		"accelerator":   func(_ *machineroom, _ *string, m *vm.Machine) { m.Accel = vm.AccelKVM },
		"firmware":      func(_ *machineroom, _ *string, m *vm.Machine) { m.Firmware = arch.UEFI },
		"what is asked": func(_ *machineroom, _ *string, m *vm.Machine) { m.Units = vm.ScriptUnits("report.service", "false") },
		"QEMU":          func(r *machineroom, _ *string, _ *vm.Machine) { put(t, r.qemu, "another emulator") },
		"QEMU's version": func(r *machineroom, _ *string, _ *vm.Machine) {
			r.host.Outputs[arch.Target.QEMU.Binary+" --version"] = "8"
		},
		"file of firmware": func(r *machineroom, _ *string, _ *vm.Machine) { put(t, r.roms[0], "another firmware") },
		"another file":     func(r *machineroom, _ *string, _ *vm.Machine) { put(t, r.roms[1], "another firmware") },
		"no file of it":    func(r *machineroom, _ *string, _ *vm.Machine) { os.Remove(r.roms[0]) },
		"QEMU that is broken": func(r *machineroom, _ *string, _ *vm.Machine) {
			r.host.Failures = map[string]error{arch.Target.QEMU.Binary: errors.New("broken")}
			r.host.Outputs = nil
		},
		"a damaged proof": func(r *machineroom, _ *string, _ *vm.Machine) {
			names, _ := filepath.Glob(filepath.Join(r.proofs.folder, "*"))
			put(t, names[0], "{")
		},
		"a proof of something else": func(r *machineroom, disk *string, _ *vm.Machine) {
			names, _ := filepath.Glob(filepath.Join(r.proofs.folder, "*"))
			content, _ := os.ReadFile(names[0])
			put(t, names[0], strings.Replace(string(content), "disk-1", "disk-3", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newMachineroom(t)
			r.keep(t)
			disk, m := "disk-1", machine
			change(r, &disk, &m)
			if found, _ := r.proofs.Of(r.host, disk, false).Find(t.Context(), m); found != nil {
				t.Errorf("found %+v", found)
			}
		})
	}
}

func TestADiskThatIsBootedAgainIsNotKnownUntilItComesUp(t *testing.T) {
	r := newMachineroom(t)
	r.keep(t)
	for _, again := range []bool{true, false} {
		if found, _ := r.proofs.Of(r.host, "disk-1", again).Find(t.Context(), machine); found != nil {
			t.Errorf("found %+v", found)
		}
	}
	r.keep(t)
	if found, _ := r.proofs.Of(r.host, "disk-1", false).Find(t.Context(), machine); found == nil {
		t.Error("it came up again, and is not known")
	}
}

func TestCollectRemovesWhatIsOldOrTooMuch(t *testing.T) {
	folder := t.TempDir()
	for name, tc := range map[string]struct {
		size int64
		age  time.Duration
	}{
		"old": {1, 91 * 24 * time.Hour}, "used": {1, time.Minute}, "large": {keptBytes, time.Hour}, "small": {1, 2 * time.Hour},
		".killed": {1, 2 * time.Hour}, ".written": {1, time.Minute},
	} {
		path := filepath.Join(folder, name)
		put(t, path, "")
		then := time.Now().Add(-tc.age)
		if err := errors.Join(os.Truncate(path, tc.size), os.Chtimes(path, then, then)); err != nil {
			t.Fatal(err)
		}
	}
	freed, err := In(folder).Collect()
	if err != nil || freed != keptBytes+2 {
		t.Errorf("%d bytes freed, %v", freed, err)
	}
	left, _ := os.ReadDir(folder)
	var names []string
	for _, entry := range left {
		names = append(names, entry.Name())
	}
	if got := strings.Join(names, " "); got != ".written small used" {
		t.Errorf("left: %s", got)
	}
}
