package flash

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

const damaged = "the disk does not hold what was written: it may be damaged, or smaller than it says"

// extent is bytes of a disk, from start on and before end.
type extent struct{ start, end int64 }

func (e extent) empty() bool { return e.end <= e.start }

// endsOf is the first and the last MiB of a disk of that size.
func endsOf(size int64) [2]extent { return [2]extent{{0, mib}, {size - mib, size}} }

// invalidate takes away what machines start from: the first and the last MiB.
func (d *Device) invalidate() error {
	var errs []error
	for _, e := range endsOf(d.Size) {
		_, err := d.file.WriteAt(make([]byte, e.end-e.start), e.start)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.file.Sync())...)
}

// ends is a file in memory as large as the disk, with both ends of the image, which hold its
// partition tables.
func (d *Device) ends(ctx context.Context, h host.Host, j Job) (ends *os.File, err error) {
	fd, err := unix.MemfdCreate("ends", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	ends = os.NewFile(uintptr(fd), "ends")
	err = ends.Truncate(d.Size)
	for _, part := range []extent{{0, min(mib, j.Size)}, {max(mib, j.Size-mib), j.Size}} {
		if err == nil && !part.empty() {
			err = h.Run(ctx, j.convert(part, "unsafe", onto("file", ends, part)))
		}
	}
	if err != nil {
		ends.Close()
		return nil, err
	}
	return ends, nil
}

// settler is a disk on which what was written stays.
type settler interface {
	io.WriterAt
	Sync() error
}

// settle writes the ends onto a disk of that size. The sectors without which no partition table is
// valid and no boot code runs, the first two and the last, come when all else stays.
func settle(disk settler, ends io.ReaderAt, size int64) error {
	const first = 2 * sectorSize
	last := size - sectorSize
	for _, step := range [][2]extent{{{first, mib}, {size - mib, last}}, {{last, size}, {0, first}}} {
		for _, e := range step {
			content := make([]byte, e.end-e.start)
			if _, err := ends.ReadAt(content, e.start); err != nil {
				return err
			}
			if _, err := disk.WriteAt(content, e.start); err != nil {
				return err
			}
		}
		if err := disk.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// check reads back the ends and the seed, from the disk itself as far as the kernel forgets what
// was written.
func (d *Device) check(j Job, ends io.ReaderAt, seedAt int64) error {
	if err := unix.Fadvise(int(d.file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return os.NewSyscallError("fadvise", err)
	}
	for _, e := range endsOf(d.Size) {
		if err := holds(d.file, e, io.NewSectionReader(ends, e.start, e.end-e.start)); err != nil {
			return err
		}
	}
	if j.Seed == nil {
		return nil
	}
	info, err := j.Seed.Stat()
	if err != nil {
		return err
	}
	return holds(d.file, extent{seedAt, seedAt + info.Size()}, io.NewSectionReader(j.Seed, 0, info.Size()))
}

// holds says whether that is what a part of the disk holds.
func holds(disk io.ReaderAt, e extent, what io.Reader) error {
	wanted, found := make([]byte, mib), make([]byte, mib)
	for at := e.start; at < e.end; at += mib {
		n := min(mib, e.end-at)
		if _, err := io.ReadFull(what, wanted[:n]); err != nil {
			return err
		}
		if _, err := disk.ReadAt(found[:n], at); err != nil {
			return fail.Wrap(fail.Build, damaged, err)
		}
		if !bytes.Equal(wanted[:n], found[:n]) {
			return fail.New(fail.Build, "", "", damaged)
		}
	}
	return nil
}
