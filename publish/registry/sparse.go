package registry

import (
	"bytes"
	"os"
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
