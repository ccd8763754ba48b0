package flash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
)

const (
	mib        = 1 << 20
	sectorSize = 512
	// linuxData is the type of partitions that only their label says something of.
	linuxData = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	seedLabel = "cidata" // by which cloud-init finds its seed
)

// Job is what is written.
type Job struct {
	Image  *os.File // that package image has opened
	Format string
	Size   int64    // of the disk in it, in bytes
	Seed   *os.File // of cloud-init, for a partition of its own; nil for none
	Tell   func(step string)
}

// Write writes the image, reads it back, and fits the partition table to the disk: its
// copy is at the end then, and before it the seed. What fails or is interrupted leaves a disk
// that no machine starts from.
func (d *Device) Write(ctx context.Context, h host.Host, j Job) (err error) {
	if err := d.fits(j); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.invalidate())
		}
	}()
	if err := d.invalidate(); err != nil {
		return err
	}
	disk := image.Name(d.file)
	j.Tell("writing")
	write := host.Cmd("qemu-img", "convert", "-n", "-t", "none", "-f", diskformat.Named(j.Format).QEMU, "-O", diskformat.Raw, image.Name(j.Image), disk)
	if err := h.Run(ctx, write); err != nil {
		return err
	}
	j.Tell("reading back")
	compare := host.Cmd("qemu-img", "compare", "-q", "-T", "none", "--image-opts",
		fmt.Sprintf("driver=%s,file.driver=file,file.filename=%s", diskformat.Named(j.Format).QEMU, image.Name(j.Image)),
		fmt.Sprintf("driver=raw,size=%d,file.driver=host_device,file.filename=%s", j.Size, disk))
	if err := h.Run(ctx, compare); err != nil {
		return fail.Wrap(fail.Build, "the disk does not hold what was written: it may be damaged, or smaller than it says", err)
	}
	j.Tell("fitting the partition table")
	if err := d.fit(ctx, h, j, disk); err != nil {
		return err
	}
	return d.file.Sync()
}

// fits says whether image and seed have room on the disk.
func (d *Device) fits(j Job) error {
	need := j.Size
	if j.Seed != nil {
		size, err := seedSize(j.Seed)
		if err != nil {
			return err
		}
		need += size + 2*mib // aligned, before the copy of the table
	}
	if d.Size < need {
		return fail.New(fail.Usage, d.Path, "name a larger disk", "it has %s, and %s are needed", sized(d.Size), sized(need))
	}
	return nil
}

// invalidate takes away what machines start from: the first and the last MiB.
func (d *Device) invalidate() error {
	zeros := make([]byte, min(mib, d.Size))
	_, first := d.file.WriteAt(zeros, 0)
	_, last := d.file.WriteAt(zeros, d.Size-int64(len(zeros)))
	return errors.Join(first, last, d.file.Sync())
}

// fit moves the copy of the partition table to the end of the disk, and adds the seed.
func (d *Device) fit(ctx context.Context, h host.Host, j Job, disk string) error {
	table, err := readTable(ctx, h, disk)
	if err != nil || table.Label != "gpt" {
		if err == nil && j.Seed != nil {
			err = fail.New(fail.Usage, j.Seed.Name(), "write it to another disk of the machine", "the image has no GPT that a partition for the seed could be added to")
		}
		return err
	}
	sfdisk := func(input string, args ...string) error {
		c := host.Cmd("sfdisk", append([]string{"--quiet", "--no-reread", "--no-tell-kernel"}, append(args, disk)...)...)
		c.Stdin = input
		return h.Run(ctx, c)
	}
	if d.Size > j.Size {
		if err := sfdisk("", "--relocate", "gpt-bak-std"); err != nil {
			return err
		}
	}
	if j.Seed != nil {
		size, err := seedSize(j.Seed)
		if err != nil {
			return err
		}
		start := (d.Size-mib)/mib*mib - size
		if err := sfdisk(fmt.Sprintf("start=%d, size=%d, type=%s, name=%s\n", start/sectorSize, size/sectorSize, linuxData, seedLabel), "--append"); err != nil {
			return err
		}
		if _, err := j.Seed.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(d.file, start), j.Seed); err != nil {
			return err
		}
	}
	return h.Run(ctx, host.Cmd("sfdisk", "--quiet", "--verify", disk))
}

type table struct{ Label string }

// readTable is what sfdisk reads of the disk; empty where there is no table.
func readTable(ctx context.Context, h host.Host, disk string) (table, error) {
	out, err := h.Output(ctx, host.Cmd("sfdisk", "--json", disk))
	if err != nil {
		if strings.Contains(fail.Tail(err), "does not contain a recognized partition table") {
			return table{}, nil
		}
		return table{}, err
	}
	var found struct{ PartitionTable table }
	return found.PartitionTable, json.Unmarshal(out, &found)
}

// CheckSeed refuses what cloud-init would not find: anything but an ISO 9660 image of that label.
func CheckSeed(seed *os.File) error {
	descriptor := make([]byte, 72) // ECMA-119, 8.4: the identifier of the volume is the 32 bytes at 40
	if _, err := seed.ReadAt(descriptor, 16*2048); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(descriptor[1:6]) != "CD001" || !strings.EqualFold(strings.TrimSpace(string(descriptor[40:72])), seedLabel) {
		return fail.New(fail.Usage, seed.Name(), "make it with 'vmctl seed'", "it is no seed: no ISO 9660 image with the label %s", seedLabel)
	}
	return nil
}

// seedSize is the room of a seed, in whole MiB.
func seedSize(seed *os.File) (int64, error) {
	info, err := seed.Stat()
	if err != nil {
		return 0, err
	}
	return (info.Size() + mib - 1) / mib * mib, nil
}
