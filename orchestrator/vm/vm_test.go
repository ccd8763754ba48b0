package vm

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/golden"
)

func TestCommands(t *testing.T) {
	for name, m := range map[string]Machine{
		"bios-tcg":       {Firmware: "bios", Accel: AccelTCG, Image: Image{File: inherited(4), Format: "vmdk"}, Inherited: []int{4, 5}},
		"uefi-kvm":       {Firmware: "uefi", Accel: AccelKVM, NoSandbox: true},
		"secureboot-tcg": {Firmware: "secureboot", Accel: AccelTCG, Image: Image{File: "/w/disk,\".raw", Format: "raw"}, Units: []Unit{{Name: "x.service", Content: "[Service]\n"}, {Name: "y.target", DropIn: true}}},
		"cd-uefi":        {Firmware: "uefi", Accel: AccelTCG, CD: true, Image: Image{File: inherited(4), Format: "raw"}, Inherited: []int{4}},
		"direct-kvm":     {Firmware: "bios", Accel: AccelKVM, Inherited: []int{4}, Direct: &DirectBoot{Kernel: 5, Initramfs: 6, Agent: 7, Cmdline: "root=/dev/vda"}},
		"direct-online":  {Firmware: "bios", Accel: AccelTCG, Inherited: []int{4}, Direct: &DirectBoot{Kernel: 5, Initramfs: 6, Agent: 7, Cmdline: "root=/dev/vda", Online: true}},
		"direct-cd":      {Firmware: "bios", Accel: AccelTCG, Inherited: []int{4, 8}, Direct: &DirectBoot{Kernel: 5, Initramfs: 6, Agent: 7, Cmdline: "a=b", Online: true, CD: inherited(8)}},
	} {
		t.Run(name, func(t *testing.T) {
			m.Memory, m.CPUs = 1<<30, 2
			m.Disk, m.Vars, m.Console, m.Report, m.QMP = "/w/a,b.qcow2", "/w/vars,.fd", "/w/console,", "/w/report", 3
			m.SeaBIOS = "/w/seabios"
			golden.Equal(t, name+".golden", strings.ReplaceAll(m.Command().String(), " -", " \\\n  -")+"\n")
		})
	}
}

func TestOutputIsReadInParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(path, []byte("first middle last"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	o := Output{file}
	if first, last, all := o.First(5), o.Last(4), o.Last(100); string(first) != "first" || string(last) != "last" || string(all) != "first middle last" || o.Size() != 17 {
		t.Errorf("%q, %q, %q, %d", first, last, all, o.Size())
	}
}

func TestAUnitIsACredential(t *testing.T) {
	for kind, u := range map[string]Unit{"extra-unit": {Name: "x.service", Content: "[Service]\nExecStart=/bin/sh -c \"a,b\"\n"}, "unit-dropin": {Name: "x.target", DropIn: true, Content: "[Unit]\n"}} {
		encoded, found := strings.CutPrefix(u.smbios(), "type=11,value=io.systemd.credential.binary:systemd."+kind+"."+u.Name+"=")
		if decoded, err := base64.StdEncoding.DecodeString(encoded); !found || err != nil || string(decoded) != u.Content {
			t.Errorf("%s does not hold the unit: %v", u.smbios(), err)
		}
	}
}
