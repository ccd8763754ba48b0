package vm

import (
	"fmt"
	"os"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
)

// AgentPort is the name of the virtio port that leads out of a guest with a kernel of ours.
const AgentPort = "vmctl.agent"

// RootDevice is what such a guest has its root file system on.
const RootDevice = "/dev/vda"

// DirectBoot is the kernel that a guest begins with, whatever is on its disk.
type DirectBoot struct {
	Kernel    int // descriptors of files that whoever runs QEMU may read
	Initramfs int
	Cmdline   string
	Agent     int  // descriptor of a socket that listens, at the other end of AgentPort
	Online    bool // the guest reaches what the builder reaches; nothing reaches it
	CD        string
}

func (d DirectBoot) args() []string {
	name := func(descriptor int) string { return fmt.Sprintf("/proc/self/fd/%d", descriptor) }
	args := []string{
		"-kernel", name(d.Kernel), "-initrd", name(d.Initramfs), "-append", d.Cmdline, "-no-reboot",
		"-device", "virtio-serial-pci", "-chardev", fmt.Sprintf("socket,id=agent,fd=%d,server=on,wait=off", d.Agent),
		"-device", "virtserialport,chardev=agent,name=" + AgentPort,
	}
	if d.CD == "" {
		return args
	}
	args = append(args, blockdevs(node{"node-name": "cd", "driver": diskformat.Raw, "read-only": true, "file": node{"driver": "file", "filename": d.CD, "read-only": true}})...)
	return append(args, "-device", "ide-cd,drive=cd")
}

// Direct is the setup of a guest that begins with a kernel, and writes to its disk. All of
// its files are the caller's.
type Direct struct {
	Kernel, Initramfs *os.File // which whoever runs QEMU may read
	Cmdline           string
	Disk              *os.File // raw, open for writing
	Agent             *os.File // see DirectBoot
	Online            bool
	CD                *os.File // what is in the drive, raw; nil for no drive
}

// prepare hands the files over.
func (d Direct) prepare(g *Guest) {
	g.machine.Disk = g.inherit(d.Disk)
	g.machine.Direct = &DirectBoot{Kernel: g.hand(d.Kernel), Initramfs: g.hand(d.Initramfs), Agent: g.hand(d.Agent), Cmdline: d.Cmdline, Online: d.Online}
	if d.CD != nil {
		g.machine.Direct.CD = g.inherit(d.CD)
	}
}
