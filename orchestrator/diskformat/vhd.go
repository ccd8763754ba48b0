package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// The footer of a VHD, from "Virtual Hard Disk Image Format Specification": the last sector. Any
// kind but the fixed one begins with a copy of it, which QEMU reads instead.
const (
	vhdCookie   = "conectix"
	vhdFooter   = 512
	vhdHeader   = 16 // where the header of a kind that is not fixed is
	vhdTime     = 24 // seconds since 2000
	vhdCreator  = 28
	vhdSize     = 48 // of the disk, in bytes
	vhdGeometry = 56 // cylinders (2 bytes), heads, sectors of a track
	vhdKind     = 60
	vhdSum      = 64
	vhdID       = 68

	vhdFixed, vhdDynamic, vhdDifferencing = 2, 3, 4

	vhdParent     = 64  // in that header: the name of what a differencing one depends on
	vhdParentSize = 512 // bytes of UTF-16
)

// checkVHD reads the copy of the footer. QEMU takes a differencing image for a dynamic one, and
// what is in its parent for zeros.
func checkVHD(head []byte) error {
	if len(head) < vhdFooter {
		return refuse("its header is cut off")
	}
	switch kind := binary.BigEndian.Uint32(head[vhdKind:]); kind {
	case vhdFixed, vhdDynamic:
		return checkVHDSize(head)
	case vhdDifferencing:
		at := binary.BigEndian.Uint64(head[vhdHeader:])
		var name []uint16
		for pair := range slices.Chunk(part(part(head, at, 1<<10), vhdParent, vhdParentSize), 2) {
			if len(pair) == 2 {
				name = append(name, binary.BigEndian.Uint16(pair))
			}
		}
		return fail.New(fail.Usage, "", "merge it with its parent where it comes from, as Hyper-V's 'Convert-VHD' and 'VBoxManage clonemedium' do",
			"it depends on another file, %q", strings.TrimRight(string(utf16.Decode(name)), "\x00"))
	default:
		return refuse("it is a VHD of a kind that is not supported (%d)", kind)
	}
}

// isFixedVHD says whether the image of so many bytes is a disk and the footer of a fixed VHD, and
// nothing else: what a guest leaves in the last sector of its raw disk is hardly that.
func isFixedVHD(r io.ReaderAt, size int64) (fixed bool, err error) {
	if size <= vhdFooter {
		return false, nil
	}
	footer := make([]byte, vhdFooter)
	if _, err := r.ReadAt(footer, size-vhdFooter); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if !bytes.HasPrefix(footer, []byte(vhdCookie)) || binary.BigEndian.Uint32(footer[vhdKind:]) != vhdFixed ||
		binary.BigEndian.Uint32(footer[vhdSum:]) != vhdSumOf(footer) || binary.BigEndian.Uint64(footer[vhdSize:]) != uint64(size-vhdFooter) {
		return false, nil
	}
	return true, checkVHDSize(footer)
}

// checkVHDSize refuses an image of whose disk QEMU would leave out the end. It goes by the geometry,
// unless that is the greatest or it knows that the program which made the image does not.
func checkVHDSize(footer []byte) error {
	const greatest = 65535 * 16 * 255
	bySize := []string{"qem2", "win ", "d2v ", "tap\x00", "CTXS"}
	byGeometry := []string{"qemu", "vpc "} // of these it is right, whatever the size says
	size, at := binary.BigEndian.Uint64(footer[vhdSize:]), footer[vhdGeometry:]
	sectors := uint64(binary.BigEndian.Uint16(at)) * uint64(at[2]) * uint64(at[3])
	creator := string(footer[vhdCreator : vhdCreator+4])
	if sectors == greatest || sectors*512 == size || slices.Contains(append(bySize, byGeometry...), creator) {
		return nil
	}
	return fail.New(fail.Usage, "", "make it an image of which the size is certain, with 'qemu-img convert --image-opts driver=vpc,force_size_calc=current_size,file.filename=IMAGE -O qcow2 …'",
		"it is a VHD of %q with a disk of %d bytes, of which QEMU would take %d", creator, size, sectors*512)
}

// vhdSumOf is the checksum of a footer.
func vhdSumOf(footer []byte) uint32 {
	var sum uint32
	for i, b := range footer[:vhdFooter] {
		if i < vhdSum || i >= vhdSum+4 {
			sum += uint32(b)
		}
	}
	return ^sum
}

// identifyVHD sets the identifier and the time of the one footer.
func identifyVHD(image ReadWriterAt, id identifier) error {
	at, err := image.Seek(-vhdFooter, io.SeekEnd)
	if err != nil {
		return err
	}
	footer := make([]byte, vhdFooter)
	if _, err := image.ReadAt(footer, at); err != nil {
		return err
	}
	if !bytes.HasPrefix(footer, []byte(vhdCookie)) {
		return errors.New("it has no footer")
	}
	own := id("image")
	copy(footer[vhdID:], own[:])
	clear(footer[vhdTime : vhdTime+4])
	binary.BigEndian.PutUint32(footer[vhdSum:], vhdSumOf(footer))
	_, err = image.WriteAt(footer, at)
	return err
}
