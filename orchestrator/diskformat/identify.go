package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Standalone is what to do about an image that is not whole by itself.
const Standalone = "make it an image of its own where it comes from, with 'qemu-img convert -O qcow2'"

// magic is what the first bytes of an image of a kind are. A check that is nil needs
// none.
type magic struct {
	text   string
	offset int
	check  func(head []byte) error
}

func (m magic) matches(head []byte) bool {
	return len(head) >= m.offset && bytes.HasPrefix(head[m.offset:], []byte(m.text))
}

// refused is the kinds of images that are known and not supported. They come after the
// formats, some of which begin like them.
var refused = []struct {
	name  string
	magic magic
}{
	{"QCOW, version 1", magic{text: "QFI\xfb"}},
	{"QED", magic{text: "QED\x00"}},
	{"VMDK of ESX 2", magic{text: "COWD"}},
	{"VMDK of vSphere snapshots", magic{text: "\xbe\xba\xfe\xca\x00\x00\x00\x00"}},
	{"Parallels", magic{text: "WithoutFreeSpace"}},
	{"Parallels", magic{text: "WithouFreSpacExt"}},
	{"LUKS", magic{text: "LUKS\xba\xbe"}},
	{"Bochs", magic{text: "Bochs Virtual HD Image"}},
}

// noDisks is what else is made of disks, and holds one packed or not at all. The first sector
// of a disk is code of 440 bytes, which begins with a jump.
var noDisks = []struct {
	name  string
	magic magic
}{
	{"an archive (tar)", magic{text: "ustar\x00", offset: 257}},
	{"an archive (tar)", magic{text: "ustar  \x00", offset: 257}},
	{"compressed (gzip)", magic{text: "\x1f\x8b\x08"}},
	{"compressed (xz)", magic{text: "\xfd7zXZ\x00"}},
	{"compressed (zstd)", magic{text: "\x28\xb5\x2f\xfd"}},
	{"a squashfs", magic{text: "hsqs"}},
}

// headSize is how many bytes from the start decide. No format that vmctl knows says
// what it depends on further behind.
const headSize = 1 << 20

// Identify is the format that the first bytes of an image of so many bytes tell, or the last
// ones of a fixed VHD; what tells of none is a raw disk. QEMU must be given the format and
// never guess it, since the guest of a raw disk decides what its bytes are. An ISO 9660 is a
// raw disk where it has a partition table, too, with which it boots from a USB stick. An image
// that depends on another file is refused as wrong usage, since it could make QEMU open any
// file of the host; so is one of a format that vmctl does not know, and one that QEMU would
// read as another disk.
func Identify(r io.ReaderAt, size int64) (format string, err error) {
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	head = head[:n]
	for _, f := range table {
		for _, m := range f.magics {
			if m.matches(head) && m.check != nil {
				return f.Name, m.check(head)
			}
			if m.matches(head) {
				return f.Name, nil
			}
		}
	}
	if fixed, err := isFixedVHD(r, size); fixed || err != nil {
		return VHD, err
	}
	for _, kind := range refused {
		if kind.magic.matches(head) {
			return "", refuse("it is an image of a kind that is not supported (%s)", kind.name)
		}
	}
	for _, kind := range noDisks {
		if kind.magic.matches(head) {
			return "", fail.New(fail.Usage, "", "name an image of a disk", "it is no image of a disk that boots, but %s", kind.name)
		}
	}
	if isISO9660(head) && !hasPartitions(head) {
		return "", fail.New(fail.Usage, "", "name an image of a disk, or an ISO that USB sticks boot from, too (isohybrid); 'vmctl test --cd' boots any",
			"it is no image of a disk, but an ISO 9660, of a CD or DVD, and has no partition table")
	}
	if isDescriptor(head) {
		return "", refuse("it is a VMDK descriptor: the disk itself is in other files")
	}
	return Raw, nil
}

