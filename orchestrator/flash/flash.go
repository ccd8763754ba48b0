package flash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
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
// copy is at the end then, and before it the seed. What machines start from comes onto the
// disk when all else is there: what fails or is interrupted, be it by a loss of power, leaves
// a disk that nothing starts from.
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
	if err := d.writeMiddle(ctx, h, j); err != nil {
		return err
	}
	j.Tell("fitting the partition table")
	ends, err := d.ends(ctx, h, j)
	if err != nil {
		return err
	}
	defer ends.Close()
	seedAt, err := fit(ctx, h, j, ends, d.Size)
	if err == nil && j.Seed != nil {
		_, err = io.Copy(io.NewOffsetWriter(d.file, seedAt), io.NewSectionReader(j.Seed, 0, math.MaxInt64))
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if err := settle(d.file, ends, d.Size); err != nil {
		return err
	}
	return d.check(j, ends, seedAt)
}

// fits says whether image and seed have room on the disk.
func (d *Device) fits(j Job) error {
	need := max(j.Size, 2*mib) // its ends
	if j.Seed != nil {
		size, err := seedSize(j.Seed)
		if err != nil {
			return err
		}
		need = j.Size + size + 2*mib // aligned, before the copy of the table
	}
	if d.Size < need {
		return fail.New(fail.Usage, d.Path, "name a larger disk", "it has %s, and %s are needed", sized(d.Size), sized(need))
	}
	return nil
}

// writeMiddle writes what of the image is between the ends of the disk, and compares it.
func (d *Device) writeMiddle(ctx context.Context, h host.Host, j Job) error {
	j.Tell("writing")
	middle := extent{min(mib, j.Size), min(j.Size, d.Size-mib)}
	if middle.empty() {
		return nil
	}
	disk := onto("host_device", d.file, middle)
	if err := h.Run(ctx, j.convert(middle, "none", disk)); err != nil {
		return err
	}
	j.Tell("reading back")
	compare := host.Cmd("qemu-img", "compare", "-q", "-T", "none", "--image-opts", j.part(middle), disk)
	return fail.Wrap(fail.Build, damaged, h.Run(ctx, compare))
}

// convert is the command that writes a part of the image in the place that options of QEMU tell.
func (j Job) convert(part extent, cache, place string) host.Command {
	return host.Cmd("qemu-img", "convert", "-n", "-t", cache, "--image-opts", "--target-image-opts", j.part(part), place)
}

// part is the options by which QEMU sees a part of the disk in the image.
func (j Job) part(e extent) string {
	return fmt.Sprintf("driver=raw,offset=%d,size=%d,file.driver=%s,file.file.driver=file,file.file.filename=%s",
		e.start, e.end-e.start, diskformat.Named(j.Format).QEMU, image.Name(j.Image))
}

// onto is the same for a part of a disk or of a file.
func onto(driver string, file *os.File, e extent) string {
	return fmt.Sprintf("driver=raw,offset=%d,size=%d,file.driver=%s,file.filename=%s", e.start, e.end-e.start, driver, image.Name(file))
}

// fit moves the copy of the partition table to the end of a disk of that size, of which there
// are but the ends, and adds a partition for the seed, which is from seedAt on.
func fit(ctx context.Context, h host.Host, j Job, ends *os.File, size int64) (seedAt int64, err error) {
	disk := image.Name(ends)
	table, err := readTable(ctx, h, disk)
	if err != nil || table.Label != "gpt" {
		if err == nil && j.Seed != nil {
			err = fail.New(fail.Usage, j.Seed.Name(), "write it to another disk of the machine", "the image has no GPT that a partition for the seed could be added to")
		}
		return 0, err
	}
	sfdisk := func(input string, args ...string) error {
		c := host.Cmd("sfdisk", append([]string{"--quiet", "--no-reread", "--no-tell-kernel"}, append(args, disk)...)...)
		c.Stdin = input
		return h.Run(ctx, c)
	}
	if size > j.Size {
		if err := sfdisk("", "--relocate", "gpt-bak-std"); err != nil {
			return 0, err
		}
	}
	if j.Seed != nil {
		room, err := seedSize(j.Seed)
		if err != nil {
			return 0, err
		}
		seedAt = (size-mib)/mib*mib - room
		if err := sfdisk(fmt.Sprintf("start=%d, size=%d, type=%s, name=%s\n", seedAt/sectorSize, room/sectorSize, linuxData, seedLabel), "--append"); err != nil {
			return 0, err
		}
	}
	return seedAt, h.Run(ctx, host.Cmd("sfdisk", "--quiet", "--verify", disk))
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
