package filesystem

import "math/bits"

const gib = 1 << 30

// roomXFS allows for the log, the structures of each allocation group, and what is
// kept free for the growth of its trees, as mkfs.xfs 6.1 and Linux have it.
func roomXFS(size int64) Room {
	return Room{Bytes: size - 96*mib - size/128, Block: 4096, Inline: 200}
}

// roomBtrfs allows for the chunks of metadata, which stand twice and grow with the
// file system, and what is kept free for them to grow.
func roomBtrfs(size int64) Room {
	taken := min(max(size/8, 81*mib), 530*mib)
	if size > 50*gib {
		taken = 2066 * mib
	}
	return Room{Bytes: size - taken, Block: 4096, Inline: 3900}
}

// roomFAT allows for the two tables of FAT32. The size of a cluster is the one that
// mkfs.fat(8) chooses.
func roomFAT(size int64) Room {
	cluster := int64(512)
	for limit := int64(260 * mib); size > limit && cluster < 32<<10; limit = max(2*limit, 8*gib) {
		cluster = max(2*cluster, 4096)
	}
	return Room{Bytes: size - 2*4*(size/cluster) - 64<<10, Block: cluster}
}

// roomNone is of what holds no files.
func roomNone(int64) Room { return Room{} }

const (
	ext4Block        = 4096
	ext4InodeSize    = 256
	ext4GroupBlocks  = 8 * ext4Block // as many as a block of bits can tell of
	ext4Descriptors  = ext4Block / 64
	ext4GrowthFactor = 1024
)

// ext4Ratio is how many bytes there are to each inode: about as many as the
// mke2fs.conf of e2fsprogs says, whatever the host's does, and so that a larger file
// system never holds fewer files.
func ext4Ratio(size int64) int64 {
	if size < 2*gib {
		return max(4096, size/(128<<10))
	}
	return max(16384, size>>28)
}

// roomExt4 follows libext2fs: what the groups, the copies of the superblock with the
// descriptors of groups and those kept for growing, the inodes and the journal take.
func roomExt4(size int64) Room {
	blocks := size / ext4Block
	groups := ceil(blocks, ext4GroupBlocks)
	descriptors := ceil(groups, ext4Descriptors)
	grown := ceil(min(blocks*ext4GrowthFactor, 1<<32-1), ext4GroupBlocks)
	kept := min(max(ceil(grown, ext4Descriptors)-descriptors, 0), ext4Block/4)
	inodes := ceil(ceil(size/ext4Ratio(size), groups), ext4Block/ext4InodeSize) * (ext4Block / ext4InodeSize) * groups
	const own = 16 // the root folder, lost+found, and what finds the blocks kept for growing
	taken := 2*groups + superblocks(groups)*(1+descriptors+kept) + inodes*ext4InodeSize/ext4Block + ext4Journal(blocks) + own
	const reserved = 11 // inodes of the file system's own
	return Room{Bytes: (blocks - taken) * ext4Block, Files: inodes - reserved, Block: ext4Block, Inline: 59}
}

// superblocks is how many of the groups have a copy: the first two, and those whose
// number is a power of 3, 5 or 7.
func superblocks(groups int64) int64 {
	copies := min(groups, 2)
	for _, base := range []int64{3, 5, 7} {
		for group := base; group < groups; group *= base {
			copies++
		}
	}
	return copies
}

// ext4Journal is the blocks of a journal, by ext2fs_default_journal_size.
func ext4Journal(blocks int64) int64 {
	switch {
	case blocks < 2048:
		return 0
	case blocks < 32768:
		return 1024
	case blocks < 256<<10:
		return 4096
	case blocks < 512<<10:
		return 8192
	case blocks < 4096<<10:
		return 16384
	default: // doubles with the file system, up to 1 GiB
		return min(int64(32768)<<(bits.Len64(uint64(blocks>>22))-1), 262144)
	}
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }
