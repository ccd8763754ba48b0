package definition

import (
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// Names of the disk layouts.
const (
	LayoutHybrid = "hybrid"
	LayoutEFI    = "efi"
	LayoutBIOS   = "bios"
	LayoutNone   = "none" // nothing boots it
)

// Types of partitions.
const (
	TypeBIOS  = "bios"
	TypeESP   = "esp"
	TypeLinux = "linux"
	TypeSwap  = "swap"
)

const (
	biosPartitionSize = 1 * MiB
	espSize           = 128 * MiB
	// ESPMount is where Debian's GRUB packages expect the ESP.
	ESPMount = "/boot/efi"
)

var layouts = map[string][]Partition{
	LayoutHybrid: {biosPartition, espPartition, rootPartition},
	LayoutEFI:    {espPartition, rootPartition},
	LayoutBIOS:   {biosPartition, rootPartition},
	LayoutNone:   {rootPartition},
}

var (
	biosPartition = Partition{Label: "bios", Type: TypeBIOS, Size: biosPartitionSize}
	espPartition  = Partition{Label: "esp", Type: TypeESP, Size: espSize, Filesystem: filesystem.VFAT, Mount: ESPMount, Options: "umask=0077"}
	rootPartition = Partition{Label: "root", Type: TypeLinux, Filesystem: filesystem.Ext4, Mount: "/", Options: "errors=remount-ro"}
)

// Resolve is the layout's partitions, those of a named layout too, with
// every type filled in.
func (l Layout) Resolve() []Partition {
	partitions := l.Partitions
	if l.Name != "" {
		partitions = layouts[l.Name]
	}
	filled := make([]Partition, len(partitions))
	for i, p := range partitions {
		if p.Type == "" {
			p.Type = p.impliedType()
		}
		switch p.Type {
		case TypeESP:
			p.Filesystem = orDefault(p.Filesystem, filesystem.VFAT)
			p.Mount = orDefault(p.Mount, ESPMount)
		case TypeSwap:
			p.Filesystem = orDefault(p.Filesystem, filesystem.Swap)
		case TypeBIOS:
			p.Size = orDefault(p.Size, biosPartitionSize)
		}
		filled[i] = p
	}
	return filled
}

func (p Partition) impliedType() string {
	switch {
	case p.Mount == ESPMount || p.Mount == "/efi":
		return TypeESP
	case p.Filesystem == filesystem.Swap:
		return TypeSwap
	default:
		return TypeLinux
	}
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// Flavours is the kinds of Debian's official images for clouds that can be taken.
var Flavours = []string{"generic", "genericcloud", "nocloud"}

func (d *Definition) applyDefaults() {
	if b := d.Source.Bootstrap; b != nil {
		b.Variant = orDefault(b.Variant, "minbase")
		if len(b.Components) == 0 {
			b.Components = []string{"main"}
		}
	}
	if c := d.Source.CloudImage; c != nil && c.Suite != "" {
		c.Flavour = orDefault(c.Flavour, Flavours[0])
		c.Arch = orDefault(c.Arch, arch.Target.Debian)
	}
	if i := d.Source.Installer; i != nil {
		i.Disk = orDefault(i.Disk, 8*GiB)
		i.Memory = orDefault(i.Memory, 1*GiB)
		i.Timeout = orDefault(i.Timeout, Duration(10*time.Minute))
	}
	if !d.KeepsDisk() {
		d.applyDiskDefaults()
	}
	d.Hostname = orDefault(d.Hostname, d.Name)
	d.Boot.Cmdline = orDefault(d.Boot.Cmdline, "console=tty0 console=ttyS0,115200")
	if d.Boot.Timeout == nil {
		d.Boot.Timeout = new(1)
	}
	d.Test.Memory = orDefault(d.Test.Memory, 1*GiB)
	d.Test.CPUs = orDefault(d.Test.CPUs, 2)
	d.Test.Timeout = orDefault(d.Test.Timeout, Duration(10*time.Minute))
	if len(d.Outputs) == 0 {
		d.Outputs = []string{diskformat.Default}
	}
}

func (d *Definition) applyDiskDefaults() {
	d.Disk.Size = orDefault(d.Disk.Size, 2*GiB)
	if d.Disk.Layout.IsZero() {
		d.Disk.Layout.Name = LayoutHybrid
	}
	if d.Disk.Grow == nil {
		d.Disk.Grow = new(growsByItself(d.Disk.Layout.Resolve()))
	}
	if len(d.Firmware) == 0 {
		d.Firmware = bootable(d.Disk.Layout.Resolve())
	}
}

// bootable is the firmwares that can start from the partitions.
func bootable(partitions []Partition) []string {
	var firmware []string
	if hasType(partitions, TypeBIOS) {
		firmware = append(firmware, arch.BIOS)
	}
	if hasType(partitions, TypeESP) {
		firmware = append(firmware, arch.UEFI, arch.SecureBoot)
	}
	return firmware
}

// growable says whether a running machine can enlarge the root file system: its partition
// has nothing behind it.
func growable(partitions []Partition) bool {
	if len(partitions) == 0 {
		return false
	}
	last := partitions[len(partitions)-1]
	fs := filesystem.Named(last.Filesystem)
	return last.Mount == "/" && fs != nil && fs.Grows
}

// growsByItself says whether the root file system is to grow where nobody has said: a machine
// has to run for it.
func growsByItself(partitions []Partition) bool {
	return growable(partitions) && len(bootable(partitions)) > 0
}

func hasType(partitions []Partition, kind string) bool {
	for _, p := range partitions {
		if p.Type == kind {
			return true
		}
	}
	return false
}
