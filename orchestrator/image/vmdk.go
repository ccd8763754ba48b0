package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/klauspost/compress/zlib"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Of "VMDK Virtual Disk Format 5.0": a sparse extent of compressed grains. Sizes are in
// sectors of 512 bytes where nothing else is said.
const (
	sector          = 512
	grainBytes      = 64 << 10
	grainsPerTable  = 512
	tableSectors    = grainsPerTable * 4 / sector
	markerBytes     = 12 // before a grain: its sector, and how many bytes follow
	descriptorStart = 1
	descriptorSize  = 20
	grainsAtOnce    = 128 // compressed, and then written in their order
)

// vmdkLayout is where the parts of the file are. Every table is there twice.
type vmdkLayout struct {
	Capacity, Grain                          uint64
	DescriptorStart, DescriptorSize          uint64
	GrainsPerTable                           uint32
	RedundantDirectory, Directory, FirstData uint64
}

// vmdkHeader is the first sector.
type vmdkHeader struct {
	Magic          [4]byte
	Version, Flags uint32
	vmdkLayout
	Unclean     uint8
	Newlines    [4]byte // which a transfer as text would change
	Compression uint16
}

// layoutOf is for a disk of so many sectors, as qemu-img lays it out.
func layoutOf(capacity int64) (l vmdkLayout, tables, directory int64) {
	tables = ceil(ceil(capacity, grainBytes/sector), grainsPerTable)
	directory = ceil(tables*4, sector)
	redundant := int64(descriptorStart + descriptorSize)
	primary := redundant + directory + tables*tableSectors
	const grain = grainBytes / sector
	return vmdkLayout{
		Capacity: uint64(capacity), Grain: grain, DescriptorStart: descriptorStart, DescriptorSize: descriptorSize, GrainsPerTable: grainsPerTable,
		RedundantDirectory: uint64(redundant), Directory: uint64(primary),
		FirstData: uint64(ceil(primary+directory+tables*tableSectors, grain) * grain),
	}, tables, directory
}

func ceil(n, of int64) int64 { return (n + of - 1) / of }

const vmdkDescriptor = `# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
ddb.toolsVersion = "2147483647"
`

// extentName is the name as a descriptor, in which nothing can be escaped, may have it.
func extentName(name string) string {
	const longest = 255 // bytes
	odd := func(r rune) bool { return r < ' ' || r == '"' || r >= 0x7f }
	if len(name) > longest || strings.ContainsFunc(name, odd) {
		return "disk." + diskformat.VMDK
	}
	return name
}

// writeVMDK writes the raw disk as a stream-optimized VMDK. qemu-img, which does this on one
// processor, takes three times as long. The same disk gives the same bytes: each grain is
// compressed by itself, and they are written in their order. Some programs look for the content
// under the name that the image says it has.
func writeVMDK(ctx context.Context, raw, out, name string) (err error) {
	from, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	capacity := ceil(info.Size(), sector)
	layout, tables, directory := layoutOf(capacity)
	places := make([]uint32, tables*grainsPerTable)
	if err := writeGrains(ctx, from, info.Size(), to, int64(layout.FirstData), places); err != nil {
		return err
	}

	var head bytes.Buffer
	put := func(at uint64, what any) {
		head.Write(make([]byte, int(at)*sector-head.Len()))
		err = errors.Join(err, binary.Write(&head, binary.LittleEndian, what))
	}
	put(0, vmdkHeader{
		Magic: [4]byte([]byte(diskformat.VMDKMagic)), Version: 3, Flags: 1<<0 | 1<<1 | 1<<16 | 1<<17, // newlines, two directories; compressed, markers
		vmdkLayout: layout, Newlines: [4]byte([]byte("\n \r\n")), Compression: 1, // deflate
	})
	put(descriptorStart, fmt.Appendf(nil, vmdkDescriptor, capacity, extentName(name), min(capacity/(16*63), 1<<16-1)))
	for _, at := range []uint64{layout.RedundantDirectory, layout.Directory} {
		starts := make([]uint32, tables)
		for i := range starts {
			starts[i] = uint32(at) + uint32(directory) + uint32(i)*tableSectors
		}
		put(at, starts)
		put(at+uint64(directory), places)
	}
	if err != nil {
		return err
	}
	_, err = to.WriteAt(head.Bytes(), 0)
	return err
}

// writeGrains writes the grains that are not zero, from a sector on, and notes their places.
func writeGrains(ctx context.Context, from *os.File, size int64, to io.WriterAt, next int64, places []uint32) error {
	out := bufio.NewWriterSize(io.NewOffsetWriter(to, next*sector), 1<<20)
	var packers = sync.Pool{New: func() any { return newPacker() }}
	packed := make([]bytes.Buffer, grainsAtOnce)
	batch := make([]int64, 0, grainsAtOnce)
	flush := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := files.Each(len(batch), func(i int) error {
			p := packers.Get().(*packer)
			defer packers.Put(p)
			return p.pack(&packed[i], from, batch[i], size)
		})
		for i, grain := range batch {
			if packed[i].Len() == 0 || err != nil {
				continue
			}
			if next+int64(packed[i].Len()/sector) > 1<<32-1 {
				return errors.New("a VMDK of more than 2 TiB cannot be written")
			}
			places[grain] = uint32(next)
			next += int64(packed[i].Len() / sector)
			_, err = out.Write(packed[i].Bytes())
		}
		batch = batch[:0]
		return err
	}
	for offset := int64(0); offset < size; {
		data, hole := files.NextData(from, offset, size)
		for grain := max(data, offset) / grainBytes; grain*grainBytes < hole; grain++ {
			if batch = append(batch, grain); len(batch) == grainsAtOnce {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		offset = ceil(hole, grainBytes) * grainBytes
	}
	if err := flush(); err != nil {
		return err
	}
	_, err := out.Write(make([]byte, sector)) // the marker of the end
	return errors.Join(err, out.Flush())
}

// packer compresses grains.
type packer struct {
	grain, zeros []byte
	zlib         *zlib.Writer
}

func newPacker() *packer {
	return &packer{grain: make([]byte, grainBytes), zeros: make([]byte, grainBytes), zlib: zlib.NewWriter(nil)}
}

// pack makes a buffer hold a grain with its marker, in whole sectors, or nothing where it is zero.
func (p *packer) pack(into *bytes.Buffer, from io.ReaderAt, grain, size int64) error {
	into.Reset()
	n := min(grainBytes, size-grain*grainBytes)
	if _, err := from.ReadAt(p.grain[:n], grain*grainBytes); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p.grain[n:])
	if bytes.Equal(p.grain, p.zeros) {
		return nil
	}
	into.Write(make([]byte, markerBytes))
	p.zlib.Reset(into)
	_, err := p.zlib.Write(p.grain)
	if err = errors.Join(err, p.zlib.Close()); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(into.Bytes(), uint64(grain*grainBytes/sector))
	binary.LittleEndian.PutUint32(into.Bytes()[8:], uint32(into.Len()-markerBytes))
	into.Write(make([]byte, ceil(int64(into.Len()), sector)*sector-int64(into.Len())))
	return nil
}
