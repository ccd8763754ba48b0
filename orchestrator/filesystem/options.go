package filesystem

import "strings"

// The mount options of each, by its manual page.
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
