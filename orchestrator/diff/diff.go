package diff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// sides is how the disks are called in what is told.
var sides = []string{"a", "b"}

// Disks is what two disks differ in.
type Disks struct {
	Equal      bool         `json:"equal"`
	Disk       []Change     `json:"disk,omitempty"`       // size and partition table
	Partitions []Difference `json:"partitions,omitempty"` // those that differ
	Packages   []Package    `json:"packages,omitempty"`   // those that differ
	// Outside is the offset of the first byte that differs and is in no partition.
	Outside *int64 `json:"outside,omitempty"`
}

// Difference is what a partition differs in.
type Difference struct {
	Number     int      `json:"number"`
	Label      string   `json:"label,omitempty"`
	Filesystem string   `json:"filesystem,omitempty"`
	Only       string   `json:"only,omitempty"` // the side that alone has it
	Changes    []Change `json:"changes,omitempty"`
	Offset     *int64   `json:"offset,omitempty"` // of the first byte that differs, in the partition
	Compared   bool     `json:"compared"`         // file by file
	Note       string   `json:"note,omitempty"`   // why it was not
	Differing  int      `json:"differing"`        // files that differ
	Files      []File   `json:"files,omitempty"`  // no more of them than were asked for
}

// Package is one that is in one image alone, or in two versions. It has no version where
// it is not installed.
type Package struct {
	Name         string `json:"name"`
	Architecture string `json:"architecture"`
	A            string `json:"a"`
	B            string `json:"b"`
}

// Compare compares two raw disks, of which it keeps limit files of each partition; 0 is
// for all.
func Compare(ctx context.Context, a, b *os.File, limit int) (Disks, error) {
	c := comparison{ctx: ctx, limit: limit}
	for side, file := range []*os.File{a, b} {
		info, err := file.Stat()
		if err != nil {
			return Disks{}, err
		}
		c.disks[side], c.sizes[side] = file, info.Size()
	}
	var err error
	if c.spans, err = differing(ctx, a, b, min(c.sizes[0], c.sizes[1])); err != nil {
		return Disks{}, err
	}
	if len(c.spans) == 0 && c.sizes[0] == c.sizes[1] {
		return Disks{Equal: true}, nil
	}
	return c.compare()
}

// SameFile says whether two files hold the same.
func SameFile(ctx context.Context, a, b string) (same bool, err error) {
	var opened [2]*os.File
	var infos [2]os.FileInfo
	for i, path := range []string{a, b} {
		if opened[i], err = files.OpenRegular(path); err != nil {
			return false, err
		}
		defer opened[i].Close()
		if infos[i], err = opened[i].Stat(); err != nil {
			return false, err
		}
	}
	if os.SameFile(infos[0], infos[1]) {
		return true, nil
	}
	if infos[0].Size() != infos[1].Size() {
		return false, nil
	}
	offset, err := firstDifference(ctx, opened[0], opened[1], infos[0].Size(), infos[1].Size())
	return offset < 0, err
}

// comparison is one of two disks.
type comparison struct {
	ctx    context.Context
	limit  int
	disks  [2]*os.File
	sizes  [2]int64
	spans  []span // where the disks differ
	tables [2]rawdisk.Table
}

func (c *comparison) compare() (result Disks, err error) {
	for side := range sides {
		if c.tables[side], err = rawdisk.ReadTable(c.disks[side], c.sizes[side]); err != nil {
			return result, fail.Wrap(fail.Usage, "disk "+sides[side], err)
		}
	}
	facts := func(side int) []rawdisk.Fact {
		return append(c.tables[side].Facts(), rawdisk.Fact{What: "size", Is: fmt.Sprint(c.sizes[side])})
	}
	result.Disk = changes(facts(0), facts(1))
	numbers := map[int]bool{}
	for _, t := range c.tables {
		for _, p := range t.Partitions {
			numbers[p.Number] = true
		}
	}
	for number := range len(numbers) + rawdisk.MostPartitions {
		if !numbers[number] {
			continue
		}
		d, equal, err := c.partition(c.tables[0].Numbered(number), c.tables[1].Numbered(number))
		if err != nil {
			return result, fail.Wrap(fail.Usage, fmt.Sprintf("partition %d", number), err)
		}
		if !equal {
			result.Partitions = append(result.Partitions, d)
		}
	}
	result.Outside = c.outside()
	result.Packages, err = c.packages()
	return result, err
}

// outside is the first byte that differs in no partition.
func (c *comparison) outside() *int64 {
	for _, s := range c.spans {
		at := s.from
		for moved := true; moved; {
			moved = false
			for _, t := range c.tables {
				for _, p := range t.Partitions {
					if p.Start <= at && at < p.Start+p.Size {
						at, moved = p.Start+p.Size, true
					}
				}
			}
		}
		if at < s.to {
			return &at
		}
	}
	return nil
}

