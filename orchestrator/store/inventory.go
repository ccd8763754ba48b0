package store

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is all that a tree has under one name. It is comparable.
type entry struct {
	Path     string // from the tree's root, which is "."
	Mode     uint32 // type and permissions, as in stat(2)
	UID, GID uint32
	Size     int64  // bytes of files and links; 0 for others
	Time     int64  // of the last change of its content, in nanoseconds since 1970
	Device   uint64 // number of a device node
	Link     int    // same number: names of the same file; 0: it has no other
	SHA256   string // of a file's content, in hex
	Target   string // of a symbolic link
	Xattrs   string // name=value, sorted, each quoted
}

func (e *entry) is(kind uint32) bool { return e.Mode&unix.S_IFMT == kind }

// inventory is the entries of a tree, folders before what is in them.
type inventory struct {
	entries []entry
	usage   int64 // bytes that the tree takes on its file system
}

// takeInventory lists a tree by lstat(2) alone: without digests and extended attributes.
func takeInventory(tree string) (*inventory, error) {
	t := &taking{inventory: &inventory{}, names: map[inode]int{}}
	root, err := unix.Open(tree, openFolder, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: tree, Err: err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(root, &stat); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "stat", Path: tree, Err: err}, unix.Close(root))
	}
	t.add(".", &stat)
	return t.inventory, t.folder(root, ".")
}

const openFolder = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC

type inode struct{ device, number uint64 }

type taking struct {
	*inventory
	names map[inode]int // of files with several names: their Link
}

// folder adds all that is in an open folder, and closes it.
func (t *taking) folder(fd int, path string) error {
	folder := os.NewFile(uintptr(fd), path)
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := t.name(fd, filepath.Join(path, name), name); err != nil {
			return err
		}
	}
	return nil
}

func (t *taking) name(folder int, path, name string) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(folder, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	e := t.add(path, &stat)
	switch {
	case e.is(unix.S_IFLNK):
		target := make([]byte, max(e.Size, unix.PathMax)+1)
		n, err := unix.Readlinkat(folder, name, target)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: path, Err: err}
		}
		e.Target = string(target[:n])
	case e.is(unix.S_IFDIR):
		fd, err := unix.Openat(folder, name, openFolder, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return t.folder(fd, path)
	}
	return nil
}

func (t *taking) add(path string, stat *unix.Stat_t) *entry {
	e := entry{Path: path, Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, Time: unix.TimespecToNsec(stat.Mtim)}
	switch {
	case e.is(unix.S_IFREG), e.is(unix.S_IFLNK):
		e.Size = stat.Size
	case e.is(unix.S_IFCHR), e.is(unix.S_IFBLK):
		e.Device = stat.Rdev
	}
	const blockSize = 512 // of st_blocks, everywhere
	if stat.Nlink > 1 && !e.is(unix.S_IFDIR) {
		id := inode{stat.Dev, stat.Ino}
		if t.names[id] == 0 {
			t.names[id] = len(t.names) + 1
			t.usage += stat.Blocks * blockSize
		}
		e.Link = t.names[id]
	} else {
		t.usage += stat.Blocks * blockSize
	}
	t.entries = append(t.entries, e)
	return &t.entries[len(t.entries)-1]
}

// content is how much the entries are, of a tree that is whole or of what an overlay keeps:
// there a device with the number 0 stands for a name that is removed.
func (want *inventory) content(whole bool) Content {
	c := Content{Whole: whole}
	counted := map[int]bool{}
	for i := range want.entries {
		e := &want.entries[i]
		switch {
		case e.is(unix.S_IFDIR):
		case e.is(unix.S_IFCHR) && e.Device == 0 && !whole:
			c.Removed++
		default:
			c.Files++
			if e.Link == 0 || !counted[e.Link] {
				counted[e.Link] = true
				c.Bytes += e.Size
			}
		}
	}
	return c
}

// difference is what a tree has otherwise than the inventory, "" for nothing. Unless all
// is to be compared, digests and extended attributes are not.
func (want *inventory) difference(got *inventory, all bool) string {
	for i := range min(len(want.entries), len(got.entries)) {
		w, g := want.entries[i], got.entries[i]
		if !all {
			w.SHA256, w.Xattrs = "", ""
		}
		if w == g {
			continue
		}
		if w.Path == g.Path {
			return fmt.Sprintf("%q is not as it was made: %s", w.Path, w.changed(g))
		}
		return fmt.Sprintf("%q should come where %q is", w.Path, g.Path)
	}
	if w, g := len(want.entries), len(got.entries); w != g {
		return fmt.Sprintf("%d names instead of %d", g, w)
	}
	return ""
}

