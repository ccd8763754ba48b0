package filesystem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ext4Extended is the extended options. A journal that is not written out in full
// is one of zeros, as the file is a new one.
func ext4Extended(v Volume, target Target) string {
	options := "nodiscard,lazy_journal_init=1,root_owner=0:0,hash_seed=" + v.UUID
	if target.Offset > 0 {
		options += fmt.Sprintf(",offset=%d", target.Offset)
	}
	return options
}

// ext4Place is the last arguments of mkfs.ext4.
func ext4Place(target Target) []string {
	if target.Size == 0 {
		return []string{target.File}
	}
	return []string{target.File, fmt.Sprintf("%dK", target.Size>>10)}
}

// ext4Part is how e2fsprogs call a part of a file.
func ext4Part(target Target) string {
	if target.Offset == 0 {
		return target.File
	}
	return fmt.Sprintf("%s?offset=%d", target.File, target.Offset)
}

// Offsets and numbers of the format, from "Data Structures and Algorithms", ext4, in
// Linux' Documentation/filesystems.
const (
	ext4Superblock  = 1024
	ext4Magic       = 0xef53
	ext4Incompat64  = 0x80
	ext4CsumSeed    = 0x2000
	ext4MetadataSum = 0x400
	ext4RootInode   = 2
	ext4Extents     = 0x80000
	ext4ExtentMagic = 0xf30a
)

// finishExt4 gives the file system what mke2fs -d leaves out of the folder that it
// copied: the owner and mode of the root folder, and of all that is in it the fractions of
// the seconds and the years after 2038. All four times of a file are that of its last
// change: the others are those of the copy, which nobody can set.
func finishExt4(target Target, folder string) (err error) {
	file, err := os.OpenFile(target.File, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	volume, err := openExt4(file, target.Offset)
	if err != nil {
		return fmt.Errorf("ext4 in %s: %w", target.File, err)
	}
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	root, err := volume.inode(ext4RootInode)
	if err != nil {
		return err
	}
	root.own(info.Sys().(*syscall.Stat_t))
	if err := volume.write(ext4RootInode, root); err != nil {
		return err
	}
	return volume.finish(root, folder)
}

// ext4Volume is a file system as mke2fs has just made it.
type ext4Volume struct {
	file      *os.File
	start     int64 // of the file system in the file
	block     int64 // bytes of a block
	inodeSize int64
	perGroup  uint32  // inodes
	tables    []int64 // where each group's inodes are, in blocks
	sums      bool    // inodes have a checksum, which begins with seed
	seed      uint32
}

var little = binary.LittleEndian

func openExt4(file *os.File, start int64) (*ext4Volume, error) {
	super := make([]byte, 1024)
	if _, err := file.ReadAt(super, start+ext4Superblock); err != nil {
		return nil, err
	}
	incompat := little.Uint32(super[0x60:])
	if little.Uint16(super[0x38:]) != ext4Magic || incompat&ext4CsumSeed != 0 {
		return nil, errors.New("not as it was made")
	}
	v := &ext4Volume{
		file: file, start: start, block: 1024 << little.Uint32(super[0x18:]), inodeSize: int64(little.Uint16(super[0x58:])),
		perGroup: little.Uint32(super[0x28:]), sums: little.Uint32(super[0x64:])&ext4MetadataSum != 0,
		seed: crc32c(^uint32(0), super[0x68:0x78]),
	}
	size := int64(32)
	if incompat&ext4Incompat64 != 0 {
		size = int64(little.Uint16(super[0xfe:]))
	}
	groups := ceil(int64(little.Uint32(super)), int64(v.perGroup))
	descriptors := make([]byte, groups*size)
	first := int64(little.Uint32(super[0x14:])) // block of the superblock
	if _, err := file.ReadAt(descriptors, start+(first+1)*v.block); err != nil {
		return nil, err
	}
	for ; len(descriptors) > 0; descriptors = descriptors[size:] {
		table := int64(little.Uint32(descriptors[0x8:]))
		if size >= 64 {
			table |= int64(little.Uint32(descriptors[0x28:])) << 32
		}
		v.tables = append(v.tables, table)
	}
	return v, nil
}

// crc32c is the checksum as ext4 has it: without inversions.
func crc32c(sum uint32, data []byte) uint32 {
	return ^crc32.Update(^sum, crc32.MakeTable(crc32.Castagnoli), data)
}

func (v *ext4Volume) at(number uint32) (int64, error) {
	group := (number - 1) / v.perGroup
	if number == 0 || int(group) >= len(v.tables) {
		return 0, fmt.Errorf("there is no inode %d", number)
	}
	return v.start + v.tables[group]*v.block + int64((number-1)%v.perGroup)*v.inodeSize, nil
}

func (v *ext4Volume) inode(number uint32) (ext4Inode, error) {
	at, err := v.at(number)
	if err != nil {
		return nil, err
	}
	inode := make(ext4Inode, v.inodeSize)
	_, err = v.file.ReadAt(inode, at)
	return inode, err
}

func (v *ext4Volume) write(number uint32, inode ext4Inode) error {
	at, err := v.at(number)
	if err != nil {
		return err
	}
	if v.sums {
		little.PutUint16(inode[0x7c:], 0)
		little.PutUint16(inode[0x82:], 0)
		sum := crc32c(v.seed, little.AppendUint32(nil, number))
		sum = crc32c(crc32c(sum, inode[0x64:0x68]), inode)
		little.PutUint16(inode[0x7c:], uint16(sum))
		little.PutUint16(inode[0x82:], uint16(sum>>16))
	}
	_, err = v.file.WriteAt(inode, at)
	return err
}

// finish sets the times of all below a folder. What the source does not have is
// the file system's own.
func (v *ext4Volume) finish(folder ext4Inode, source string) error {
	entries, err := v.entries(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(source, entry.name)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		inode, err := v.inode(entry.inode)
		if err != nil {
			return err
		}
		if inode.setTimes(info.Sys().(*syscall.Stat_t).Mtim) {
			if err := v.write(entry.inode, inode); err != nil {
				return err
			}
		}
		if info.IsDir() {
			if err := v.finish(inode, path); err != nil {
				return err
			}
		}
	}
	return nil
}

type ext4Entry struct {
	inode uint32
	name  string
}

// entries is what is in a folder, but for itself and the folder above.
func (v *ext4Volume) entries(folder ext4Inode) ([]ext4Entry, error) {
	blocks, err := v.blocks(folder[0x28:0x64])
	if err != nil {
		return nil, err
	}
	if little.Uint32(folder[0x20:])&ext4Extents == 0 {
		return nil, errors.New("a folder without extents")
	}
	var entries []ext4Entry
	content := make([]byte, v.block)
	for _, block := range blocks {
		if _, err := v.file.ReadAt(content, v.start+block*v.block); err != nil {
			return nil, err
		}
		for rest := content; len(rest) >= 8; {
			inode, length, named := little.Uint32(rest), int(little.Uint16(rest[4:])), int(rest[6])
			if length < 8 || length > len(rest) || named > length-8 {
				return nil, errors.New("a folder with a damaged entry")
			}
			name := string(rest[8 : 8+named])
			if inode != 0 && name != "." && name != ".." {
				entries = append(entries, ext4Entry{inode, name})
			}
			rest = rest[length:]
		}
	}
	return entries, nil
}

// blocks is the blocks of a file in their order, from a node of its tree of extents.
func (v *ext4Volume) blocks(node []byte) ([]int64, error) {
	count, depth := int(little.Uint16(node[2:])), little.Uint16(node[6:])
	if little.Uint16(node) != ext4ExtentMagic || 12+12*count > len(node) {
		return nil, errors.New("a folder with damaged extents")
	}
	var blocks []int64
	for i := range count {
		entry := node[12+12*i:]
		if depth == 0 {
			first := int64(little.Uint16(entry[6:]))<<32 | int64(little.Uint32(entry[8:]))
			for n := range int64(little.Uint16(entry[4:])) {
				blocks = append(blocks, first+n)
			}
			continue
		}
		below := make([]byte, v.block)
		if _, err := v.file.ReadAt(below, v.start+v.block*(int64(little.Uint16(entry[8:]))<<32|int64(little.Uint32(entry[4:])))); err != nil {
			return nil, err
		}
		more, err := v.blocks(below)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, more...)
	}
	return blocks, nil
}

