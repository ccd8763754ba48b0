package files

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopyBuffer is how much of a disk is read at a time, in bytes.
const CopyBuffer = 1 << 20

// OpenRegular opens a file for reading that is no device, pipe or folder.
func OpenRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would wait
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, cmp.Or(err, fmt.Errorf("%s is no regular file", path))
	}
	return file, nil
}

// UntilDone is a reader of r that ends with its context: reading a disk takes long.
func UntilDone(ctx context.Context, r io.Reader) io.Reader { return untilDone{ctx, r} }

type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// Copy copies all of in, until the context ends, and says how many bytes that were.
func Copy(ctx context.Context, out io.Writer, in io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{out}, UntilDone(ctx, in), make([]byte, CopyBuffer))
}
