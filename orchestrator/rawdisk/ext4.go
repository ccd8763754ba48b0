package rawdisk

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// ext4 reads an ext4 file system as the kernel's Documentation/filesystems/ext4
// describes it. The journal is not replayed.
type ext4 struct {
	disk                               io.ReaderAt
	size                               int64
	block, inodeSize, descriptor       int64 // bytes
	firstBlock, inodes, inodesPerGroup int64
	uuid, label                        string
	incompatible, compatible, readOnly uint32
	unmounted                          bool
	descriptors                        []byte
}

const (
	ext4Superblock = 1024
	ext4Root       = 2

	// Features without which a file system cannot be read (s_feature_incompat).
	ext4Recover  = 0x4
	ext4Extents  = 0x40
	ext4Is64Bit  = 0x80
	ext4Readable = 0x2 | ext4Recover | ext4Extents | ext4Is64Bit | 0x100 /* multiple mount protection */ | 0x200 /* flex_bg */ | 0x2000 /* seed of checksums */ | 0x4000 /* large folders */

	// Flags of inodes.
	ext4Encrypted   = 0x800
	ext4UsesExtents = 0x80000
	ext4Inline      = 0x10000000

	ext4ExtentMagic    = 0xf30a
	ext4AttributeMagic = 0xea020000
	largestFolder      = 64 << 20 // bytes
)

func isExt4(head []byte) bool {
	return len(head) >= 2048 && head[ext4Superblock+0x38] == 0x53 && head[ext4Superblock+0x39] == 0xef
}

func openExt4(disk io.ReaderAt, size int64, head []byte) (*ext4, error) {
	s := head[ext4Superblock:]
	shift := little32(s[0x18:])
	if shift > 6 {
		return nil, Damaged("its blocks are of an impossible size")
	}
	e := &ext4{
		disk: disk, size: size, block: 1024 << shift, inodeSize: 128, descriptor: 32,
		firstBlock: int64(little32(s[0x14:])), inodes: int64(little32(s)), inodesPerGroup: int64(little32(s[0x28:])),
		uuid: uuidText(s[0x68:0x78]), label: cString(s[0x78:0x88]),
		compatible: little32(s[0x5c:]), incompatible: little32(s[0x60:]), readOnly: little32(s[0x64:]),
	}
	const valid = 1 // of s_state
	e.unmounted = little16(s[0x3a:])&valid != 0 && e.incompatible&ext4Recover == 0
	if little32(s[0x4c:]) > 0 {
		e.inodeSize = int64(little16(s[0x58:]))
	}
	if e.incompatible&ext4Is64Bit != 0 {
		e.descriptor = int64(little16(s[0xfe:]))
	}
	if odd := e.incompatible &^ ext4Readable; odd != 0 {
		return nil, unreadable("it has features (%#x) that vmctl does not read", odd)
	}
	if e.inodesPerGroup == 0 || e.inodeSize < 128 || e.inodeSize > e.block || e.descriptor < 32 || e.descriptor > e.block || e.firstBlock > 1 {
		return nil, Damaged("its superblock makes no sense")
	}
	groups := (e.inodes + e.inodesPerGroup - 1) / e.inodesPerGroup
	length, at := groups*e.descriptor, (e.firstBlock+1)*e.block
	if at+length > size {
		return nil, Damaged("its group descriptors lie outside of it")
	}
	e.descriptors = make([]byte, length)
	_, err := disk.ReadAt(e.descriptors, at)
	return e, err
}

func (e *ext4) Kind() string { return filesystem.Ext4 }
func (e *ext4) Facts() []Fact {
	return []Fact{
		{"UUID", e.uuid}, {"file system label", e.label}, {"block size", fmt.Sprint(e.block)},
		{"features", fmt.Sprintf("%#x %#x %#x", e.compatible, e.incompatible&^ext4Recover, e.readOnly)},
	}
}
func (e *ext4) Root() (*Node, error) { return e.node(ext4Root) }

