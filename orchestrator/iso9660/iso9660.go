// Package iso9660 writes small images of ISO 9660 (ECMA-119) with names of Rock Ridge (RRIP
// 1.12) and of Joliet, so that every system reads them as they are. Same files, same bytes. It
// reads none.
package iso9660

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

const (
	sector      = 2048 // bytes
	primary     = 16   // sector of the first volume descriptor
	joliet      = 17
	terminator  = 18
	pathTables  = 19 // of the primary volume little- and big-endian, then of Joliet's
	rootPrimary = 23
	rootJoliet  = 24
	firstFile   = 25

	pathTableSize = 10 // bytes, of a root folder alone
)

// longestName is how long names may be, in UTF-16: so is it in Joliet.
const longestName = 64

// Image is a volume with files and no folders.
type Image struct {
	Label string // ASCII, at most 16 characters
	Files map[string][]byte
	Time  time.Time
}

// file is where a file lies.
type file struct {
	name    string
	content []byte
	sector  uint32
}

// Write writes the image.
func (i Image) Write(out io.Writer) error {
	files, next := []file{}, uint32(firstFile)
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		if len(utf16.Encode([]rune(name))) > longestName || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("%q is no name for a file of ISO 9660", name)
		}
		files = append(files, file{name, i.Files[name], next})
		next += sectors(len(i.Files[name]))
	}
	folders := [2][]byte{i.folder(rootPrimary, files, rockRidge), i.folder(rootJoliet, files, jolietName)}
	for _, folder := range folders {
		if len(folder) > sector {
			return fmt.Errorf("%d files are too many", len(files))
		}
	}
	image := make([]byte, int64(next)*sector)
	at := func(n uint32) []byte { return image[int64(n)*sector:] }
	i.descriptor(at(primary), 1, next, rootPrimary, pathTables, nil)
	i.descriptor(at(joliet), 2, next, rootJoliet, pathTables+2, []byte("%/E"))
	copy(at(terminator), "\xffCD001\x01")
	for n, root := range []uint32{rootPrimary, rootPrimary, rootJoliet, rootJoliet} {
		table := at(pathTables + uint32(n))
		table[0] = 1
		if n%2 == 0 {
			binary.LittleEndian.PutUint32(table[2:], root)
			binary.LittleEndian.PutUint16(table[6:], 1)
		} else {
			binary.BigEndian.PutUint32(table[2:], root)
			binary.BigEndian.PutUint16(table[6:], 1)
		}
	}
	copy(at(rootPrimary), folders[0])
	copy(at(rootJoliet), folders[1])
	for _, f := range files {
		copy(at(f.sector), f.content)
	}
	_, err := out.Write(image)
	return err
}

func sectors(size int) uint32 { return uint32((size + sector - 1) / sector) }

// both writes a number little-endian and then big-endian.
func both32(to []byte, n uint32) {
	binary.LittleEndian.PutUint32(to, n)
	binary.BigEndian.PutUint32(to[4:], n)
}

func both16(to []byte, n uint16) {
	binary.LittleEndian.PutUint16(to, n)
	binary.BigEndian.PutUint16(to[2:], n)
}

// descriptor is a volume descriptor (ECMA-119, 8.4 and 8.5); escape tells that its names are of
// Joliet.
func (i Image) descriptor(d []byte, kind byte, size, root, tables uint32, escape []byte) {
	text := func(at, length int, s string) {
		if escape != nil {
			padded := slices.Concat(big16(s), big16(strings.Repeat(" ", length)))
			copy(d[at:at+length], padded[:length/2*2])
			return
		}
		copy(d[at:at+length], s+strings.Repeat(" ", length))
	}
	d[0] = kind
	copy(d[1:], "CD001\x01")
	text(8, 32, "")
	text(40, 32, i.Label)
	both32(d[80:], size)
	copy(d[88:], escape)
	both16(d[120:], 1)
	both16(d[124:], 1)
	both16(d[128:], sector)
	both32(d[132:], pathTableSize)
	binary.LittleEndian.PutUint32(d[140:], tables)
	binary.BigEndian.PutUint32(d[148:], tables+1)
	copy(d[156:], i.record("\x00", root, sector, true, nil))
	for at, length := range map[int]int{190: 128, 318: 128, 446: 128, 574: 128, 702: 37, 739: 37, 776: 37} {
		text(at, length, "")
	}
	never := "0000000000000000\x00"
	now := i.Time.UTC().Format("20060102150405") + "00\x00"
	copy(d[813:], now+now+never+never+"\x01")
}

func big16(s string) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, unit)
	}
	return b
}

// naming is how a file is called in a folder, and what else the record says in the system's use.
type naming func(number int, f file) (identifier string, system []byte)

// rockRidge gives a file a name that every reader takes, and its own in a field NM.
func rockRidge(number int, f file) (string, []byte) {
	own := append([]byte{'N', 'M', byte(5 + len(f.name)), 1, 0}, f.name...)
	return fmt.Sprintf("FILE%04d.;1", number), append(posix(0o100444, 1), own...)
}

func jolietName(_ int, f file) (string, []byte) { return string(big16(f.name)), nil }

// posix is the field PX: mode and links; the owner is root.
func posix(mode, links uint32) []byte {
	px := append([]byte{'P', 'X', 36, 1}, make([]byte, 32)...)
	both32(px[4:], mode)
	both32(px[12:], links)
	return px
}

// folder is the root folder at a sector.
func (i Image) folder(at uint32, files []file, name naming) []byte {
	var system []byte
	_, marks := name(0, file{})
	if marks != nil { // this is the sharing protocol, and these are Rock Ridge's fields
		const identifier = "RRIP_1991A"
		system = append([]byte{'S', 'P', 7, 1, 0xbe, 0xef, 0}, posix(0o040555, 2)...)
		system = append(system, 'E', 'R', byte(8+len(identifier)), 1, byte(len(identifier)), 0, 0, 1)
		system = append(system, identifier...)
	}
	folder := i.record("\x00", at, sector, true, system)
	if marks != nil {
		system = posix(0o040555, 2)
	}
	folder = append(folder, i.record("\x01", at, sector, true, system)...)
	for n, f := range files {
		identifier, system := name(n, f)
		folder = append(folder, i.record(identifier, f.sector, uint32(len(f.content)), false, system)...)
	}
	return folder
}

// record is an entry of a folder (ECMA-119, 9.1).
func (i Image) record(identifier string, at, size uint32, folder bool, system []byte) []byte {
	length := 33 + len(identifier)
	length += length % 2
	start := length
	length += len(system)
	length += length % 2
	r := make([]byte, length)
	r[0] = byte(length)
	both32(r[2:], at)
	both32(r[10:], size)
	t := i.Time.UTC()
	copy(r[18:], []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0})
	if folder {
		r[25] = 2
	}
	both16(r[28:], 1)
	r[32] = byte(len(identifier))
	copy(r[33:], identifier)
	copy(r[start:], system)
	return r
}
