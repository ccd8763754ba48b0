package rawdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// SectorSize is that of all disks here, in bytes.
const SectorSize = 512

// Partition is one of a partition table. A disk without a table is a single one, with
// the number 0.
type Partition struct {
	Number     int    `json:"number"`
	Type       string `json:"type,omitempty"` // GUID, or the number in an MBR
	ID         string `json:"id,omitempty"`   // GUID; of an MBR as the kernel makes it up
	Label      string `json:"label,omitempty"`
	Attributes uint64 `json:"attributes,omitempty"`
	Start      int64  `json:"start"` // bytes
	Size       int64  `json:"size"`  // bytes
}

// Facts is what is known of it.
func (p Partition) Facts() []Fact {
	return []Fact{
		{"type", p.Type}, {"id", p.ID}, {"label", p.Label}, {"attributes", fmt.Sprintf("%#x", p.Attributes)},
		{"start", fmt.Sprint(p.Start)}, {"size", fmt.Sprint(p.Size)},
	}
}

// Kinds of tables that others have to name.
const (
	GPT     = "gpt" // of the UEFI specification
	NoTable = "none"
)

// Table is what a disk says of its partitions.
type Table struct {
	Kind       string // GPT, NoTable or "mbr"
	ID         string
	Partitions []Partition
}

// Facts is what is known of it, less its partitions.
func (t Table) Facts() []Fact { return []Fact{{"partition table", t.Kind}, {"disk id", t.ID}} }

// Numbered is the partition with that number, nil where there is none.
func (t Table) Numbered(number int) *Partition {
	for i := range t.Partitions {
		if t.Partitions[i].Number == number {
			return &t.Partitions[i]
		}
	}
	return nil
}

const (
	// MostPartitions is how many a table may have.
	MostPartitions = 1 << 10
	protective     = 0xee // type in an MBR that stands for a GPT
)

// ReadTable reads a GPT (UEFI specification 2.10, chapter 5), else an MBR. What it says
// is checked against the size of the disk.
func ReadTable(disk io.ReaderAt, size int64) (Table, error) {
	head := make([]byte, 2*SectorSize)
	if n, err := disk.ReadAt(head, 0); err != nil && err != io.EOF || n < SectorSize {
		return whole(size), ignoreEnd(err)
	}
	if head[510] != 0x55 || head[511] != 0xaa || isFAT(head) {
		return whole(size), nil
	}
	if bytes.HasPrefix(head[SectorSize:], []byte("EFI PART")) && head[446+4] == protective {
		return readGPT(disk, size, head[SectorSize:])
	}
	return readMBR(disk, size, head)
}

func whole(size int64) Table {
	return Table{Kind: NoTable, Partitions: []Partition{{Size: size}}}
}

func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func readGPT(disk io.ReaderAt, size int64, header []byte) (Table, error) {
	t := Table{Kind: GPT, ID: guid(header[56:])}
	at, count, entry := little64(header[72:]), little32(header[80:]), little32(header[84:])
	if count > MostPartitions || entry < 128 || entry > 4096 || at > uint64(size)/SectorSize {
		return t, Damaged("its GPT holds %d entries of %d bytes", count, entry)
	}
	entries := make([]byte, count*entry)
	if _, err := disk.ReadAt(entries, int64(at)*SectorSize); err != nil {
		return t, Damaged("its GPT is cut off")
	}
	for i := range int(count) {
		e := entries[i*int(entry):][:entry]
		first, last := little64(e[32:]), little64(e[40:])
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		if first > last || last >= uint64(size)/SectorSize {
			return t, Damaged("partition %d lies outside of the disk", i+1)
		}
		t.Partitions = append(t.Partitions, Partition{
			Number: i + 1, Type: guid(e), ID: guid(e[16:]), Label: utf16Text(e[56:128]), Attributes: little64(e[48:]),
			Start: int64(first) * SectorSize, Size: int64(last-first+1) * SectorSize,
		})
	}
	return t, nil
}

// readMBR reads the four partitions and, from 5 on, the chain of those in an extended
// one.
func readMBR(disk io.ReaderAt, size int64, head []byte) (Table, error) {
	t := Table{Kind: "mbr", ID: fmt.Sprintf("%08x", little32(head[440:]))}
	extended := int64(-1)
	for i := range 4 {
		e := head[446+16*i:][:16]
		p := Partition{Number: i + 1, Type: fmt.Sprintf("%02x", e[4]), Start: int64(little32(e[8:])) * SectorSize, Size: int64(little32(e[12:])) * SectorSize}
		switch {
		case e[4] == 0 || p.Size == 0:
			continue
		case p.Start+p.Size > size:
			return t, Damaged("partition %d lies outside of the disk", i+1)
		case e[4] == 0x05 || e[4] == 0x0f || e[4] == 0x85:
			extended = p.Start
			continue
		}
		p.ID = t.partitionID(p.Number)
		t.Partitions = append(t.Partitions, p)
	}
	for number, at := 5, extended; at >= 0; number++ {
		record := make([]byte, SectorSize)
		if _, err := disk.ReadAt(record, at); err != nil || number > MostPartitions {
			return t, Damaged("the chain of its logical partitions does not end")
		}
		e, next := record[446:462], record[462:478]
		p := Partition{Number: number, Type: fmt.Sprintf("%02x", e[4]), Start: at + int64(little32(e[8:]))*SectorSize, Size: int64(little32(e[12:])) * SectorSize}
		if p.Start+p.Size > size {
			return t, Damaged("partition %d lies outside of the disk", number)
		}
		if p.ID = t.partitionID(number); p.Size > 0 {
			t.Partitions = append(t.Partitions, p)
		}
		if at = -1; next[4] != 0 {
			at = extended + int64(little32(next[8:]))*SectorSize
		}
	}
	return t, nil
}

// partitionID is what the kernel takes for the UUID of a partition in an MBR
// (Documentation/admin-guide/kernel-parameters, root=).
func (t Table) partitionID(number int) string { return fmt.Sprintf("%s-%02x", t.ID, number) }

func little16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func little32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func little64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// guid is a GUID as text, whose first three parts are little-endian on the disk.
func guid(b []byte) string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", little32(b), little16(b[4:]), little16(b[6:]), b[8:10], b[10:16])
}

func utf16Text(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		unit := little16(b[i:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// cString is text that ends at its first zero, and without the spaces that fill it up.
func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return strings.TrimRight(string(text), " ")
}