// isISO9660 looks for the first volume descriptor (ECMA-119, 8.1), in the 17th sector of 2048 bytes.
func isISO9660(head []byte) bool {
	const descriptors = 16 << 11
	return len(head) > descriptors && bytes.HasPrefix(head[descriptors+1:], []byte("CD001"))
}

// hasPartitions looks for a partition table in the first sector, which ISO 9660 leaves to others. A
// partition may be of type 0 there: isohybrid makes such ones.
func hasPartitions(head []byte) bool {
	const table, signature = 446, 510
	return len(head) > signature+2 && string(head[signature:signature+2]) == "\x55\xaa" && len(bytes.Trim(head[table:signature], "\x00")) > 0
}

func refuse(format string, args ...any) error {
	return fail.New(fail.Usage, "", Standalone, format, args...)
}

// checkQCOW2 reads the header of QEMU's docs/interop/qcow2.txt.
func checkQCOW2(head []byte) error {
	const (
		backingOffset, backingSize, encryption, incompatible = 8, 16, 32, 72
		externalData                                         = 1 << 2 // of the incompatible features
		sizeOfVersion2                                       = 72
	)
	if len(head) < sizeOfVersion2 {
		return refuse("its header is cut off")
	}
	if offset, size := binary.BigEndian.Uint64(head[backingOffset:]), binary.BigEndian.Uint32(head[backingSize:]); offset != 0 {
		return refuse("it depends on another file, %s", quoted(head, offset, uint64(size)))
	}
	if binary.BigEndian.Uint32(head[encryption:]) != 0 {
		return refuse("it is encrypted")
	}
	if version := head[7]; version < 3 {
		return nil
	}
	if len(head) < incompatible+8 {
		return refuse("its header is cut off")
	}
	if binary.BigEndian.Uint64(head[incompatible:])&externalData != 0 {
		return refuse("its data is in another file")
	}
	return nil
}

// checkVMDK reads the header of a sparse extent (VMware's Virtual Disk Format 5.0)
// as QEMU does: without a capacity, the file is a descriptor; a parent
// is looked for in the 20 sectors behind the header, wherever the descriptor lies.
func checkVMDK(head []byte) error {
	const (
		sector                                           = 512
		capacity, descriptorOffset, descriptorSize, size = 12, 28, 36, 79
		parentSectors                                    = 20
	)
	if len(head) < size {
		return refuse("its header is cut off")
	}
	number := func(at int) uint64 { return binary.LittleEndian.Uint64(head[at:]) }
	if number(capacity) == 0 {
		return refuse("it is a VMDK descriptor: the disk itself is in other files")
	}
	declared := part(head, number(descriptorOffset)*sector, number(descriptorSize)*sector)
	for _, descriptor := range [][]byte{part(head, sector, parentSectors*sector), declared} {
		descriptor, _, _ = bytes.Cut(descriptor, []byte{0})
		if _, parent, found := strings.Cut(string(descriptor), "parentFileNameHint"); found {
			name, _, _ := strings.Cut(strings.TrimLeft(parent, "= \t"), "\n")
			return refuse("it depends on another file, %q", strings.Trim(name, "\"\r"))
		}
	}
	return nil
}

// isDescriptor says whether the file is a VMDK descriptor: comments, empty lines and
// then the version.
func isDescriptor(head []byte) bool {
	for line := range bytes.Lines(head) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("version=")) || bytes.EqualFold(line, []byte("# Disk DescriptorFile")) {
			return true
		}
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return false
}

// part is size bytes of head from offset on, or what head has of them.
func part(head []byte, offset, size uint64) []byte {
	length := uint64(len(head))
	start := min(offset, length)
	return head[start : start+min(size, length-start)]
}

// quoted is a name that the image holds, for messages.
func quoted(head []byte, offset, size uint64) string {
	const longestName = 1023 // of a backing file, says QEMU
	return fmt.Sprintf("%q", part(head, offset, min(size, longestName)))
}
