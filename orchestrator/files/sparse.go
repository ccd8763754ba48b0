package files

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// NextData is where the next data from offset on starts and ends (lseek(2),
// SEEK_DATA and SEEK_HOLE). Where the file system cannot tell, all is data.
func NextData(f *os.File, offset, size int64) (start, end int64) {
	start, err := f.Seek(offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil {
		return offset, size
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return offset, size
	}
	return start, end
}

// grain is how many zeros are worth a hole, in bytes.
const grain = 64 << 10

// CopySparse copies size bytes of a file, from an offset on, into another one, whose bytes
// there are zeros: what is zero is not written, and what is a hole not read. It ends with its
// context.
func CopySparse(ctx context.Context, to io.WriterAt, at int64, from *os.File, offset, size int64) error {
	buffer, zeros := make([]byte, grain), make([]byte, grain)
	for position, end := offset, offset+size; position < end; {
		start, stop := NextData(from, position, end)
		position = min(end, stop)
		for start < position {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := from.ReadAt(buffer[:min(grain, position-start)], start)
			if n == 0 {
				return cmp.Or(err, io.ErrUnexpectedEOF)
			}
			if !bytes.Equal(buffer[:n], zeros[:n]) {
				if _, err := to.WriteAt(buffer[:n], at+start-offset); err != nil {
					return err
				}
			}
			start += int64(n)
		}
	}
	return nil
}
