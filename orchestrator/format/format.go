// Package format is what a finished disk can be made into: its images in the formats of
// package diskformat, and what else holds it, its tree or its kernel. One row for each says
// what others have to know; package product writes them.
package format

import (
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
)

// Names of the formats that others have to name.
const (
	Tar        = "tar"
	OCI        = "oci"
	Squashfs   = "squashfs"
	OVA        = "ova"
	Box        = "box"
	GCE        = "gce"
	Partitions = "partitions"
	Kernel     = "kernel"
	ISO        = "iso"
)

// Format is what is known of one.
type Format struct {
	Name   string        // in definitions, options and records
	Suffix string        // of the first file's name, without its dot
	About  string        // what it is, in a few words
	Disk   bool          // an image that QEMU boots
	Tree   bool          // of the files alone: it needs file systems that vmctl reads
	CD     bool          // QEMU boots it from a drive for CDs
	Tools  []debian.Tool // that write or check it, besides those of every build
}

// table is the formats that are no images of disks.
var table = []Format{
	{Name: Tar, Suffix: "tar", About: "archive of the tree", Tree: true},
	{Name: OCI, Suffix: "oci.tar", About: "container image of the tree, for 'docker load' and 'podman load'", Tree: true},
	{
		Name: Squashfs, Suffix: "squashfs", About: "compressed file system of the tree, which nothing can change", Tree: true,
		Tools: []debian.Tool{{Name: "tar2sqfs", Package: "squashfs-tools-ng"}, {Name: "sqfs2tar", Package: "squashfs-tools-ng"}},
	},
	{Name: OVA, Suffix: "ova", About: "virtual machine for VMware and VirtualBox: OVF, stream-optimized disk, manifest"},
	{Name: Box, Suffix: "box", About: "Vagrant box for libvirt"},
	{Name: GCE, Suffix: "gce.tar.gz", About: "disk as Google Compute Engine imports it: whole GiB, in a compressed archive"},
	{
		Name: Partitions, Suffix: "partitions.json", About: "for bare metal: one compressed file for each partition, the table, and a script that restores them",
		Tools: []debian.Tool{{Name: "partclone.restore", Package: "partclone"}, {Name: "partclone.extfs", Package: "partclone"}, {Name: "partclone.vfat", Package: "partclone"}, {Name: "zstd", Package: "zstd"}},
	},
	{Name: Kernel, Suffix: "vmlinuz", About: "kernel, initramfs and command line, to boot the disk without its boot loader", Tree: true},
	{
		Name: ISO, Suffix: "iso", About: "live system on a CD or USB stick, which keeps what is written in memory (needs live-boot in the image)", Tree: true, CD: true,
		Tools: []debian.Tool{
			{Name: "xorriso", Package: "xorriso"}, {Name: "tar2sqfs", Package: "squashfs-tools-ng"}, {Name: "sqfs2tar", Package: "squashfs-tools-ng"},
			{Name: "mkfs.fat", Package: "dosfstools"}, {Name: "fsck.fat", Package: "dosfstools"}, {Name: "mcopy", Package: "mtools"},
		},
	},
}

// All is the formats, those of disks first.
func All() []Format {
	var all []Format
	for _, name := range diskformat.Written() {
		all = append(all, Format{Name: name, Suffix: name, About: "image of the disk", Disk: true})
	}
	return append(all, table...)
}

// Named is the format of that name, the zero value where there is none.
func Named(name string) Format {
	for _, f := range All() {
		if f.Name == name {
			return f
		}
	}
	return Format{}
}

// Names is the names of the formats.
func Names() []string {
	var names []string
	for _, f := range All() {
		names = append(names, f.Name)
	}
	return names
}

// ToolsOf is what these formats need besides what every build needs.
func ToolsOf(names ...string) []debian.Tool {
	var tools []debian.Tool
	for _, name := range names {
		tools = append(tools, Named(name).Tools...)
	}
	return tools
}
