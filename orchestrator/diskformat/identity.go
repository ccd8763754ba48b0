package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/google/uuid"
)

// ReadWriterAt is an image whose identifiers are written.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
	io.Seeker
}

// An identifier gives an image its identifiers, by what each is of.
type identifier func(of string) uuid.UUID

// Identify gives an image that qemu-img has just written, with identifiers by chance, those
// that derive from the content: the SHA-256 of the disk inside. Formats without identifiers
// stay as they are.
func (f Format) Identify(image ReadWriterAt, content string) error {
	if f.identify == nil {
		return nil
	}
	err := f.identify(image, func(of string) uuid.UUID { return uuid.NewSHA1(uuid.Nil, []byte(content+" "+f.Name+" "+of)) })
	if err != nil {
		return fmt.Errorf("identifiers of %s: %w", f.Name, err)
	}
	return nil
}

var little = binary.LittleEndian

// Where VDI has its identifiers: its own and that of its last change, from VirtualBox'
// VDICore.h.
const (
	vdiOwn    = 0x188
	vdiChange = 0x198
)

func identifyVDI(image ReadWriterAt, id identifier) error {
	own, change := id("image"), id("change")
	_, err := image.WriteAt(own[:], vdiOwn)
	if err == nil {
		_, err = image.WriteAt(change[:], vdiChange)
	}
	return err
}

// identifyVMDK sets the content identifier of the descriptor, where the header of "VMDK
// Virtual Disk Format" says that it is.
func identifyVMDK(image ReadWriterAt, id identifier) error {
	const sector, field = 512, "\nCID="
	header := make([]byte, sector)
	if _, err := image.ReadAt(header, 0); err != nil {
		return err
	}
	start, sectors := int64(little.Uint64(header[28:])), int64(little.Uint64(header[36:]))
	if start < 1 || sectors < 1 || sectors > 1<<11 {
		return errors.New("it has no descriptor")
	}
	descriptor := make([]byte, sectors*sector)
	if _, err := image.ReadAt(descriptor, start*sector); err != nil {
		return err
	}
	text, _, _ := bytes.Cut(descriptor, []byte{0})
	before, after, found := bytes.Cut(text, []byte(field))
	_, after, ended := bytes.Cut(after, []byte("\n"))
	if !found || !ended {
		return errors.New("its descriptor has no CID")
	}
	cid := id("content")
	// QEMU's has fewer digits now and then.
	settled := append(make([]byte, 0, len(descriptor)), fmt.Sprintf("%s%s%x\n%s", before, field, cid[:4], after)...)
	if len(settled) > len(descriptor) {
		return errors.New("its descriptor has no room")
	}
	_, err := image.WriteAt(settled[:len(descriptor)], start*sector)
	return err
}

// Offsets and identifiers of [MS-VHDX].
const (
	vhdxHeaderSize = 4 << 10
	vhdxRegions    = 192 << 10
	vhdxTableSize  = 64 << 10 // of regions, and of metadata
)

var (
	vhdxHeaders      = [2]int64{64 << 10, 128 << 10}
	vhdxMetadata     = guid("8b7ca206-4790-4b9a-b8fe-575f050f886e")
	vhdxPage83       = guid("beca12ab-b2e6-4523-93ef-c309e000c746")
	vhdxFirstEntry   = map[string]int{"regi": 16, "metadata": 32}
	castagnoli       = crc32.MakeTable(crc32.Castagnoli)
	errVHDXUnsettled = errors.New("its log is not empty")
)

// guid is a UUID as Microsoft writes it: its first three fields are little-endian.
func guid(text string) []byte {
	id := uuid.MustParse(text)
	for _, field := range [][]byte{id[0:4], id[4:6], id[6:8]} {
		for i, j := 0, len(field)-1; i < j; i, j = i+1, j-1 {
			field[i], field[j] = field[j], field[i]
		}
	}
	return id[:]
}

// identifyVHDX sets the identifiers of both headers, their sequence numbers, of which the
// greater is that of the valid one, and the disk's own; and clears what the empty log was.
func identifyVHDX(image ReadWriterAt, id identifier) error {
	var headers [2][]byte
	for i, at := range vhdxHeaders {
		headers[i] = make([]byte, vhdxHeaderSize)
		if _, err := image.ReadAt(headers[i], at); err != nil {
			return err
		}
		if !bytes.HasPrefix(headers[i], []byte("head")) {
			return errors.New("it has no header")
		}
	}
	valid := 0
	if little.Uint64(headers[1][8:]) > little.Uint64(headers[0][8:]) {
		valid = 1
	}
	if !bytes.Equal(headers[valid][48:64], make([]byte, 16)) {
		return errVHDXUnsettled
	}
	file, data := id("file"), id("data")
	for i, header := range headers {
		sequence := uint64(1)
		if i == valid {
			sequence = 2
		}
		little.PutUint64(header[8:], sequence)
		copy(header[16:], file[:])
		copy(header[32:], data[:])
		clear(header[48:64])
		little.PutUint32(header[4:], 0)
		little.PutUint32(header[4:], crc32.Checksum(header, castagnoli))
		if _, err := image.WriteAt(header, vhdxHeaders[i]); err != nil {
			return err
		}
	}
	if err := clearPages(image, int64(little.Uint64(headers[valid][72:])), int64(little.Uint32(headers[valid][68:]))); err != nil {
		return err
	}
	metadata, err := vhdxEntry(image, vhdxRegions, "regi", vhdxMetadata)
	if err != nil {
		return err
	}
	start := int64(little.Uint64(metadata[16:]))
	page83, err := vhdxEntry(image, start, "metadata", vhdxPage83)
	if err != nil {
		return err
	}
	disk := id("disk")
	_, err = image.WriteAt(disk[:], start+int64(little.Uint32(page83[16:])))
	return err
}

// vhdxEntry is the 32 bytes of a table at an offset that are about what has that name.
func vhdxEntry(image io.ReaderAt, at int64, signature string, name []byte) ([]byte, error) {
	table := make([]byte, vhdxTableSize)
	if _, err := image.ReadAt(table, at); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(table, []byte(signature)) {
		for entry := table[vhdxFirstEntry[signature]:]; len(entry) >= 32; entry = entry[32:] {
			if bytes.Equal(entry[:16], name) {
				return entry[:32], nil
			}
		}
	}
	return nil, fmt.Errorf("its table %q lacks %x", signature, name)
}

// clearPages writes zeros where there are others, and so leaves holes as they are.
func clearPages(image ReadWriterAt, start, length int64) error {
	page, zeros := make([]byte, 4<<10), make([]byte, 4<<10)
	for at := start; at < start+length; at += int64(len(page)) {
		if _, err := image.ReadAt(page, at); err != nil {
			return err
		}
		if !bytes.Equal(page, zeros) {
			if _, err := image.WriteAt(zeros, at); err != nil {
				return err
			}
		}
	}
	return nil
}
