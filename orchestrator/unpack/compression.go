package unpack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/btw-img/btw-img/orchestrator/files"
)

const (
	largestWindow = 128 << 20 // bytes of memory that zstd may take
	peeked        = 512       // bytes that tell how something is compressed
)

// What a compressed file begins with.
const (
	gzipMagic = "\x1f\x8b"
	zstdMagic = "\x28\xb5\x2f\xfd"
	xzMagic   = "\xfd7zXZ\x00"
)

func isCompressed(head []byte) bool {
	return slices.ContainsFunc([]string{gzipMagic, zstdMagic, xzMagic}, func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) })
}

// Program runs what decompresses a stream by a program of the host.
type Program func(ctx context.Context, in io.Reader, out io.Writer) error

// Decompress is what a stream holds that is compressed by gzip, zstd or, where there is a
// program for it, xz; another is taken as it is.
func Decompress(ctx context.Context, in io.Reader, xz Program) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(in, 1<<16)
	head, err := buffered.Peek(peeked)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte(gzipMagic)):
		plain, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, damaged("%w", err)
		}
		return plain, nil
	case bytes.HasPrefix(head, []byte(zstdMagic)):
		plain, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(largestWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, damaged("%w", err)
		}
		return plain.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte(xzMagic)) && xz != nil:
		return through(ctx, buffered, xz), nil
	}
	return io.NopCloser(buffered), nil
}

// running is the output of a program.
type running struct {
	*io.PipeReader
	end  context.CancelFunc
	done chan struct{}
}

func through(ctx context.Context, in io.Reader, run Program) io.ReadCloser {
	ctx, end := context.WithCancel(ctx)
	out, into := io.Pipe()
	r := running{out, end, make(chan struct{})}
	go func() {
		defer close(r.done)
		_ = into.CloseWithError(run(ctx, in, into))
	}()
	return r
}

// Close ends the program, where more is not wanted.
func (r running) Close() error {
	r.end()
	err := r.PipeReader.Close()
	<-r.done
	return err
}

// DiskImage writes the disk image that a file holds to a path, with holes where it has zeros:
// compressed or not, by itself or in a tar archive, where it is the one file whose name ends
// in one of the suffixes. It says whether there was anything to unpack; else nothing is
// written.
func DiskImage(ctx context.Context, in *os.File, xz Program, to string, suffixes []string) (unpacked bool, err error) {
	head := make([]byte, peeked)
	n, err := in.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	compressed := isCompressed(head[:n])
	plain, err := Decompress(ctx, in, xz)
	if err != nil {
		return false, err
	}
	defer func() { _ = plain.Close() }()
	buffered := bufio.NewReaderSize(files.UntilDone(ctx, plain), 1<<16)
	head, err = buffered.Peek(peeked)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, damaged("%w", err)
	}
	switch {
	case isTar(head):
		return true, diskInTar(tar.NewReader(buffered), to, suffixes)
	case compressed:
		return true, writeSparse(to, buffered)
	}
	return false, nil
}

func isTar(head []byte) bool { return len(head) > 262 && string(head[257:262]) == "ustar" }

func diskInTar(archive *tar.Reader, to string, suffixes []string) error {
	found := ""
	for n := 0; ; n++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) && found == "" {
			return damaged("there is no disk image in the archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || n > mostFiles {
			return damaged("the archive cannot be read: %w", err)
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse || !slices.ContainsFunc(suffixes, func(end string) bool { return strings.HasSuffix(h.Name, end) }) {
			continue
		}
		if found != "" {
			return damaged("the archive has several disk images, %q and %q", found, h.Name)
		}
		found = h.Name
		if err := writeSparse(to, archive); err != nil {
			return err
		}
	}
}

// writeSparse writes a file, and leaves zeros out.
func writeSparse(to string, in io.Reader) (err error) {
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffer, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	var at, written int64
	for {
		n, err := readFull(in, buffer)
		if !bytes.Equal(buffer[:n], zeros[:n]) {
			if _, err := file.WriteAt(buffer[:n], at); err != nil {
				return err
			}
			written += int64(n)
		}
		at += int64(n)
		switch {
		case err == io.EOF: //nolint:errorlint // what is cut off ends with another one
			return file.Truncate(at)
		case err != nil:
			return damaged("after %d bytes: %w", at, err)
		case written > mostBytes || at > mostVirtual:
			return damaged("it has no end")
		}
	}
}

// readFull fills a buffer, and gives the error of the reader itself, also at the end.
func readFull(in io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var some int
		some, err = in.Read(buffer[n:])
		n += some
	}
	return n, err
}

const mostVirtual = 16 << 40 // bytes of a disk
