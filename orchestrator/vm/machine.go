// Package vm is the life of a QEMU guest: its command line, what it runs on, start,
// monitor, consoles and end. The image is never changed: a guest runs on a
// copy-on-write overlay. What reads an image is kept from the host, since the image may
// be anybody's: QEMU gets descriptors instead of names, filters its own system calls and
// is not root. What a guest must show is not known here.
package vm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Accelerators of QEMU.
const (
	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// Machine is a guest before it starts.
type Machine struct {
	Firmware string // arch.BIOS and its kin
	Accel    string // AccelKVM or AccelTCG
	Memory   int64  // bytes
	CPUs     int    // under KVM
	Disk     string // what the guest writes to, qcow2
	Image    Image  // what lies below Disk and is only read; the zero value for nothing
	CD       bool   // Image is in the drive for CDs, raw; there is no Disk
	Vars     string // writable copy of the UEFI variables; unused on BIOS
	Console  string // file that gets the first serial port
	Report   string // file that gets the second serial port
	SeaBIOS  string // file that gets the BIOS's own messages
	QMP      int    // descriptor of the monitor's socket; 0 for no monitor
	// Inherited is the descriptors that QEMU finds as the file /dev/fdset/N.
	Inherited []int
	NoSandbox bool
	Units     []Unit // systemd units for the guest, not in the image
	// Direct is the kernel of a guest that needs no boot loader; nil for one that has its own.
	Direct *DirectBoot
	// Detached is what a machine has that outlives vmctl, in place of Console, Report,
	// SeaBIOS and QMP; nil for one that ends with vmctl.
	Detached *Detached
}

// Image is a disk image of a known format.
type Image struct {
	File   string
	Format string // such as qcow2
}

// inherited is the name that QEMU has for a descriptor of Machine.Inherited.
func inherited(descriptor int) string { return "/dev/fdset/" + strconv.Itoa(descriptor) }

// sandbox is QEMU's filter of system calls: a guest that breaks out of the emulation
// starts no process and gains no right.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// basics is the arguments of every QEMU that reads an image.
func basics(noSandbox bool, descriptors []int) []string {
	args := []string{"-nodefaults", "-no-user-config", "-display", "none"}
	if !noSandbox {
		args = append(args, "-sandbox", sandbox)
	}
	for _, fd := range descriptors {
		args = append(args, "-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, fd))
	}
	return args
}

// monitored is the arguments for a monitor on the socket.
func monitored(descriptor int) []string {
	return []string{"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", descriptor), "-mon", "chardev=monitor,mode=control"}
}

// node is a block device of QEMU's, as QMP's BlockdevOptions.
type node map[string]any

// blockdevs is the arguments that make the nodes, in their order.
func blockdevs(nodes ...node) []string {
	var args []string
	for _, n := range nodes {
		text, _ := json.Marshal(n) // nothing in it can fail
		args = append(args, "-blockdev", string(text))
	}
	return args
}

// nodes is the image as QEMU is to see it: only for reading, in this format and
// no other, and nothing below it, whatever it says of itself.
func (i Image) nodes() []node {
	format := diskformat.Named(i.Format)
	image := node{"node-name": "image", "driver": format.QEMU, "file": "image-file", "read-only": true}
	if format.Backing {
		image["backing"] = nil
	}
	return []node{{"node-name": "image-file", "driver": "file", "filename": i.File, "read-only": true}, image}
}

// disks is what the guest has: the image, if there is one, and a disk of its own on it. What
// a guest writes that ends with vmctl need not outlive the host.
func (m Machine) disks() []string {
	if m.CD {
		return append(blockdevs(m.Image.nodes()...), "-device", "ide-cd,drive=image,bootindex=1")
	}
	return append(m.overlay(), "-device", "virtio-blk-pci,drive=disk,bootindex=1")
}

// overlay is the nodes of the guest's disk.
func (m Machine) overlay() []string {
	disk := node{"node-name": "disk", "driver": diskformat.QCOW2, "file": "disk-file", "backing": nil}
	if m.Direct != nil {
		disk = node{"node-name": "disk", "driver": diskformat.Raw, "file": "disk-file"}
	}
	file := node{"node-name": "disk-file", "driver": "file", "filename": m.Disk}
	for _, n := range []node{disk, file} {
		n["discard"] = "unmap"
		if m.Detached == nil {
			n["cache"] = node{"no-flush": true}
		}
	}
	if m.Image == (Image{}) {
		return blockdevs(file, disk)
	}
	disk["backing"] = "image"
	return blockdevs(append(m.Image.nodes(), file, disk)...)
}

// Command is the call of QEMU.
func (m Machine) Command() host.Command {
	qemu, firmware := arch.Target.QEMU, arch.Target.FirmwareNamed(m.Firmware)
	machine, cpu := qemu.Machine, qemu.CPU
	if firmware.Machine != "" {
		machine += "," + firmware.Machine
	}
	// Emulated processors may run code that another one has just patched, and
	// Linux patches itself while it boots: every so often that is a panic (int3)
	// which the image is not to blame for. One processor has no such neighbour.
	accel, cpus := "tcg", 1
	if m.Accel == AccelKVM {
		accel, cpu, cpus = "kvm", "host", m.CPUs
	}
	args := append(basics(m.NoSandbox, m.Inherited),
		"-machine", machine, "-accel", accel, "-cpu", cpu,
		"-m", strconv.FormatInt(m.Memory>>20, 10), "-smp", strconv.Itoa(cpus),
	)
	args = append(args, m.disks()...)
	args = append(args, "-device", "virtio-rng-pci")
	if m.Detached != nil {
		args = append(args, m.Detached.args()...)
	} else {
		args = append(args, m.ports()...)
	}
	if m.Direct != nil {
		args = append(args, m.Direct.args()...)
	} else {
		args = append(args, "-device", qemu.Screen)
	}
	args = append(args, m.firmwareArgs(firmware)...)
	for _, unit := range m.Units {
		args = append(args, "-smbios", unit.smbios())
	}
	return host.Cmd(qemu.Binary, args...)
}

// ports is a network, which leads nowhere unless the guest is to work there, and where the
// guest says something.
func (m Machine) ports() []string {
	var restriction []string
	if m.Direct == nil || !m.Direct.Online {
		restriction = []string{"restrict=on"}
	}
	args := append(network(restriction...),
		"-chardev", "file,id=console,path="+escape(m.Console), "-serial", "chardev:console",
		"-chardev", "file,id=report,path="+escape(m.Report), "-serial", "chardev:report",
		"-chardev", "file,id=seabios,path="+escape(m.SeaBIOS), "-device", arch.Target.QEMU.Log+",chardev=seabios",
	)
	if m.QMP > 0 {
		args = append(args, monitored(m.QMP)...)
	}
	return args
}

// network is a card on a network of QEMU's own.
func network(options ...string) []string {
	return []string{"-netdev", strings.Join(append([]string{"user,id=net"}, options...), ","), "-device", "virtio-net-pci,netdev=net,romfile="}
}

func (m Machine) firmwareArgs(firmware arch.Firmware) []string {
	if firmware.Code == "" {
		return nil
	}
	vars := node{"node-name": "vars", "driver": diskformat.Raw, "file": node{"driver": "file", "filename": m.Vars}}
	if m.Detached != nil {
		vars["driver"], vars["backing"] = diskformat.QCOW2, nil // which has room for snapshots
	}
	args := blockdevs(
		node{"node-name": "code", "driver": diskformat.Raw, "read-only": true, "file": node{"driver": "file", "filename": firmware.Code, "read-only": true}},
		vars,
	)
	return append(append(args, "-machine", "pflash0=code,pflash1=vars"), firmware.Args...)
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
