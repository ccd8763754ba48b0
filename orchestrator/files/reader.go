package files

import (
	"context"
	"io"
)

// CopyBuffer is how much of a disk is read at a time, in bytes.
const CopyBuffer = 1 << 20

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
