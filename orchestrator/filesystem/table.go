package filesystem

import (
	"slices"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

const mib = 1 << 20

var table = []Filesystem{
	{
		Name: Ext4, Holds: Tree, Filling: ByMkfs, Grows: true, Readable: true, GRUB: "ext2", Package: "e2fsprogs",
		Tools:    []debian.Tool{{Name: "mkfs.ext4", Package: "e2fsprogs"}, {Name: "e2fsck", Package: "e2fsprogs"}},
		Smallest: 16 * mib, LongestLabel: 16,
		Options: slices.Concat(genericOptions, ext4Options), Usual: "defaults", BootCheck: true,
		FillOptions: "noinit_itable", // would fill the sparse image with zeros
		ReadOptions: "noload",
		UUID:        itself, Room: roomExt4,
		Mkfs: func(v Volume, target Target, folder string) host.Command {
			return command("mkfs.ext4", "-q", "-F", "-U", v.UUID).with("-L", v.Label).with("-d", folder).
				with("-b", strconv.Itoa(ext4Block)).with("-i", strconv.FormatInt(ext4Ratio(target.Size), 10)).
				and(slices.Concat([]string{"-E", ext4Extended(v, target), "-O", "^metadata_csum_seed,^orphan_file"}, ext4Place(target))...)
		},
		Finish:    finishExt4,
		Partclone: "partclone.extfs",
		Fsck:      func(target Target) host.Command { return host.Cmd("e2fsck", "-f", "-n", ext4Part(target)) },
	},
	{
		Name: XFS, Holds: Tree, Filling: ByKernel, Grows: true, GRUB: "xfs", Package: "xfsprogs",
		Tools:    []debian.Tool{{Name: "mkfs.xfs", Package: "xfsprogs"}, {Name: "xfs_repair", Package: "xfsprogs"}},
		Smallest: 300 * mib, LongestLabel: 12,
		Options: slices.Concat(genericOptions, xfsOptions), Usual: "defaults",
		ReadOptions: "norecovery",
		UUID:        itself, Room: roomXFS,
		Mkfs: func(v Volume, target Target, _ string) host.Command {
			return command("mkfs.xfs", "-q", "-f", "-K", "-m", "uuid="+v.UUID, "-i", "nrext64=0").with("-L", v.Label).and(target.File)
		},
		Partclone: "partclone.xfs",
		Fsck:      func(target Target) host.Command { return host.Cmd("xfs_repair", "-n", target.File) },
	},
	{
		// mkfs.btrfs --rootdir loses fractions of seconds, the root folder's owner and
		// mode, and holes.
		Name: Btrfs, Holds: Tree, Filling: ByKernel, Grows: true, GRUB: "btrfs", Package: "btrfs-progs",
		Tools:    []debian.Tool{{Name: "mkfs.btrfs", Package: "btrfs-progs"}, {Name: "btrfs", Package: "btrfs-progs"}},
		Smallest: 256 * mib, LongestLabel: 255,
		Options: slices.Concat(genericOptions, btrfsOptions), Usual: "defaults",
		ReadOptions: "rescue=nologreplay",
		UUID:        itself, Room: roomBtrfs,
		Mkfs: func(v Volume, target Target, _ string) host.Command {
			return command("mkfs.btrfs", "-q", "-f", "-K", "-U", v.UUID).with("-L", v.Label).and(target.File)
		},
		Partclone: "partclone.btrfs",
		Fsck:      func(target Target) host.Command { return host.Cmd("btrfs", "check", "--readonly", target.File) },
	},
	{
		Name: VFAT, Holds: Files, Filling: ByMtools, Readable: true, Firmware: true, GRUB: "fat", Package: "dosfstools",
		Tools:    []debian.Tool{{Name: "mkfs.fat", Package: "dosfstools"}, {Name: "fsck.fat", Package: "dosfstools"}, {Name: "mcopy", Package: "mtools"}},
		Smallest: 34 * mib, LongestLabel: 11, // FAT32
		Options: slices.Concat(genericOptions, vfatOptions), Usual: "defaults", BootCheck: true,
		UUID: serial, Room: roomFAT,
		Mkfs: func(v Volume, target Target, _ string) host.Command {
			return command("mkfs.fat", "--invariant", "-F", "32", "-i", strings.ReplaceAll(v.UUID, "-", "")).with("-n", v.Label).and(target.File)
		},
		Partclone: "partclone.vfat",
		Fsck:      func(target Target) host.Command { return host.Cmd("fsck.fat", "-n", target.File) },
	},
	{
		Name: Swap, Holds: Pages, Filling: Never,
		Tools:    []debian.Tool{{Name: "mkswap", Package: "util-linux"}},
		Smallest: 1 * mib, LongestLabel: 15,
		Options: swapOptions, Usual: "sw",
		UUID: itself, Room: roomNone,
		Mkfs: func(v Volume, target Target, _ string) host.Command {
			return command("mkswap", "-U", v.UUID).with("-L", v.Label).and(target.File)
		},
	},
}

// argv is a tool's name and arguments in the making.
type argv []string

func command(words ...string) argv { return words }

// with adds an option and its value where there is a value.
func (a argv) with(option, value string) argv {
	if value == "" {
		return a
	}
	return append(a, option, value)
}

func (a argv) and(words ...string) host.Command {
	a = append(a, words...)
	return host.Cmd(a[0], a[1:]...)
}

func itself(id string) string { return id }

// serial is the serial number, as blkid shows it, that a FAT file system has in
// place of the UUID.
func serial(id string) string {
	number, _, _ := strings.Cut(strings.ToUpper(id), "-")
	if len(number) != 8 {
		return id // what stands for one that is still to be made
	}
	return number[:4] + "-" + number[4:]
}
