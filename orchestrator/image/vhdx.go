package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// compareVHDX does for VHDX what Compare does for others: of its holes qemu-img knows nothing,
// and reads all those of the raw disk, which fills the page cache with zeros.
func compareVHDX(ctx context.Context, raw, out string) error {
	one, err := openSparse(raw)
	if err != nil {
		return err
	}
	defer one.file.Close()
	other, err := openSparse(out)
	if err != nil {
		return err
	}
	defer other.file.Close()
	disk, err := diskformat.ReadVHDX(other.file)
	if err != nil {
		return fmt.Errorf("read back %s: %w", out, err)
	}
	if whole := ceil(one.size, sector) * sector; disk.Size != whole {
		return fail.New(fail.Build, out, "", "its disk has %d bytes, not %d", disk.Size, whole)
	}
	for i, at := range disk.Blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := int64(i) * disk.Block
		same, err := equal(one, start, other, at, min(disk.Block, disk.Size-start))
		if err != nil {
			return err
		}
		if !same {
			return fail.New(fail.Build, out, "", "it was read back and differs from the disk within %d bytes from %d on", disk.Block, start)
		}
	}
	return nil
}

// equal says whether bytes of two files are the same. At 0 of the second there are zeros.
func equal(one *sparse, from int64, other *sparse, at, size int64) (bool, error) {
	a, b := make([]byte, grainBytes), make([]byte, grainBytes)
	for done := int64(0); done < size; done += grainBytes {
		a, b := a[:min(grainBytes, size-done)], b[:min(grainBytes, size-done)]
		first, err := one.read(a, from+done)
		second := false
		if at == 0 {
			clear(b)
		} else if err == nil {
			second, err = other.read(b, at+done)
		}
		if err != nil {
			return false, err
		}
		if (first || second) && !bytes.Equal(a, b) {
			return false, nil
		}
	}
	return true, nil
}

// sparse is a file whose holes are not read.
type sparse struct {
	file            *os.File
	size            int64
	hole, data, end int64 // the last ones looked up: a hole, and the data behind it
}

func openSparse(path string) (*sparse, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &sparse{file: file, size: info.Size()}, nil
}

// read fills a buffer from an offset on, and says whether there is anything but a hole. Behind
// its end a file has zeros.
func (s *sparse) read(p []byte, at int64) (data bool, err error) {
	if at < s.hole || at >= s.end {
		s.hole = at
		s.data, s.end = files.NextData(s.file, at, s.size)
	}
	if at+int64(len(p)) <= s.data || at >= s.size {
		clear(p)
		return false, nil
	}
	n, err := s.file.ReadAt(p, at)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	clear(p[n:])
	return true, err
}
