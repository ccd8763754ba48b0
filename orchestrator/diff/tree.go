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

	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// Change is a fact that differs.
type Change struct {
	What string `json:"what"`
	A    string `json:"a"`
	B    string `json:"b"`
}

func changes(a, b []rawdisk.Fact) []Change {
	var all []Change
	add := func(what string) {
		in, other := value(a, what), value(b, what)
		if in != other && !slices.ContainsFunc(all, func(c Change) bool { return c.What == what }) {
			all = append(all, Change{what, in, other})
		}
	}
	for _, f := range append(slices.Clone(a), b...) {
		add(f.What)
	}
	return all
}

func value(facts []rawdisk.Fact, what string) string {
	for _, f := range facts {
		if f.What == what {
			return f.Is
		}
	}
	return "none"
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

// walker goes through two trees side by side.
type walker struct {
	ctx    context.Context
	a, b   rawdisk.Tree
	limit  int // of the differences that are kept; 0 for none
	files  []File
	count  int // of the differences
	bounds [2]rawdisk.Bounds
	names  [2]map[uint64]string // the first names of files that have several
}

func (w *walker) add(f File) {
	if w.count++; w.limit == 0 || len(w.files) < w.limit {
		w.files = append(w.files, f)
	}
}

func compareTrees(ctx context.Context, a, b rawdisk.Tree, limit int) (*walker, error) {
	w := &walker{ctx: ctx, a: a, b: b, limit: limit}
	for side := range w.names {
		w.names[side] = map[uint64]string{}
	}
	rootA, errA := a.Root()
	rootB, errB := b.Root()
	if err := errors.Join(errA, errB); err != nil {
		return w, err
	}
	return w, w.both("/", rootA, rootB)
}

// both compares what has the same name on both sides.
func (w *walker) both(name string, a, b *rawdisk.Node) error {
	if err := w.meet(name, a, b); err != nil {
		return err
	}
	found := File{Path: name, Changes: changes(w.described(0, name, a), w.described(1, name, b))}
	if a.IsRegular() && b.IsRegular() {
		var err error
		if found.Content, err = w.contents(a, b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(found.Changes) > 0 || found.Content != nil {
		w.add(found)
	}
	switch {
	case a.IsFolder() && b.IsFolder():
		return w.folder(name, a, b)
	case a.IsFolder():
		return w.below(0, name, a)
	case b.IsFolder():
		return w.below(1, name, b)
	}
	return nil
}

// meet keeps count of the nodes of both sides, nil for none.
func (w *walker) meet(name string, nodes ...*rawdisk.Node) error {
	for side, n := range nodes {
		if n == nil {
			continue
		}
		if err := w.bounds[side].Meet(name, n); err != nil {
			return err
		}
	}
	return w.ctx.Err()
}

func (w *walker) described(side int, name string, n *rawdisk.Node) []rawdisk.Fact {
	if n.IsFolder() || n.Links < 2 {
		return n.Facts
	}
	if _, met := w.names[side][n.Number]; !met {
		w.names[side][n.Number] = name
	}
	return append(slices.Clone(n.Facts), rawdisk.Fact{What: "same file as", Is: w.names[side][n.Number]})
}

func (w *walker) folder(name string, a, b *rawdisk.Node) error {
	inA, errA := w.a.List(a)
	inB, errB := w.b.List(b)
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
func (w *walker) alone(side int, name string, n *rawdisk.Node) error {
	nodes := make([]*rawdisk.Node, 2)
	nodes[side] = n
	if err := w.meet(name, nodes...); err != nil {
		return err
	}
	w.add(File{Path: name, Only: sides[side]})
	if n.IsFolder() {
		return w.below(side, name, n)
	}
	return nil
}

func (w *walker) below(side int, name string, n *rawdisk.Node) error {
	entries, err := []rawdisk.Tree{w.a, w.b}[side].List(n)
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

func (w *walker) contents(a, b *rawdisk.Node) (*Content, error) {
	if a.Size == 0 && b.Size == 0 {
		return nil, nil
	}
	inA, errA := a.Content()
	inB, errB := b.Content()
	if err := errors.Join(errA, errB); err != nil {
		return nil, err
	}
	offset, err := firstDifference(w.ctx, inA, inB, a.Size, b.Size)
	if err != nil || offset < 0 {
		return nil, err
	}
	return around(inA, inB, a.Size, b.Size, offset)
}

const chunk = 256 << 10 // bytes that are read at once

// firstDifference is the offset of the first byte that differs, -1 where none does.
func firstDifference(ctx context.Context, a, b io.ReaderAt, sizeA, sizeB int64) (int64, error) {
	same := min(sizeA, sizeB)
	bufferA, bufferB := make([]byte, min(chunk, same)), make([]byte, min(chunk, same))
	for at := int64(0); at < same; at += chunk {
		partA, partB := bufferA[:min(chunk, same-at)], bufferB[:min(chunk, same-at)]
		if err := errors.Join(ctx.Err(), rawdisk.ReadAll(a, partA, at), rawdisk.ReadAll(b, partB, at)); err != nil {
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
		if err := rawdisk.ReadAll(a, before, 0); err != nil {
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
		if err := rawdisk.ReadAll(of.r, shown[side], offset); err != nil {
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