// node reads an inode.
func (e *ext4) node(number int64) (*Node, error) {
	if number < 1 || number > e.inodes {
		return nil, Damaged("a name leads to inode %d, which it does not have", number)
	}
	group, index := (number-1)/e.inodesPerGroup, (number-1)%e.inodesPerGroup
	d := e.descriptors[group*e.descriptor:][:e.descriptor]
	inodeTable := int64(little32(d[8:]))
	if e.descriptor >= 64 {
		inodeTable |= int64(little32(d[0x28:])) << 32
	}
	raw := make([]byte, e.inodeSize)
	if err := e.read(raw, inodeTable, index*e.inodeSize); err != nil {
		return nil, err
	}
	mode := uint32(little16(raw))
	n := &Node{
		Number: uint64(number), Links: int(little16(raw[0x1a:])), Mode: mode,
		Size: int64(little32(raw[4:])) | int64(little32(raw[0x6c:]))<<32,
		UID:  uint32(little16(raw[2:])) | uint32(little16(raw[0x78:]))<<16,
		GID:  uint32(little16(raw[0x18:])) | uint32(little16(raw[0x7a:]))<<16,
	}
	if n.Size < 0 {
		return nil, Damaged("inode %d has an impossible size", number)
	}
	seconds, nanoseconds := int64(int32(little32(raw[0x10:]))), uint32(0)
	if e.inodeSize >= 0x8c && little16(raw[0x80:]) >= 0x8c-0x80 {
		extra := little32(raw[0x88:])
		seconds, nanoseconds = seconds+int64(extra&3)<<32, extra>>2
	}
	n.ModTime = time.Unix(seconds, int64(nanoseconds))
	n.Facts = []Fact{
		{"type", fileType(mode)}, {"mode", fmt.Sprintf("%04o", mode&^unix.S_IFMT)},
		{"owner", fmt.Sprintf("%d:%d", n.UID, n.GID)}, {"mtime", fmt.Sprintf("%d.%09d", seconds, nanoseconds)},
	}
	n.State = stateOf(raw)
	return n, e.special(n, raw, mode)
}

// stateOf is an inode without the time when it was read, and the checksum.
func stateOf(raw []byte) string {
	state := slices.Clone(raw)
	for _, place := range [][2]int{{0x8, 0xc}, {0x7c, 0x7e}, {0x82, 0x84}, {0x8c, 0x90}} {
		if place[1] <= len(state) {
			clear(state[place[0]:place[1]])
		}
	}
	return string(state)
}

// special adds what depends on the kind of file, and its attributes.
func (e *ext4) special(n *Node, raw []byte, mode uint32) error {
	switch kind := mode & unix.S_IFMT; {
	case little32(raw[0x20:])&(ext4Encrypted|ext4Inline) != 0:
		return unreadable("inode %d is encrypted or inline", n.Number)
	case n.IsRegular(), n.IsFolder():
		n.Content = func() (*Content, error) { return e.extents(raw, n.Size) }
		if n.IsRegular() {
			n.Facts = append(n.Facts, Fact{"size", fmt.Sprint(n.Size)})
		}
	case kind == unix.S_IFLNK:
		target := raw[0x28:][:min(n.Size, 60)]
		if n.Size >= 60 {
			content, err := e.extents(raw, n.Size)
			if target = make([]byte, min(n.Size, e.block)); err == nil {
				_, err = content.ReadAt(target, 0)
			}
			if err != nil {
				return err
			}
		}
		n.Target = string(target)
		n.Facts = append(n.Facts, Fact{"target", n.Target})
	case kind == unix.S_IFCHR || kind == unix.S_IFBLK:
		number := little32(raw[0x28:]) // eight bits each, as of old
		n.Major, n.Minor = number>>8&0xff, number&0xff
		if number == 0 {
			number = little32(raw[0x2c:])
			n.Major, n.Minor = number>>8&0xfff, number&0xff|number>>12&0xfff00
		}
		n.Facts = append(n.Facts, Fact{"device", fmt.Sprintf("%d:%d", n.Major, n.Minor)})
	}
	return e.attributes(n, raw)
}

// attributes reads those in the inode and those in a block of their own.
func (e *ext4) attributes(n *Node, raw []byte) error {
	n.Attributes = map[string]string{}
	if e.inodeSize > 0x82 {
		at := 128 + int64(little16(raw[0x80:]))
		if at+4 <= e.inodeSize && little32(raw[at:]) == ext4AttributeMagic {
			ext4Attributes(raw[at+4:], raw[at+4:], n.Attributes)
		}
	}
	if block := int64(little32(raw[0x68:])) | int64(little16(raw[0x76:]))<<32; block != 0 {
		content := make([]byte, e.block)
		if err := e.read(content, block, 0); err != nil {
			return err
		}
		if little32(content) != ext4AttributeMagic {
			return Damaged("the attributes of inode %d are none", n.Number)
		}
		ext4Attributes(content[32:], content, n.Attributes)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Attributes)) {
		n.Facts = append(n.Facts, Fact{"attribute " + name, fmt.Sprintf("%q", n.Attributes[name])})
		if strings.HasPrefix(name, ext4ACL) {
			n.Attributes[name] = accessList([]byte(n.Attributes[name]))
		}
	}
	return nil
}

// ext4Attributes reads a list of attributes, whose values lie at offsets into values.
func ext4Attributes(list, values []byte, found map[string]string) {
	prefixes := map[byte]string{1: "user.", 2: ext4ACL + "access", 3: ext4ACL + "default", 4: "trusted.", 6: "security.", 7: "system."}
	for len(list) >= 16 && little32(list) != 0 {
		length, offset, size := int(list[0]), int(little16(list[2:])), int(little32(list[8:]))
		if 16+length > len(list) || size < 0 || offset+size > len(values) {
			return
		}
		found[prefixes[list[1]]+string(list[16:16+length])] = string(values[offset : offset+size])
		list = list[min(len(list), (16+length+3)&^3):]
	}
}

