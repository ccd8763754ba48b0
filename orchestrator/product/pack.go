package product

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// member is a file in an archive: its content, or a file that has it.
type member struct {
	name    string
	content []byte
	file    string
}

// packing is how an archive of members is written and read.
type packing struct {
	pack   func(io.Writer) io.WriteCloser
	unpack func(io.Reader) (io.Reader, error)
}

// The packings.
var (
	uncompressed = packing{
		func(out io.Writer) io.WriteCloser { return nopCloser{out} },
		func(in io.Reader) (io.Reader, error) { return in, nil },
	}
	gzipped = packing{
		func(out io.Writer) io.WriteCloser { return gzip.NewWriter(out) },
		func(in io.Reader) (io.Reader, error) { return gzip.NewReader(in) },
	}
)

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (m member) open() (content io.ReadCloser, size int64, err error) {
	if m.file == "" {
		return io.NopCloser(bytes.NewReader(m.content)), int64(len(m.content)), nil
	}
	file, err := os.Open(m.file)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// pack writes members into an archive, in their order, and reads them back. The format is
// that of GNU tar of old, which all that import such archives read.
func (w *work) pack(path string, members []member, as packing) error {
	err := create(path, func(out io.Writer) error {
		packed := as.pack(out)
		archive := tar.NewWriter(packed)
		for _, m := range members {
			if err := w.add(archive, m); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		return errors.Join(archive.Close(), packed.Close())
	})
	if err != nil {
		return err
	}
	return opened(path, func(in io.Reader) error {
		unpacked, err := as.unpack(in)
		if err != nil {
			return err
		}
		archive := tar.NewReader(unpacked)
		for _, m := range members {
			if err := w.check(archive, m); err != nil {
				return fmt.Errorf("read %s back: %w", m.name, err)
			}
		}
		return nil
	})
}

func (w *work) add(archive *tar.Writer, m member) error {
	content, size, err := m.open()
	if err != nil {
		return err
	}
	defer content.Close()
	header := tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o644, Size: size, ModTime: time.Unix(w.Epoch.Unix(), 0), Format: tar.FormatGNU}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err = files.Copy(w.ctx, archive, content)
	return err
}

func (w *work) check(archive *tar.Reader, m member) error {
	h, err := archive.Next()
	if err != nil {
		return err
	}
	original, _, err := m.open()
	if err != nil {
		return err
	}
	defer original.Close()
	if h.Name != m.name {
		return fmt.Errorf("%s is in its place", h.Name)
	}
	c := comparison{ctx: w.ctx}
	return c.contents(archive, original)
}
