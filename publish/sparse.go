package publish

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// sparseFile is written from its start on; blocks of zeros become holes.
type sparseFile struct {
	*os.File
	offset int64
}

const sparseBlock = 64 << 10

var zeroBlock [sparseBlock]byte

// Write implements io.Writer. A hole at the end is not there before finish.
func (f *sparseFile) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		// Blocks are those of the file, not of the writer's calls.
		end := min(len(p), written+int(sparseBlock-f.offset%sparseBlock))
		block := p[written:end]
		if !bytes.Equal(block, zeroBlock[:len(block)]) {
			n, err := f.WriteAt(block, f.offset)
			f.offset += int64(n)
			written += n
			if err != nil {
				return written, err
			}
			continue
		}
		f.offset += int64(len(block))
		written = end
	}
	return written, nil
}

// finish gives the file its whole size.
func (f *sparseFile) finish() error { return f.Truncate(f.offset) }

// hashInto reads the file from its start to its end into w. Holes are not read.
func hashInto(w io.Writer, f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buffer := make([]byte, copyBuffer)
	var offset int64
	for offset < info.Size() {
		data, hole := offset, info.Size()
		start, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = info.Size()
		case err == nil:
			data = start
			if hole, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
				data, hole = offset, info.Size()
			}
		}
		for n := data - offset; n > 0; n -= sparseBlock {
			if _, err := w.Write(zeroBlock[:min(n, sparseBlock)]); err != nil {
				return offset, err
			}
		}
		if _, err := io.CopyBuffer(w, struct{ io.Reader }{io.NewSectionReader(f, data, hole-data)}, buffer); err != nil {
			return offset, err
		}
		offset = max(hole, data)
	}
	return offset, nil
}
