package bootloader

import (
	"encoding/binary"
	"fmt"
	"os"
)

// Offsets in GRUB's boot.img and in the first sector of core.img (diskboot.img),
// from include/grub/i386/pc/boot.h of GRUB 2.
const (
	sectorSize         = 512
	bootCodeSize       = 440  // what follows in the MBR is the protective partition table
	bootKernelSector   = 0x5c // LBA of core.img, 8 bytes
	bootDriveCheck     = 0x66 // 2 bytes of code, no-ops on a hard disk
	diskbootBlocklist  = 0x1f4
	diskbootListSector = diskbootBlocklist     // LBA of core.img's second sector, 8 bytes
	diskbootListLength = diskbootBlocklist + 8 // sectors after the first, 2 bytes
)

// embed patches boot.img and core.img, as grub-bios-setup does, for a core.img
// that starts at byte start of the disk. The results are the 440 bytes of boot
// code and core.img padded to whole sectors.
func embed(boot, core []byte, start, room int64) (bootCode, coreImage []byte, err error) {
	if len(boot) != sectorSize {
		return nil, nil, fmt.Errorf("boot.img has %d bytes, not %d", len(boot), sectorSize)
	}
	sectors := (len(core) + sectorSize - 1) / sectorSize
	if sectors < 2 || int64(sectors)*sectorSize > room {
		return nil, nil, fmt.Errorf("core.img has %d bytes, the BIOS boot partition %d", len(core), room)
	}
	coreLBA := uint64(start / sectorSize)
	bootCode = append([]byte(nil), boot[:bootCodeSize]...)
	binary.LittleEndian.PutUint64(bootCode[bootKernelSector:], coreLBA)
	bootCode[bootDriveCheck], bootCode[bootDriveCheck+1] = 0x90, 0x90

	coreImage = make([]byte, sectors*sectorSize)
	copy(coreImage, core)
	binary.LittleEndian.PutUint64(coreImage[diskbootListSector:], coreLBA+1)
	binary.LittleEndian.PutUint16(coreImage[diskbootListLength:], uint16(sectors-1))
	return bootCode, coreImage, nil
}

// writeAt writes the boot code and core.img into the disk image.
func writeAt(disk string, bootCode, core []byte, start int64) (err error) {
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if closing := f.Close(); err == nil {
			err = closing
		}
	}()
	if _, err = f.WriteAt(bootCode, 0); err != nil {
		return err
	}
	_, err = f.WriteAt(core, start)
	return err
}
