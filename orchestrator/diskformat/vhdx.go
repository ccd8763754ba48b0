package diskformat

import (
	"errors"
	"fmt"
	"io"
)

// VHDXDisk is where the disk in a VHDX is, by [MS-VHDX].
type VHDXDisk struct {
	Size   int64   // bytes
	Block  int64   // bytes of a block, the last of which may be cut off
	Blocks []int64 // where each is in the file, 0 for one of zeros
}

var (
	vhdxBAT        = guid("2dc27766-f623-4200-9d64-115e9bfd4a08")
	vhdxParameters = guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
	vhdxDiskSize   = guid("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
	vhdxSectorSize = guid("8141bf1d-a96f-4709-ba47-f233a8faab5f")
)

// ReadVHDX reads the tables of an image that depends on no other one and whose log is empty.
func ReadVHDX(image io.ReaderAt) (VHDXDisk, error) {
	metadata, err := vhdxEntry(image, vhdxRegions, "regi", vhdxMetadata)
	if err != nil {
		return VHDXDisk{}, err
	}
	value := func(name []byte, size int) (n int64) {
		at := int64(little.Uint64(metadata[16:]))
		entry, failed := vhdxEntry(image, at, "metadata", name)
		if err = errors.Join(err, failed); err != nil {
			return 0
		}
		var content [8]byte
		_, err = image.ReadAt(content[:size], at+int64(little.Uint32(entry[16:])))
		return int64(little.Uint64(content[:]))
	}
	disk := VHDXDisk{Size: value(vhdxDiskSize, 8), Block: value(vhdxParameters, 4)}
	sector := value(vhdxSectorSize, 4)
	if err != nil {
		return VHDXDisk{}, err
	}
	if disk.Size < 1 || disk.Size > 64<<40 || disk.Block < 1<<20 || disk.Block > 256<<20 || (sector != 512 && sector != 4096) {
		return VHDXDisk{}, fmt.Errorf("a disk of %d bytes in blocks of %d, sectors of %d", disk.Size, disk.Block, sector)
	}
	region, err := vhdxEntry(image, vhdxRegions, "regi", vhdxBAT)
	if err != nil {
		return VHDXDisk{}, err
	}
	disk.Blocks = make([]int64, (disk.Size+disk.Block-1)/disk.Block)
	interval := int(sector << 23 / disk.Block) // of blocks of bitmaps
	table := make([]byte, 8*(len(disk.Blocks)+(len(disk.Blocks)-1)/interval))
	if _, err := image.ReadAt(table, int64(little.Uint64(region[16:]))); err != nil {
		return VHDXDisk{}, err
	}
	const present, partly = 6, 7 // states of blocks
	for i := range disk.Blocks {
		switch entry := little.Uint64(table[8*(i+i/interval):]); entry & 7 {
		case present:
			disk.Blocks[i] = int64(entry &^ (1<<20 - 1))
		case partly:
			return VHDXDisk{}, fmt.Errorf("block %d is partly in another file", i)
		}
	}
	return disk, nil
}
