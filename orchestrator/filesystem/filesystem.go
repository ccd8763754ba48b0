// Package filesystem is the one table of the file systems that a partition can
// have. Whoever needs to know something of one asks its row; adding one is adding
// a row.
package filesystem

import (
	"slices"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Names of the file systems, for the defaults of layouts.
const (
	Ext4  = "ext4"
	XFS   = "xfs"
	Btrfs = "btrfs"
	VFAT  = "vfat"
	Swap  = "swap"
)

// Content is what a file system can hold.
type Content int

// The contents.
const (
	Tree  Content = iota // a tree with its owners, modes, links and attributes
	Files                // names and bytes alone
	Pages                // what the kernel swaps out; it is not mounted
)

// Filling is how a tree gets into a file system that is still to be made.
type Filling int

// The ways of filling.
const (
	ByMkfs   Filling = iota // mkfs copies a folder
	ByMtools                // mtools copies a folder
	ByKernel                // the kernel mounts the file system, and a folder is copied
	Never                   // it holds no files
)

// Volume is what tells one file system of a kind from others.
type Volume struct{ UUID, Label string }

// Target is where a file system is made: a device or a file as a whole, or, for
// what can be filled ByMkfs, Size bytes of a disk image from Offset on.
type Target struct {
	File         string
	Offset, Size int64 // bytes; a Size of 0 stands for all of the file
}

// Room is what a new file system has for files.
type Room struct {
	Bytes  int64 // for what they hold, and folders
	Files  int64 // how many, folders included; 0 for no limit
	Block  int64 // each takes whole blocks of so many bytes
	Inline int64 // bytes of a link's target, or of attributes, that need no block
}

// Filesystem is all that is known of a kind of file system.
type Filesystem struct {
	Name     string // as mount(8) and fstab(5) call it
	Holds    Content
	Filling  Filling
	Grows    bool          // systemd-growfs enlarges it while it is mounted
	Readable bool          // package rawdisk reads its files
	Firmware bool          // the firmware of a machine reads it
	GRUB     string        // GRUB's module; "" for none
	Package  string        // Debian package with what checks it in a running image; "" for none
	Tools    []debian.Tool // on the host that makes it

	Smallest     int64 // sensible size, in bytes
	LongestLabel int   // bytes
	// Options is the mount options that it has: NAME, and NAME= where a value
	// belongs to it. Those that can go without a value stand in both forms.
	Options   []string
	Usual     string // options of a line in fstab that asks for none
	BootCheck bool   // fsck checks it at boot, rather than the kernel on mounting
	// FillOptions are for mounting it once to fill it, ReadOptions for looking into
	// one that nothing may change.
	FillOptions, ReadOptions string

	// UUID makes the identifier that it has of a UUID.
	UUID func(id string) string
	// Room is how much fits into one of size bytes.
	Room func(size int64) Room
	// Mkfs makes it on target; the folder is for ByMkfs alone, "" for an empty file
	// system. The features are those that Debian 12's GRUB and kernel read, however
	// new the tools of the host are.
	Mkfs func(v Volume, target Target, folder string) host.Command
	// Finish gives the file system that Mkfs filled what it does not copy of the
	// folder; nil for nothing.
	Finish func(target Target, folder string) error
	// Partclone is the program that copies what is in use of it; "" for none.
	Partclone string
	// Fsck checks the unmounted file system on target without changing it; nil for
	// what cannot be checked.
	Fsck func(target Target) host.Command
}

// Named is the file system of that name, or nil.
func Named(name string) *Filesystem {
	for i := range table {
		if table[i].Name == name {
			return &table[i]
		}
	}
	return nil
}

// Names is the names of the file systems for which the predicate holds; nil stands
// for all of them.
func Names(which func(*Filesystem) bool) []string {
	var names []string
	for i := range table {
		if which == nil || which(&table[i]) {
			names = append(names, table[i].Name)
		}
	}
	return names
}

// HasOption says whether it has a mount option of that form: NAME, or NAME= with a
// value after it.
func (f *Filesystem) HasOption(form string) bool { return slices.Contains(f.Options, form) }

// HoldsTree says whether owners, modes, links and attributes survive in it.
func (f *Filesystem) HoldsTree() bool { return f.Holds == Tree }

// Mountable says whether it has a place among the folders.
func (f *Filesystem) Mountable() bool { return f.Holds != Pages }
