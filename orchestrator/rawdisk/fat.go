package rawdisk

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// fat reads a FAT file system (Microsoft, FAT: General Overview of On-Disk Format,
// 1.03).
type fat struct {
	disk             io.ReaderAt
	cluster, data    int64 // bytes; where the clusters begin
	bits             int   // of an entry of the table
	clusters         uint32
	entries          []byte // the file allocation table
	rootAt, rootSize int64  // of FAT12 and FAT16
	rootCluster      uint32 // of FAT32
	serial, label    string
	seen             map[uint32]bool
}

const largestFAT = 64 << 20 // bytes, of the table

func isFAT(head []byte) bool {
	bytesPerSector, perCluster := little16(head[11:]), head[13]
	power := func(n int) bool { return n > 0 && n&(n-1) == 0 }
	return head[510] == 0x55 && head[511] == 0xaa && bytesPerSector >= SectorSize && bytesPerSector <= 4096 && power(int(bytesPerSector)) &&
		power(int(perCluster)) && little16(head[14:]) > 0 && (head[16] == 1 || head[16] == 2) && head[21] >= 0xf0
}

func openFAT(disk io.ReaderAt, size int64, head []byte) (*fat, error) {
	bytesPerSector := int64(little16(head[11:]))
	f := &fat{disk: disk, cluster: int64(head[13]) * bytesPerSector, seen: map[uint32]bool{}}
	reserved, copies, rootEntries := int64(little16(head[14:])), int64(head[16]), int64(little16(head[17:]))
	sectors, perTable, extended := int64(little16(head[19:])), int64(little16(head[22:])), head[36:]
	if sectors == 0 {
		sectors = int64(little32(head[32:]))
	}
	if perTable == 0 {
		perTable, extended = int64(little32(head[36:])), head[64:]
	}
	f.serial, f.label = fmt.Sprintf("%04X-%04X", little16(extended[5:]), little16(extended[3:])), cString(extended[7:18])
	f.rootAt, f.rootSize = (reserved+copies*perTable)*bytesPerSector, rootEntries*32
	f.data = f.rootAt + (f.rootSize+bytesPerSector-1)/bytesPerSector*bytesPerSector
	length := sectors*bytesPerSector - f.data
	if length < 0 || sectors*bytesPerSector > size || perTable*bytesPerSector > largestFAT {
		return nil, Damaged("its boot sector makes no sense")
	}
	f.clusters = uint32(min(length/f.cluster, 0x0ffffff5))
	switch {
	case f.clusters < 4085:
		f.bits = 12
	case f.clusters < 65525:
		f.bits = 16
	default:
		f.bits, f.rootCluster = 32, little32(head[44:])
	}
	f.entries = make([]byte, perTable*bytesPerSector)
	_, err := disk.ReadAt(f.entries, reserved*bytesPerSector)
	return f, err
}

func (f *fat) Kind() string { return filesystem.VFAT }
func (f *fat) Facts() []Fact {
	return []Fact{{"UUID", f.serial}, {"file system label", f.label}, {"FAT bits", fmt.Sprint(f.bits)}, {"cluster size", fmt.Sprint(f.cluster)}}
}

// Root begins anew: from here on, no cluster may be met twice.
func (f *fat) Root() (*Node, error) {
	clear(f.seen)
	n := &Node{Links: 1, Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(fatBegin, 0)}
	if f.bits == 32 {
		return n, f.place(n, f.rootCluster)
	}
	n.Size = f.rootSize
	n.Content = func() (*Content, error) {
		return &Content{disk: f.disk, size: f.rootSize, list: []stretch{{0, f.rootSize, f.rootAt}}}, nil
	}
	return n, nil
}

// next is the entry of a cluster in the table: 0 at the end of a chain.
func (f *fat) next(cluster uint32) (uint32, error) {
	at, end := int64(cluster)*int64(f.bits)/8, uint32(1)<<min(f.bits, 28)-8
	if at+4 > int64(len(f.entries)) && (f.bits == 32 || at+2 > int64(len(f.entries))) {
		return 0, Damaged("its table is cut off")
	}
	next := uint32(little16(f.entries[at:]))
	switch f.bits {
	case 12:
		next = next >> (4 * (cluster & 1)) & 0xfff
	case 32:
		next = little32(f.entries[at:]) & 0x0fffffff
	}
	if next >= end {
		return 0, nil
	}
	if next < 2 || next >= f.clusters+2 {
		return 0, Damaged("a chain of clusters is")
	}
	return next, nil
}