func (c *comparison) partition(a, b *rawdisk.Partition) (d Difference, equal bool, err error) {
	switch {
	case b == nil:
		return Difference{Number: a.Number, Label: a.Label, Only: sides[0]}, false, nil
	case a == nil:
		return Difference{Number: b.Number, Label: b.Label, Only: sides[1]}, false, nil
	}
	d = Difference{Number: a.Number, Label: cmp.Or(a.Label, b.Label), Changes: changes(a.Facts(), b.Facts())}
	inA, inB := io.NewSectionReader(c.disks[0], a.Start, a.Size), io.NewSectionReader(c.disks[1], b.Start, b.Size)
	if a.Start == b.Start && a.Size == b.Size && !slices.ContainsFunc(c.spans, func(s span) bool { return s.from < a.Start+a.Size && s.to > a.Start }) {
		d.Compared = true
		return d, len(d.Changes) == 0, nil
	}
	offset, err := firstDifference(c.ctx, inA, inB, a.Size, b.Size)
	if err != nil {
		return d, false, err
	}
	d.Offset = &offset
	err = c.filesIn(&d, inA, inB, a.Size, b.Size)
	if _, ok := errors.AsType[*fail.Error](err); ok && c.ctx.Err() == nil {
		d.Note, err = err.Error(), nil
	}
	return d, false, err
}

// filesIn compares what is in the partition file by file where both have a file system
// that vmctl reads.
func (c *comparison) filesIn(d *Difference, a, b io.ReaderAt, sizeA, sizeB int64) error {
	treeA, kindA, errA := rawdisk.Open(a, sizeA)
	treeB, kindB, errB := rawdisk.Open(b, sizeB)
	d.Filesystem = cmp.Or(kindA, kindB)
	d.Changes = append(d.Changes, changes([]rawdisk.Fact{{What: "file system", Is: cmp.Or(kindA, "none")}}, []rawdisk.Fact{{What: "file system", Is: cmp.Or(kindB, "none")}})...)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	if treeA == nil || treeB == nil {
		d.Note = "vmctl reads the files of ext4 and FAT alone"
		return nil
	}
	d.Changes = append(d.Changes, changes(treeA.Facts(), treeB.Facts())...)
	found, err := compareTrees(c.ctx, treeA, treeB, c.limit)
	if err != nil {
		return err
	}
	d.Compared, d.Differing, d.Files = true, found.count, found.files
	return nil
}

// statusPaths is where dpkg's list of packages is, in the file system of the root or in
// one that is mounted on /var.
var statusPaths = []string{"var/lib/dpkg/status", "lib/dpkg/status"}

const largestStatus = 64 << 20 // bytes

func (c *comparison) packages() ([]Package, error) {
	installed := make([][]debian.Package, len(sides))
	for side := range sides {
		var err error
		if installed[side], err = c.installed(side); err != nil {
			return nil, err
		}
	}
	var different []Package
	for _, d := range debian.Differences(installed[0], installed[1]) {
		different = append(different, Package{d.Name, d.Architecture, d.Before, d.After})
	}
	return different, nil
}

// installed is the packages of a disk: those of the first dpkg that it has.
func (c *comparison) installed(side int) ([]debian.Package, error) {
	for _, p := range c.tables[side].Partitions {
		t, _, err := rawdisk.Open(io.NewSectionReader(c.disks[side], p.Start, p.Size), p.Size)
		if err != nil || t == nil {
			continue // which was said where the partitions are compared
		}
		for _, name := range statusPaths {
			n, err := rawdisk.Find(t, name)
			if err != nil || n == nil || !n.IsRegular() || n.Size > largestStatus {
				continue
			}
			content, err := n.Content()
			if err != nil {
				return nil, err
			}
			status := make([]byte, n.Size)
			if err := rawdisk.ReadAll(content, status, 0); err != nil {
				return nil, err
			}
			return debian.InStatus(status), nil
		}
	}
	return nil, nil
}

// span is a stretch of bytes in which two disks differ.
type span struct{ from, to int64 }

const (
	grain     = 4096 // bytes
	mostSpans = 1 << 20
)

// differing finds where two files differ. Where both have a hole, nothing is read.
func differing(ctx context.Context, a, b *os.File, size int64) (spans []span, err error) {
	bufferA, bufferB := make([]byte, 4*chunk), make([]byte, 4*chunk)
	for at := int64(0); at < size; {
		startA, endA := files.NextData(a, at, size)
		startB, endB := files.NextData(b, at, size)
		if at = min(startA, startB) / grain * grain; at >= size {
			break
		}
		end := min(endA, endB)
		if startA >= endB || startB >= endA { // they do not overlap
			end = max(startA, startB)
		}
		end = min(size, max(end, at+grain))
		for at < end {
			partA, partB := bufferA[:min(int64(len(bufferA)), end-at)], bufferB[:min(int64(len(bufferB)), end-at)]
			if err := errors.Join(ctx.Err(), rawdisk.ReadAll(a, partA, at), rawdisk.ReadAll(b, partB, at)); err != nil {
				return nil, err
			}
			if !bytes.Equal(partA, partB) {
				spans = unlike(spans, partA, partB, at)
			}
			at += int64(len(partA))
		}
	}
	return spans, nil
}

// unlike adds the grains that differ to the spans.
func unlike(spans []span, a, b []byte, at int64) []span {
	for i := 0; i < len(a); i += grain {
		end := min(i+grain, len(a))
		if bytes.Equal(a[i:end], b[i:end]) {
			continue
		}
		from, to := at+int64(i+unequal(a[i:end], b[i:end])), at+int64(end)
		if last := len(spans) - 1; last >= 0 && (spans[last].to == at+int64(i) || len(spans) >= mostSpans) {
			spans[last].to = to
			continue
		}
		spans = append(spans, span{from, to})
	}
	return spans
}
