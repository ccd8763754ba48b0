// Package vm starts QEMU guests and judges whether an image boots. The image
// is never changed: a guest runs on a copy-on-write overlay.
package vm

import (
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/spec"
)

// Accelerators of QEMU.
const (
	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// Files of Debian's ovmf package. The secboot build enforces Secure Boot with
// the variables of VARS_4M.ms, which hold Microsoft's keys.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

// QEMU is the emulator.
const QEMU = "qemu-system-x86_64"

// Machine is a guest before it starts.
type Machine struct {
	Firmware string // spec.FirmwareBIOS and its kin
	Accel    string // AccelKVM or AccelTCG
	Memory   int64  // bytes
	CPUs     int    // under KVM
	Disk     string // overlay, qcow2
	Vars     string // writable copy of the UEFI variables; unused on BIOS
	Console  string // file that gets the first serial port
	Report   string // file that gets the second serial port
	SeaBIOS  string // file that gets the BIOS's own messages
	QMP      int    // descriptor of the monitor's socket; 0 for no monitor
	Units    []Unit // systemd units for the guest, not in the image
}

// Unit is a systemd unit, or a drop-in for one, that is handed to a guest as a
// system credential (systemd.system-credentials(7)); systemd 256 or later.
type Unit struct {
	Name    string // such as x.service
	DropIn  bool
	Content string
}

func (u Unit) smbios() string {
	kind := "extra-unit"
	if u.DropIn {
		kind = "unit-dropin"
	}
	return fmt.Sprintf("type=11,value=io.systemd.credential.binary:systemd.%s.%s=%s", kind, u.Name, base64.StdEncoding.EncodeToString([]byte(u.Content)))
}

// VarsTemplate is the file that Vars starts as a copy of, "" on BIOS.
func VarsTemplate(firmware string) string {
	switch firmware {
	case spec.FirmwareUEFI:
		return ovmfVars
	case spec.FirmwareSecureBoot:
		return ovmfSecureVars
	}
	return ""
}

// FirmwareFiles is the files that a host needs for the firmware.
func FirmwareFiles(firmware string) []string {
	switch firmware {
	case spec.FirmwareUEFI:
		return []string{ovmfCode, ovmfVars}
	case spec.FirmwareSecureBoot:
		return []string{ovmfSecureCode, ovmfSecureVars}
	}
	return nil
}

// Command is the call of QEMU.
func (m Machine) Command() host.Command {
	// Five-level page tables and string instructions that the guest believes to
	// be fast only slow TCG down.
	machine, cpu := "q35", "max,la57=off,erms=off,fsrm=off"
	if m.Firmware == spec.FirmwareSecureBoot {
		machine += ",smm=on"
	}
	// Emulated processors may run code that another one has just patched, and
	// Linux patches itself while it boots: every so often that is a panic (int3)
	// which the image is not to blame for. One processor has no such neighbour.
	accel, cpus := "tcg", 1
	if m.Accel == AccelKVM {
		accel, cpu, cpus = "kvm", "host", m.CPUs
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", machine, "-accel", accel, "-cpu", cpu,
		"-m", strconv.FormatInt(m.Memory>>20, 10), "-smp", strconv.Itoa(cpus),
		"-drive", "if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file=" + escape(m.Disk),
		"-device", "virtio-blk-pci,drive=disk,bootindex=1",
		"-device", "virtio-rng-pci",
		"-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-chardev", "file,id=console,path=" + escape(m.Console), "-serial", "chardev:console",
		"-chardev", "file,id=report,path=" + escape(m.Report), "-serial", "chardev:report",
		"-chardev", "file,id=seabios,path=" + escape(m.SeaBIOS), "-device", "isa-debugcon,iobase=0x402,chardev=seabios",
	}
	if m.QMP > 0 {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", m.QMP), "-mon", "chardev=monitor,mode=control")
	}
	args = append(args, m.firmwareArgs()...)
	for _, unit := range m.Units {
		args = append(args, "-smbios", unit.smbios())
	}
	return host.Cmd(QEMU, args...)
}

func (m Machine) firmwareArgs() []string {
	files := FirmwareFiles(m.Firmware)
	if files == nil {
		return nil
	}
	args := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + files[0],
		"-drive", "if=pflash,unit=1,format=raw,file=" + escape(m.Vars),
	}
	if m.Firmware == spec.FirmwareSecureBoot {
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
	}
	return args
}

// escape doubles the commas of a value in QEMU's option syntax.
func escape(path string) string {
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] == ',' {
			out = append(out, ',')
		}
		out = append(out, path[i])
	}
	return string(out)
}