// changed names what differs between two entries.
func (e entry) changed(now entry) string {
	var names []string
	for _, field := range []struct {
		name    string
		changed bool
	}{
		{"type or mode", e.Mode != now.Mode},
		{"owner", e.UID != now.UID || e.GID != now.GID},
		{"size", e.Size != now.Size},
		{"time", e.Time != now.Time},
		{"device number", e.Device != now.Device},
		{"other names", e.Link != now.Link},
		{"content", e.SHA256 != now.SHA256},
		{"target", e.Target != now.Target},
		{"extended attributes", e.Xattrs != now.Xattrs},
	} {
		if field.changed {
			names = append(names, field.name)
		}
	}
	return strings.Join(names, ", ")
}

// encode is the inventory as text, a line for each entry, and that text's SHA-256,
// which names a layer's content.
func (want *inventory) encode() (text []byte, digest string) {
	for i := range want.entries {
		e := &want.entries[i]
		text = strconv.AppendUint(text, uint64(e.Mode), 8)
		for _, number := range []int64{int64(e.UID), int64(e.GID), e.Size, e.Time, int64(e.Device), int64(e.Link)} {
			text = strconv.AppendInt(append(text, '\t'), number, 10)
		}
		text = append(append(text, '\t'), e.SHA256...)
		text = strconv.AppendQuote(append(text, '\t'), e.Path)
		text = strconv.AppendQuote(append(text, '\t'), e.Target)
		text = append(append(append(text, '\t'), e.Xattrs...), '\n')
	}
	sum := sha256.Sum256(text)
	return text, hex.EncodeToString(sum[:])
}

// write writes the inventory to a file that is not there yet, and returns its digest.
func (want *inventory) write(path string) (digest string, err error) {
	text, digest := want.encode()
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return "", err
	}
	if _, err := zip.Write(text); err != nil {
		return "", err
	}
	if err := zip.Close(); err != nil {
		return "", err
	}
	return digest, writeNew(path, packed.Bytes())
}

// writeNew writes a file that is not there yet.
func writeNew(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

// errDamaged is that a layer's files are not what Commit wrote.
var errDamaged = errors.New("damaged")

// readInventory reads the inventory that has the digest.
func readInventory(path, digest string) (*inventory, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	damaged := fmt.Errorf("%s is %w", inventoryName, errDamaged)
	zip, err := gzip.NewReader(bufio.NewReader(file))
	if err != nil {
		return nil, damaged
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		return nil, damaged
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != digest {
		return nil, damaged
	}
	inv := &inventory{entries: make([]entry, 0, bytes.Count(text, []byte("\n")))}
	for line := range strings.Lines(string(text)) {
		e, err := decode(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", damaged, err)
		}
		inv.entries = append(inv.entries, e)
	}
	return inv, nil
}

const fields = 11

func decode(line string) (entry, error) {
	parts := strings.SplitN(line, "\t", fields)
	if len(parts) != fields {
		return entry{}, fmt.Errorf("%d fields instead of %d", len(parts), fields)
	}
	var problems []error
	number := func(text string, base int) uint64 {
		n, err := strconv.ParseInt(text, base, 64)
		if err != nil {
			problems = append(problems, err)
		}
		return uint64(n)
	}
	quoted := func(text string) string {
		s, err := strconv.Unquote(text)
		if err != nil {
			problems = append(problems, err)
		}
		return s
	}
	e := entry{
		Mode: uint32(number(parts[0], 8)), UID: uint32(number(parts[1], 10)), GID: uint32(number(parts[2], 10)),
		Size: int64(number(parts[3], 10)), Time: int64(number(parts[4], 10)),
		Device: number(parts[5], 10), Link: int(number(parts[6], 10)),
		SHA256: parts[7], Path: quoted(parts[8]), Target: quoted(parts[9]), Xattrs: parts[10],
	}
	return e, errors.Join(problems...)
}