// place finds the clusters of a file; a folder is as long as its chain. No cluster is
// in two chains.
func (f *fat) place(n *Node, first uint32) error {
	s := &Content{disk: f.disk}
	for cluster := first; cluster != 0; {
		if cluster < 2 || cluster >= f.clusters+2 || f.seen[cluster] {
			return Damaged("a chain of clusters is")
		}
		f.seen[cluster] = true
		s.list = append(s.list, stretch{s.size, f.cluster, f.data + int64(cluster-2)*f.cluster})
		s.size += f.cluster
		var err error
		if cluster, err = f.next(cluster); err != nil {
			return err
		}
	}
	if n.IsFolder() {
		n.Size = s.size
	} else if n.Size > s.size {
		return Damaged("a file is shorter than is said")
	}
	s.size = n.Size
	n.Content = func() (*Content, error) { return s, nil }
	return nil
}

func (f *fat) List(folder *Node) (map[string]*Node, error) {
	content, err := folder.Content()
	if err != nil || folder.Size > largestFolder {
		return nil, err
	}
	raw := make([]byte, folder.Size)
	if _, err := content.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	const volume, long = 0x08, 0x0f
	found, name := map[string]*Node{}, ""
	for ; len(raw) >= 32 && raw[0] != 0; raw = raw[32:] {
		entry := raw[:32]
		switch attributes := entry[11]; {
		case entry[0] == 0xe5:
			name = ""
		case attributes&long == long: // part of a long name; the last part comes first
			name = utf16Text(slices.Concat(entry[1:11], entry[14:26], entry[28:32])) + name
		case attributes&volume != 0 || entry[0] == '.':
			name = ""
		default:
			if name == "" {
				name = shortName(entry)
			}
			name = strings.TrimRight(strings.ReplaceAll(name, "/", "�"), "\uffff")
			n, err := f.node(entry)
			if err != nil {
				return nil, err
			}
			found[name], name = n, ""
		}
	}
	return found, nil
}

func (f *fat) node(entry []byte) (*Node, error) {
	const folder = 0x10
	n := &Node{Size: int64(little32(entry[28:])), Links: 1, Mode: unix.S_IFREG | 0o644}
	if entry[11]&folder != 0 {
		n.Mode = unix.S_IFDIR | 0o755
	}
	kind := fileType(n.Mode)
	date, clock := int(little16(entry[24:])), int(little16(entry[22:]))
	n.ModTime = time.Date(1980+date>>9, time.Month(max(1, date>>5&15)), max(1, date&31), clock>>11, clock>>5&63, clock&31*2, 0, time.UTC)
	n.Facts = []Fact{
		{"type", kind}, {"attributes", fmt.Sprintf("%#02x", entry[11])},
		{"mtime", fmt.Sprintf("%04d-%02d-%02d %02d:%02d:%02d", 1980+date>>9, date>>5&15, date&31, clock>>11, clock>>5&63, clock&31*2)},
	}
	if n.IsRegular() {
		n.Facts = append(n.Facts, Fact{"size", fmt.Sprint(n.Size)})
	}
	return n, f.place(n, uint32(little16(entry[26:]))|uint32(little16(entry[20:]))<<16)
}

// fatBegin is when FAT's calendar begins, in seconds.
const fatBegin = 315532800

// shortName is a name of eight characters and three. Windows keeps in entry[12] which
// of the two parts are in lower case.
func shortName(entry []byte) string {
	base, extension := strings.TrimRight(string(entry[:8]), " "), strings.TrimRight(string(entry[8:11]), " ")
	if entry[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if entry[12]&0x10 != 0 {
		extension = strings.ToLower(extension)
	}
	if extension == "" {
		return base
	}
	return base + "." + extension
}
