package rawdisk

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// Fact is one thing that is known of another: those of two that are alike are the same.
type Fact struct{ What, Is string }

// Node is a file, a folder or whatever else has a name.
type Node struct {
	Number       uint64 // of the inode; 0 where there is no such thing
	Links        int
	Mode         uint32 // kind and permissions, as stat(2) has them
	UID, GID     uint32
	ModTime      time.Time
	Size         int64             // bytes
	Target       string            // of a link
	Major, Minor uint32            // of a device
	Attributes   map[string]string // extended ones, as getxattr(2) has them
	Facts        []Fact            // all of it, as the file system has it
	State        string            // of ext4: no change of the file or folder leaves it alone
	Content      func() (*Content, error)
}

// IsFolder says whether other names are in it.
func (n *Node) IsFolder() bool { return n.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular says whether it is a file with content.
func (n *Node) IsRegular() bool { return n.Mode&unix.S_IFMT == unix.S_IFREG }

// Tree is a file system that can be read.
type Tree interface {
	Kind() string
	Facts() []Fact // of the file system itself
	Root() (*Node, error)
	List(folder *Node) (map[string]*Node, error)
}

// Damaged is the error about what is not as it must be.
func Damaged(format string, args ...any) error {
	return fail.New(fail.Usage, "", "check it with fsck, or get the image again", "damaged: "+format, args...)
}

// unreadable is of what vmctl does not read.
func unreadable(format string, args ...any) error {
	return fail.New(fail.Usage, "", "", format, args...)
}

const headSize = 0x10048 // bytes that tell what is in a partition

// Open opens what is in a partition. It gives the name of what it finds, also where
// that has no files, or none that can be read (nil).
func Open(disk io.ReaderAt, size int64) (Tree, string, error) {
	head := make([]byte, headSize)
	if n, err := disk.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, "", err
	} else if n < 4096 {
		return nil, "", nil
	}
	switch {
	case isExt4(head):
		opened, err := openExt4(disk, size, head)
		if err != nil {
			return nil, filesystem.Ext4, err
		}
		return opened, filesystem.Ext4, nil
	case isFAT(head):
		opened, err := openFAT(disk, size, head)
		if err != nil {
			return nil, filesystem.VFAT, err
		}
		return opened, filesystem.VFAT, nil
	}
	for _, known := range []struct {
		name, magic string
		at          int
	}{
		{filesystem.XFS, "XFSB", 0}, {filesystem.Btrfs, "_BHRfS_M", 0x10040}, {filesystem.Swap, "SWAPSPACE2", 4086},
		{"squashfs", "hsqs", 0}, {"LUKS", "LUKS\xba\xbe", 0}, {"LVM", "LVM2 001", 536},
	} {
		if bytes.HasPrefix(head[known.at:], []byte(known.magic)) {
			return nil, known.name, nil
		}
	}
	return nil, "", nil
}

// Unmounted says whether nothing that was written to the file system while it was mounted is
// missing, as far as its kind tells.
func Unmounted(t Tree) bool {
	e, is := t.(*ext4)
	return !is || e.unmounted
}

// Find is the file of that name, nil where there is none. Links are not followed.
func Find(t Tree, name string) (*Node, error) {
	n, err := t.Root()
	for part := range strings.SplitSeq(name, "/") {
		if err != nil || n == nil || !n.IsFolder() {
			return nil, err
		}
		var entries map[string]*Node
		entries, err = t.List(n)
		n = entries[part]
	}
	return n, err
}

// ReadAll fills a buffer from an offset on.
func ReadAll(r io.ReaderAt, into []byte, at int64) error {
	n, err := r.ReadAt(into, at)
	if n == len(into) {
		return nil
	}
	if err == io.EOF || err == nil {
		return Damaged("it is cut off")
	}
	return err
}

// stretch is a part of a file that lies in one place.
type stretch struct{ offset, size, at int64 }

// Content is what is in a file: what lies between its stretches is zeros.
type Content struct {
	disk io.ReaderAt
	size int64
	list []stretch
}

// Span is bytes of a file.
type Span struct{ Offset, Size int64 }

// Data is where the file has data, in order: around it are holes.
func (c *Content) Data() []Span {
	var spans []Span
	for _, s := range c.list {
		if s.offset >= c.size {
			break
		}
		size := min(s.size, c.size-s.offset)
		if last := len(spans) - 1; last >= 0 && spans[last].Offset+spans[last].Size == s.offset {
			spans[last].Size += size
			continue
		}
		spans = append(spans, Span{s.offset, size})
	}
	return spans
}

// ReadAt implements io.ReaderAt.
func (c *Content) ReadAt(into []byte, offset int64) (int, error) {
	if offset >= c.size {
		return 0, io.EOF
	}
	want := into[:min(int64(len(into)), c.size-offset)]
	clear(want)
	end := offset + int64(len(want))
	first, _ := slices.BinarySearchFunc(c.list, offset, func(s stretch, at int64) int { return cmp.Compare(s.offset+s.size-1, at) })
	for _, s := range c.list[first:] {
		if s.offset >= end {
			break
		}
		from, to := max(offset, s.offset), min(end, s.offset+s.size)
		if _, err := c.disk.ReadAt(want[from-offset:to-offset], s.at+from-s.offset); err != nil {
			return 0, err
		}
	}
	if len(want) < len(into) {
		return len(want), io.EOF
	}
	return len(want), nil
}
