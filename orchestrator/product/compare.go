package product

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// compareTree makes sure that an archive holds the tree of the disk, and nothing else. The
// order of names, and which of several names of a file comes first, do not matter.
func (w *work) compareTree(archive io.Reader, keep func(attribute string) bool) error {
	system, disk, err := w.system()
	if err != nil {
		return err
	}
	defer disk.Close()
	c := comparison{ctx: w.ctx, keep: keep, wanted: map[string]rawdisk.Entry{}, met: map[string]bool{}, stored: map[any]bool{}}
	if err := system.Walk(w.ctx, c.want); err != nil {
		return err
	}
	if err := c.read(tar.NewReader(archive)); err != nil {
		return fmt.Errorf("it was read back and is not what it must be: %w", err)
	}
	return nil
}

// comparison is of an archive with a tree.
type comparison struct {
	ctx    context.Context
	keep   func(attribute string) bool
	wanted map[string]rawdisk.Entry
	met    map[string]bool // names that the archive has
	stored map[any]bool    // files of which it has the content
}

func (c *comparison) want(e rawdisk.Entry) error {
	if _, ok := headerOf(e, c.keep); ok {
		c.wanted[e.Path] = e
	}
	return nil
}

func (c *comparison) read(archive *tar.Reader) error {
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := entryPath(h.Name)
		e, ok := c.wanted[name]
		if !ok || c.met[name] {
			return fmt.Errorf("it has %q, or has it twice", h.Name)
		}
		c.met[name] = true
		if err := c.entry(h, archive, e); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	for name := range c.wanted {
		if !c.met[name] {
			return fmt.Errorf("it lacks %q", name)
		}
	}
	return nil
}

// entryPath is the name in an archive as an Entry has it.
func entryPath(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (c *comparison) entry(h *tar.Header, content io.Reader, e rawdisk.Entry) error {
	if h.Typeflag == tar.TypeLink {
		to, ok := c.wanted[entryPath(h.Linkname)]
		if !ok || to.SameFile() != e.SameFile() || !c.stored[e.SameFile()] {
			return fmt.Errorf("it leads to another file, %q", h.Linkname)
		}
		return nil
	}
	if c.stored[e.SameFile()] && e.Links > 1 {
		return errors.New("it is a file of its own")
	}
	if !e.IsFolder() {
		c.stored[e.SameFile()] = true
	}
	want, _ := headerOf(e, c.keep)
	switch {
	case h.Typeflag != want.Typeflag:
		return fmt.Errorf("its type is %q, not %q", h.Typeflag, want.Typeflag)
	case h.Mode&0o7777 != want.Mode || h.Uid != want.Uid || h.Gid != want.Gid || h.Size != want.Size || !h.ModTime.Equal(want.ModTime):
		return fmt.Errorf("mode %o, owner %d:%d, %d bytes, of %s, not mode %o, owner %d:%d, %d bytes, of %s",
			h.Mode, h.Uid, h.Gid, h.Size, h.ModTime, want.Mode, want.Uid, want.Gid, want.Size, want.ModTime)
	case h.Linkname != want.Linkname || h.Devmajor != want.Devmajor || h.Devminor != want.Devminor:
		return errors.New("it leads elsewhere")
	case !maps.Equal(attributesIn(h), attributesIn(want)):
		return fmt.Errorf("its attributes are %q, not %q", attributesIn(h), attributesIn(want))
	}
	if !e.IsRegular() || e.Size == 0 {
		return nil
	}
	original, err := e.Content()
	if err != nil {
		return err
	}
	return c.contents(content, io.NewSectionReader(original, 0, e.Size))
}

func attributesIn(h *tar.Header) map[string]string {
	found := map[string]string{}
	for key, value := range h.PAXRecords {
		if strings.HasPrefix(key, xattrPrefix) {
			found[key] = value
		}
	}
	return found
}

// contents compares two streams.
func (c comparison) contents(a, b io.Reader) error {
	same := &sameAs{reader: b, buffer: make([]byte, files.CopyBuffer)}
	if _, err := files.Copy(c.ctx, same, a); err != nil {
		return err
	}
	if n, _ := b.Read(same.buffer[:1]); n > 0 {
		return errDiffers
	}
	return nil
}

var errDiffers = errors.New("its content differs")

// sameAs is a writer that takes only what its reader reads.
type sameAs struct {
	reader io.Reader
	buffer []byte
}

func (s *sameAs) Write(p []byte) (int, error) {
	if _, err := io.ReadFull(s.reader, s.buffer[:len(p)]); err != nil || !bytes.Equal(p, s.buffer[:len(p)]) {
		return 0, errors.Join(errDiffers, err)
	}
	return len(p), nil
}