// ext4ACL is how the names of access lists begin.
const ext4ACL = "system.posix_acl_"

// accessList is an access list as getxattr(2) gives it (linux/posix_acl_xattr.h) of one as
// ext4 keeps it, which leaves out the identifiers of those who have none.
func accessList(stored []byte) string {
	const version, user, group, nobody = 2, 0x02, 0x08, ^uint32(0)
	list := binary.LittleEndian.AppendUint32(nil, version)
	for stored = stored[min(4, len(stored)):]; len(stored) >= 4; {
		tag, id := little16(stored), nobody
		list = append(list, stored[:4]...)
		stored = stored[4:]
		if (tag == user || tag == group) && len(stored) >= 4 {
			id, stored = little32(stored), stored[4:]
		}
		list = binary.LittleEndian.AppendUint32(list, id)
	}
	return string(list)
}

// read reads from a block on.
func (e *ext4) read(into []byte, block, offset int64) error {
	if block <= 0 || block > e.size/e.block || block*e.block+offset+int64(len(into)) > e.size {
		return Damaged("block %d lies outside of it", block)
	}
	_, err := e.disk.ReadAt(into, block*e.block+offset)
	return err
}

// List is the names in a folder.
func (e *ext4) List(n *Node) (map[string]*Node, error) {
	if n.Size > largestFolder {
		return nil, Damaged("a folder is larger than %d bytes", largestFolder)
	}
	content, err := n.Content()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, n.Size)
	if _, err := content.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	found := map[string]*Node{}
	for len(raw) >= int(e.block) {
		block := raw[:e.block]
		raw = raw[e.block:]
		for len(block) >= 8 {
			inode, step, length := int64(little32(block)), int(little16(block[4:])), int(block[6])
			if step == 0 && e.block == 64<<10 {
				step = 64 << 10
			}
			if step < 8 || step > len(block) || 8+length > step {
				return nil, Damaged("the folder of inode %d is", n.Number)
			}
			name := string(block[8 : 8+length])
			block = block[step:]
			if inode == 0 || length == 0 || name == "." || name == ".." {
				continue
			}
			if strings.ContainsAny(name, "/\x00") {
				return nil, Damaged("the folder of inode %d has a name with a slash", n.Number)
			}
			if found[name], err = e.node(inode); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// extents finds where the content of an inode lies.
func (e *ext4) extents(raw []byte, size int64) (*Content, error) {
	s := &Content{disk: e.disk, size: size}
	if size > 0 && little32(raw[0x20:])&ext4UsesExtents == 0 {
		return nil, unreadable("it has files without extents, as ext2 and ext3 have them")
	}
	if size > 0 {
		if err := e.extentTree(raw[0x28:][:60], 6, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (e *ext4) extentTree(list []byte, deepest int, s *Content) error {
	count, depth := int(little16(list[2:])), int(little16(list[6:]))
	if little16(list) != ext4ExtentMagic || 12+12*count > len(list) || depth >= deepest {
		return Damaged("the extents of a file are")
	}
	for i := range count {
		x := list[12+12*i:][:12]
		if depth > 0 {
			below := make([]byte, e.block)
			if err := e.read(below, int64(little32(x[4:]))|int64(little16(x[8:]))<<32, 0); err != nil {
				return err
			}
			if err := e.extentTree(below, depth, s); err != nil {
				return err
			}
			continue
		}
		const longest = 1 << 15 // blocks; an extent that is said to be longer is not initialised
		length, at := int64(little16(x[4:])), int64(little32(x[8:]))|int64(little16(x[6:]))<<32
		found := stretch{int64(little32(x)) * e.block, length * e.block, at * e.block}
		last := int64(0)
		if n := len(s.list); n > 0 {
			last = s.list[n-1].offset + s.list[n-1].size
		}
		if length > longest {
			continue
		}
		if length == 0 || found.offset < last || at > e.size/e.block || found.at+found.size > e.size {
			return Damaged("the extents of a file are")
		}
		s.list = append(s.list, found)
	}
	return nil
}

func uuidText(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func fileType(mode uint32) string {
	types := map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "folder", unix.S_IFLNK: "link", unix.S_IFCHR: "character device",
		unix.S_IFBLK: "block device", unix.S_IFIFO: "FIFO", unix.S_IFSOCK: "socket",
	}
	return cmp.Or(types[mode&unix.S_IFMT], fmt.Sprintf("%06o", mode&unix.S_IFMT))
}
