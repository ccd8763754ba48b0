package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// fact is one thing that is known of another: those of two that are alike are the same.
type fact struct{ what, is string }

// Change is a fact that differs.
type Change struct {
	What string `json:"what"`
	A    string `json:"a"`
	B    string `json:"b"`
}

func changes(a, b []fact) []Change {
	var all []Change
	add := func(what string) {
		in, other := value(a, what), value(b, what)
		if in != other && !slices.ContainsFunc(all, func(c Change) bool { return c.What == what }) {
			all = append(all, Change{what, in, other})
		}
	}
	for _, f := range append(slices.Clone(a), b...) {
		add(f.what)
	}
	return all
}

func value(facts []fact, what string) string {
	for _, f := range facts {
		if f.what == what {
			return f.is
		}
	}
	return "none"
}

// node is a file, a folder or whatever else has a name.
type node struct {
	number          uint64 // of the inode; 0 where there is no such thing
	links           int
	folder, regular bool
	size            int64
	facts           []fact
	content         func() (io.ReaderAt, error) // of files and folders
}

// tree is a file system that can be read.
type tree interface {
	kind() string
	facts() []fact // of the file system itself
	root() (*node, error)
	list(folder *node) (map[string]*node, error)
}

func damaged(format string, args ...any) error {
	return fail.New(fail.Usage, "", "check it with fsck, or get the image again", "damaged: "+format, args...)
}

// unreadable is of what vmctl does not read; as with what is damaged, its bytes are
// compared instead.
func unreadable(format string, args ...any) error {
	return fail.New(fail.Usage, "", "", format, args...)
}

const headSize = 0x10048 // bytes that tell what is in a partition

