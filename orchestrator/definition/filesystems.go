package definition

import (
	"fmt"
	"slices"
	"strings"
)

// filesystem is all that the definitions know of a kind of file system.
type filesystem struct {
	smallest Size // sensible size
	label    int  // length of the longest, in bytes
	// options is the mount options that it has: NAME, and NAME= where a value
	// belongs to it. Those that can go without a value stand in both forms.
	options []string
}

var filesystems = map[string]filesystem{
	"ext4":  {16 * MiB, 16, slices.Concat(genericOptions, ext4Options)},
	"xfs":   {300 * MiB, 12, slices.Concat(genericOptions, xfsOptions)},
	"btrfs": {256 * MiB, 255, slices.Concat(genericOptions, btrfsOptions)},
	"vfat":  {34 * MiB, 11, slices.Concat(genericOptions, vfatOptions)}, // FAT32
	"swap":  {1 * MiB, 15, swapOptions},
}

var (
	// mount(8), of util-linux 2.41, "filesystem-independent mount options", and fstab(5)
	genericOptions = strings.Fields(`
		async atime auto context= defaults defcontext= dev diratime dirsync exec fscontext= group iversion lazytime loud mand
		_netdev noatime noauto nodev nodiratime noexec nofail noiversion nolazytime nomand norelatime nostrictatime nosuid
		nosymfollow nouser owner relatime remount ro rootcontext= rw silent strictatime suid sync user users`)
	// ext4(5), of e2fsprogs 1.47, with what ext4 takes over from ext2 and ext3, and ext4.rst of Linux 6.12
	ext4Options = strings.Fields(`
		abort acl auto_da_alloc auto_da_alloc= barrier barrier= block_validity bsddf bsdgroups check= commit= data=
		data_err= dax dax= debug delalloc dioread_lock dioread_nolock discard errors= grpid grpjquota= grpquota init_itable
		init_itable= inlinecrypt inode_readahead_blks= journal_async_commit journal_checksum journal_dev= journal_ioprio=
		journal_path= jqfmt= max_batch_time= max_dir_size_kb= mb_optimize_scan= min_batch_time= minixdf noacl noauto_da_alloc
		nobarrier noblock_validity nocheck nodelalloc nodiscard nogrpid noinit_itable nojournal_checksum noload nombcache
		noquota norecovery nouid32 nouser_xattr nowarn_on_error no_prefetch_block_bitmaps oldalloc orlov prefetch_block_bitmaps
		prjquota quota resgid= resuid= sb= stripe= sysvgroups user_xattr usrjquota= usrquota warn_on_error`)
	// xfs(5), of xfsprogs 6.13
	xfsOptions = strings.Fields(`
		allocsize= attr2 bsdgroups dax dax= discard filestreams gqnoenforce gquota grpid grpquota ikeep inode32 inode64 largeio
		logbsize= logbufs= logdev= noalign noattr2 nodiscard nogrpid noikeep nolargeio noquota norecovery nouuid pqnoenforce
		pquota prjquota qnoenforce quota rtdev= sunit= swalloc swidth= sysvgroups uqnoenforce uquota usrquota wsync`)
	// btrfs(5), of btrfs-progs 6.14
	btrfsOptions = strings.Fields(`
		acl autodefrag barrier clear_cache commit= compress compress= compress-force compress-force= datacow datasum degraded
		device= discard discard= enospc_debug fatal_errors= flushoncommit fragment= max_inline= metadata_ratio= noacl
		noautodefrag nobarrier nodatacow nodatasum nodiscard noenospc_debug noflushoncommit nologreplay norecovery nospace_cache
		nossd nossd_spread notreelog rescan_uuid_tree rescue= skip_balance space_cache space_cache= ssd ssd_spread subvol=
		subvolid= thread_pool= treelog usebackuproot user_subvol_rm_allowed`)
	// mount(8), of util-linux 2.41, "mount options for fat" and "for vfat"
	vfatOptions = strings.Fields(`
		allow_utime= check= codepage= debug discard dmask= dos1xfloppy errors= flush fmask= gid= iocharset= nfs nfs= nonumtail
		nonumtail= quiet rodir shortname= showexec sys_immutable time_offset= tz= uid= umask= uni_xlate usefree utf8 utf8=`)
	// swapon(8), of util-linux 2.41
	swapOptions = strings.Fields(`auto defaults discard discard= noauto nofail pri= sw`)
)

// splitOptions is the mount options between the commas that stand outside
// double quotes, as mount(8) reads them.
func splitOptions(text string) []string {
	var options []string
	quoted, start := false, 0
	for i, char := range text {
		switch {
		case char == '"':
			quoted = !quoted
		case char == ',' && !quoted:
			options, start = append(options, text[start:i]), i+1
		}
	}
	return append(options, text[start:])
}

// validateOptions reports the mount options that the partition's file system,
// one of the known, does not have.
func (ld *loading) validateOptions(p Partition, at place) {
	report := func(what, mend string) { ld.report(at, "disk.layout: "+what, mend) }
	switch {
	case p.Options == "":
		return
	case isJinja(p.Options):
		report("mount options are no template", "write the options themselves")
		return
	case strings.ContainsAny(p.Options, " \t\r\n#"):
		report(fmt.Sprintf("options %q hold a space or a #", p.Options), "separate them with commas")
		return
	}
	for _, option := range splitOptions(p.Options) {
		if option == "" {
			report(fmt.Sprintf("options %q hold a comma too many", p.Options), "write one comma between two options")
		} else if mend, ok := filesystems[p.Filesystem].mendOption(option); !ok {
			report(fmt.Sprintf("%s does not know the mount option %q", p.Filesystem, option), mend)
		}
	}
}

// mendOption says whether the file system has the mount option, and if not,
// what to write instead.
func (f filesystem) mendOption(option string) (mend string, ok bool) {
	if strings.HasPrefix(option, "x-") || strings.HasPrefix(option, "X-") {
		return "", true // comments for programs in user space, such as systemd.mount(5)
	}
	name, value, valued := strings.Cut(option, "=")
	form := name
	if valued {
		form += "="
	}
	switch {
	case valued == (value != "") && slices.Contains(f.options, form):
		return "", true
	case slices.Contains(f.options, name+"="):
		return "write " + name + "=VALUE", false
	case slices.Contains(f.options, name):
		return "write " + name + " without a value", false
	}
	var others []string
	for _, other := range sortedKeys(filesystems) {
		if slices.Contains(filesystems[other].options, form) {
			others = append(others, other)
		}
	}
	if len(others) > 0 {
		return "remove it; it is an option of " + strings.Join(others, " and "), false
	}
	if near := Nearest(form, f.options); near != "" {
		return fmt.Sprintf("did you mean %q?", near), false
	}
	return "remove it or correct it; fstab(5) and the manual page of the file system list them", false
}
