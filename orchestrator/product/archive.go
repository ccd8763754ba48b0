package product

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// xattrPrefix is of the PAX records that hold extended attributes, as star, GNU tar, bsdtar
// and container engines have it.
const xattrPrefix = "SCHILY.xattr."

// tar writes the tree as a POSIX archive.
func (w *work) tar() error {
	err := create(w.own(), func(out io.Writer) error { return w.writeTree(out, allAttributes) })
	if err == nil {
		err = opened(w.own(), func(in io.Reader) error { return w.compareTree(in, allAttributes) })
	}
	if err != nil {
		return err
	}
	return w.finished(w.own(), 0)
}

// create makes a file of what write writes.
func create(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// opened reads a file.
func opened(path string, read func(io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return read(file)
}

// allAttributes is those that mean the same on every machine.
func allAttributes(name string) bool { return !strings.HasPrefix(name, "trusted.") }

// writeTree writes the tree of the disk, with the attributes for which keep holds. Names are
// in order, times in whole seconds, and the first name of a file has its content. Sockets,
// which are of running programs, are left out.
func (w *work) writeTree(out io.Writer, keep func(attribute string) bool) error {
	system, disk, err := w.system()
	if err != nil {
		return err
	}
	defer disk.Close()
	a := &treeArchive{ctx: w.ctx, Writer: tar.NewWriter(out), out: out, keep: keep, names: map[any]string{}}
	if err := system.Walk(w.ctx, a.add); err != nil {
		return err
	}
	return a.Close()
}

type treeArchive struct {
	ctx context.Context
	*tar.Writer
	out   io.Writer // below the Writer
	keep  func(attribute string) bool
	names map[any]string // of files that may have several, by file
}

// kinds is how archives call the kinds of files.
var kinds = map[uint32]byte{
	unix.S_IFREG: tar.TypeReg, unix.S_IFDIR: tar.TypeDir, unix.S_IFLNK: tar.TypeSymlink,
	unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo,
}

// headerOf is how a node is called in an archive; false where archives have no such thing.
func headerOf(e rawdisk.Entry, keep func(string) bool) (*tar.Header, bool) {
	kind, ok := kinds[e.Mode&unix.S_IFMT]
	h := &tar.Header{
		Typeflag: kind, Name: e.Path, Mode: int64(e.Mode &^ unix.S_IFMT), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: time.Unix(e.ModTime.Unix(), 0), Linkname: e.Target, Devmajor: int64(e.Major), Devminor: int64(e.Minor),
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	switch {
	case e.Path == "":
		h.Name = "./"
	case e.IsFolder():
		h.Name += "/"
	case e.IsRegular():
		h.Size = e.Size
	}
	for name, value := range e.Attributes {
		if keep(name) {
			h.PAXRecords[xattrPrefix+name] = value
		}
	}
	return h, ok
}

func (a *treeArchive) add(e rawdisk.Entry) error {
	h, ok := headerOf(e, a.keep)
	if !ok {
		return nil
	}
	if !e.IsFolder() && e.Links > 1 {
		if first, met := a.names[e.SameFile()]; met {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
			return a.WriteHeader(h)
		}
		a.names[e.SameFile()] = e.Path
	}
	if !e.IsRegular() || e.Size == 0 {
		return a.WriteHeader(h)
	}
	content, err := e.Content()
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	data := content.Data()
	if holes(data, e.Size) >= leastHoles {
		return a.sparse(h, content, data)
	}
	if err := a.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	_, err = files.Copy(a.ctx, a, io.NewSectionReader(content, 0, e.Size))
	return err
}

// leastHoles is how many bytes of holes are worth a map of them.
const leastHoles = 64 << 10

func holes(data []rawdisk.Span, size int64) int64 {
	for _, span := range data {
		size -= span.Size
	}
	return size
}

// sparse writes a file with holes in the PAX format 1.0 of GNU tar's manual, which
// archive/tar reads and does not write.
func (a *treeArchive) sparse(h *tar.Header, content io.ReaderAt, data []rawdisk.Span) error {
	if last := len(data) - 1; last < 0 || data[last].Offset+data[last].Size < h.Size {
		data = append(data, rawdisk.Span{Offset: h.Size}) // which tells how long the last hole is
	}
	layout := strconv.Itoa(len(data)) + "\n"
	var stored int64
	for _, span := range data {
		layout += fmt.Sprintf("%d\n%d\n", span.Offset, span.Size)
		stored += span.Size
	}
	layout += strings.Repeat("\x00", int(padding(int64(len(layout)))))
	records := maps.Clone(h.PAXRecords)
	maps.Copy(records, map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(h.Size, 10),
		"uid": strconv.Itoa(h.Uid), "gid": strconv.Itoa(h.Gid), "size": strconv.FormatInt(int64(len(layout))+stored, 10),
		"mtime": strconv.FormatInt(h.ModTime.Unix(), 10),
	})
	if err := a.Flush(); err != nil {
		return err
	}
	folder, base := path.Split(h.Name)
	extended := paxRecords(records)
	for _, block := range [][]byte{
		ustarHeader(path.Join(folder, "PaxHeaders.0", base), 'x', 0o644, int64(len(extended)), 0), extended, make([]byte, padding(int64(len(extended)))),
		ustarHeader(path.Join(folder, "GNUSparseFile.0", base), tar.TypeReg, h.Mode, int64(len(layout))+stored, h.ModTime.Unix()), []byte(layout),
	} {
		if _, err := a.out.Write(block); err != nil {
			return err
		}
	}
	for _, span := range data {
		if _, err := files.Copy(a.ctx, a.out, io.NewSectionReader(content, span.Offset, span.Size)); err != nil {
			return err
		}
	}
	_, err := a.out.Write(make([]byte, padding(stored)))
	return err
}

const tarBlock = 512 // bytes

func padding(size int64) int64 { return (tarBlock - size%tarBlock) % tarBlock }

// paxRecords is extended headers as POSIX.1-2001 has them: "LENGTH KEY=VALUE\n", where the
// length counts itself.
func paxRecords(records map[string]string) []byte {
	var out bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(records)) {
		rest := fmt.Sprintf(" %s=%s\n", key, records[key])
		length := len(rest)
		for length != len(rest)+len(strconv.Itoa(length)) {
			length = len(rest) + len(strconv.Itoa(length))
		}
		fmt.Fprintf(&out, "%d%s", length, rest)
	}
	return out.Bytes()
}

// ustarHeader is a header of POSIX.1-1988; what does not fit is in extended ones.
func ustarHeader(name string, kind byte, mode, size, seconds int64) []byte {
	b := make([]byte, tarBlock)
	const mostSize, mostSeconds = 1<<33 - 1, 1<<33 - 1
	copy(b[:100], name)
	for at, number := range map[int]int64{100: mode, 108: 0, 116: 0, 329: 0, 337: 0} {
		copy(b[at:], fmt.Sprintf("%07o", number))
	}
	copy(b[124:], fmt.Sprintf("%011o", min(size, mostSize)))
	copy(b[136:], fmt.Sprintf("%011o", max(0, min(seconds, mostSeconds))))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