// ext4Inode is an inode as it is on the disk, of 256 bytes.
type ext4Inode []byte

// Places of a time in an inode: of its seconds, and of its nanoseconds.
var (
	ext4Atime = [2]int{0x8, 0x8c}
	ext4Ctime = [2]int{0xc, 0x84}
	ext4Mtime = [2]int{0x10, 0x88}
	ext4Birth = [2]int{0x90, 0x94}
)

// setTimes sets all times and says whether one was another.
func (i ext4Inode) setTimes(t syscall.Timespec) (changed bool) {
	for _, place := range [][2]int{ext4Atime, ext4Ctime, ext4Mtime, ext4Birth} {
		changed = i.setTime(place, t) || changed
	}
	return changed
}

// setTime sets a time and says whether it was another. The seconds have 34 bits, of
// which two stand before the nanoseconds.
func (i ext4Inode) setTime(place [2]int, t syscall.Timespec) bool {
	low := uint32(t.Sec)
	extra := uint32(t.Nsec)<<2 | uint32((t.Sec-int64(int32(low)))>>32)&3
	if little.Uint32(i[place[0]:]) == low && little.Uint32(i[place[1]:]) == extra {
		return false
	}
	little.PutUint32(i[place[0]:], low)
	little.PutUint32(i[place[1]:], extra)
	return true
}

// own gives the inode the owner, mode and times.
func (i ext4Inode) own(stat *syscall.Stat_t) {
	little.PutUint16(i, little.Uint16(i)&syscall.S_IFMT|uint16(stat.Mode&^uint32(syscall.S_IFMT)))
	little.PutUint16(i[0x2:], uint16(stat.Uid))
	little.PutUint16(i[0x78:], uint16(stat.Uid>>16))
	little.PutUint16(i[0x18:], uint16(stat.Gid))
	little.PutUint16(i[0x7a:], uint16(stat.Gid>>16))
	i.setTimes(stat.Mtim)
}
