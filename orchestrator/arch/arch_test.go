package arch

import (
	"slices"
	"testing"
)

func TestEachRowIsWhole(t *testing.T) {
	for _, a := range table {
		if a.Debian == "" || a.Kernel == "" || len(a.RootType) != 36 || a.QEMU.Binary == "" || a.QEMU.Package == "" || a.QEMU.Machine == "" || a.QEMU.CPU == "" {
			t.Errorf("%+v", a)
		}
		if !slices.Contains(Known, a.OCI) {
			t.Errorf("%s: nobody can ask a registry for %q", a.Debian, a.OCI)
		}
		if len(a.Firmware) == 0 {
			t.Errorf("%s starts by no firmware", a.Debian)
		}
		for _, name := range a.FirmwareNames() {
			f := a.FirmwareNamed(name)
			if (f.Code == "") != (f.Vars == "") || (f.Code == "") != (f.Package == "") || (f.Code == "") != (f.Files() == nil) {
				t.Errorf("%s: %+v", a.Debian, f)
			}
		}
	}
	if f := Target.FirmwareNamed("coreboot"); f.Files() != nil || f.SMM {
		t.Errorf("%+v", f)
	}
}
