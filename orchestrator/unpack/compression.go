package unpack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	largestWindow = 128 << 20 // bytes of memory that zstd may take
	peeked        = 512       // bytes that tell how something is compressed
)

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
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		plain, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, damaged("%w", err)
		}
		return plain, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		plain, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(largestWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, damaged("%w", err)
		}
		return plain.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")) && xz != nil:
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