// openTree opens what is in a partition. It gives the name of what it finds, also where
// that has no files, or none that can be read (nil).
func openTree(disk io.ReaderAt, size int64) (tree, string, error) {
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

// File is a name whose file differs.
type File struct {
	Path    string   `json:"path"`
	Only    string   `json:"only,omitempty"` // the side that alone has it
	Changes []Change `json:"changes,omitempty"`
	Content *Content `json:"content,omitempty"`
}

// Content is where two contents begin to differ.
type Content struct {
	Offset int64  `json:"offset"`         // of the first byte that differs
	Line   int    `json:"line,omitempty"` // where both are text
	A      string `json:"a"`              // the line, or the bytes in hexadecimal from there on
	B      string `json:"b"`
}

const (
	mostFiles   = 10_000_000
	deepestPath = 512
)

// walker goes through two trees side by side.
type walker struct {
	ctx     context.Context
	a, b    tree
	limit   int // of the differences that are kept; 0 for none
	files   []File
	count   int // of the differences
	met     int
	names   [2]map[uint64]string // the first names of files that have several
	folders [2]map[uint64]bool
}

func (w *walker) add(f File) {
	if w.count++; w.limit == 0 || len(w.files) < w.limit {
		w.files = append(w.files, f)
	}
}

func compareTrees(ctx context.Context, a, b tree, limit int) (*walker, error) {
	w := &walker{ctx: ctx, a: a, b: b, limit: limit}
	for side := range w.names {
		w.names[side], w.folders[side] = map[uint64]string{}, map[uint64]bool{}
	}
	rootA, errA := a.root()
	rootB, errB := b.root()
	if err := errors.Join(errA, errB); err != nil {
		return w, err
	}
	return w, w.both("/", rootA, rootB)
}

// both compares what has the same name on both sides.
func (w *walker) both(name string, a, b *node) error {
	if err := w.meet(name, a, b); err != nil {
		return err
	}
	found := File{Path: name, Changes: changes(w.described(0, name, a), w.described(1, name, b))}
	if a.regular && b.regular {
		var err error
		if found.Content, err = w.contents(a, b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(found.Changes) > 0 || found.Content != nil {
		w.add(found)
	}
	switch {
	case a.folder && b.folder:
		return w.folder(name, a, b)
	case a.folder:
		return w.below(0, name, a)
	case b.folder:
		return w.below(1, name, b)
	}
	return nil
}

// meet keeps count: a damaged file system may have no end.
func (w *walker) meet(name string, nodes ...*node) error {
	if w.met++; w.met > mostFiles || strings.Count(name, "/") > deepestPath {
		return damaged("it has more than %d files, or folders more than %d deep", mostFiles, deepestPath)
	}
	for side, n := range nodes {
		if n == nil || !n.folder || n.number == 0 {
			continue
		}
		if w.folders[side][n.number] {
			return damaged("folder %d has two names", n.number)
		}
		w.folders[side][n.number] = true
	}
	return w.ctx.Err()
}

func (w *walker) described(side int, name string, n *node) []fact {
	if n.folder || n.links < 2 {
		return n.facts
	}
	if _, met := w.names[side][n.number]; !met {
		w.names[side][n.number] = name
	}
	return append(slices.Clone(n.facts), fact{"same file as", w.names[side][n.number]})
}

func (w *walker) folder(name string, a, b *node) error {
	inA, errA := w.a.list(a)
	inB, errB := w.b.list(b)
	if err := errors.Join(errA, errB); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	all := slices.Collect(maps.Keys(inA))
	for entry := range inB {
		if inA[entry] == nil {
			all = append(all, entry)
		}
	}
	slices.Sort(all)
	for _, entry := range all {
		inside, err := path.Join(name, entry), error(nil)
		switch a, b := inA[entry], inB[entry]; {
		case a == nil:
			err = w.alone(1, inside, b)
		case b == nil:
			err = w.alone(0, inside, a)
		default:
			err = w.both(inside, a, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alone is for what one side has and the other lacks, with all that is in it.
func (w *walker) alone(side int, name string, n *node) error {
	nodes := make([]*node, 2)
	nodes[side] = n
	if err := w.meet(name, nodes...); err != nil {
		return err
	}
	w.add(File{Path: name, Only: sides[side]})
	if n.folder {
		return w.below(side, name, n)
	}
	return nil
}

func (w *walker) below(side int, name string, n *node) error {
	entries, err := []tree{w.a, w.b}[side].list(n)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, entry := range slices.Sorted(maps.Keys(entries)) {
		if err := w.alone(side, path.Join(name, entry), entries[entry]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) contents(a, b *node) (*Content, error) {
	if a.size == 0 && b.size == 0 {
		return nil, nil
	}
	inA, errA := a.content()
	inB, errB := b.content()
	if err := errors.Join(errA, errB); err != nil {
		return nil, err
	}
	offset, err := firstDifference(w.ctx, inA, inB, a.size, b.size)
	if err != nil || offset < 0 {
		return nil, err
	}
	return around(inA, inB, a.size, b.size, offset)
}

const chunk = 256 << 10 // bytes that are read at once

// firstDifference is the offset of the first byte that differs, -1 where none does.
func firstDifference(ctx context.Context, a, b io.ReaderAt, sizeA, sizeB int64) (int64, error) {
	same := min(sizeA, sizeB)
	bufferA, bufferB := make([]byte, min(chunk, same)), make([]byte, min(chunk, same))
	for at := int64(0); at < same; at += chunk {
		partA, partB := bufferA[:min(chunk, same-at)], bufferB[:min(chunk, same-at)]
		if err := errors.Join(ctx.Err(), readAll(a, partA, at), readAll(b, partB, at)); err != nil {
			return -1, err
		}
		if !bytes.Equal(partA, partB) {
			return at + int64(unequal(partA, partB)), nil
		}
	}
	if sizeA != sizeB {
		return same, nil
	}
	return -1, nil
}

func unequal(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func readAll(r io.ReaderAt, into []byte, at int64) error {
	n, err := r.ReadAt(into, at)
	if n == len(into) {
		return nil
	}
	if err == io.EOF || err == nil {
		return damaged("it is cut off")
	}
	return err
}

const (
	shownBytes = 16
	shownLine  = 120     // bytes
	countLines = 1 << 20 // bytes in front of the difference
)

// around is what stands where the contents begin to differ.
func around(a, b io.ReaderAt, sizeA, sizeB, offset int64) (*Content, error) {
	c := &Content{Offset: offset}
	before := make([]byte, min(offset, countLines))
	if offset <= countLines {
		if err := readAll(a, before, 0); err != nil {
			return nil, err
		}
	}
	start := int64(bytes.LastIndexByte(before, '\n') + 1)
	shown := [2][]byte{}
	for side, of := range []struct {
		r    io.ReaderAt
		size int64
	}{{a, sizeA}, {b, sizeB}} {
		shown[side] = make([]byte, min(of.size-offset, shownLine))
		if err := readAll(of.r, shown[side], offset); err != nil {
			return nil, err
		}
	}
	if offset <= countLines && offset-start <= shownLine && isText(before) && isText(shown[0]) && isText(shown[1]) {
		line := func(rest []byte) string {
			rest, _, _ = bytes.Cut(rest, []byte{'\n'})
			return strings.ToValidUTF8(string(before[start:])+string(rest), "")
		}
		c.Line, c.A, c.B = 1+bytes.Count(before, []byte{'\n'}), line(shown[0]), line(shown[1])
		return c, nil
	}
	hexadecimal := func(rest []byte) string { return fmt.Sprintf("%x", rest[:min(len(rest), shownBytes)]) }
	c.A, c.B = hexadecimal(shown[0]), hexadecimal(shown[1])
	return c, nil
}

// isText says whether the bytes may be part of a text: its first and last characters
// may be cut.
func isText(b []byte) bool {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == utf8.RuneError && i >= utf8.UTFMax && i < len(b)-utf8.UTFMax {
			return false
		}
		i += size
	}
	return true
}

// find is the file of that name, nil where there is none. Links are not followed.
func find(t tree, name string) (*node, error) {
	n, err := t.root()
	for part := range strings.SplitSeq(name, "/") {
		if err != nil || n == nil || !n.folder {
			return nil, err
		}
		var entries map[string]*node
		entries, err = t.list(n)
		n = entries[part]
	}
	return n, err
}
