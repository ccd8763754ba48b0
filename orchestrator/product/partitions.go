package product

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

//go:embed restore.sh
var restoreTemplate string

// bootCode is how much of the first sector is a program, in bytes; what follows is the disk's
// identifier and its table.
const bootCode = 440

// How the content of a partition is kept.
const (
	asPartclone = "partclone" // the blocks in use
	asRaw       = "raw"       // all bytes
)

// partitionImage is a partition in a file.
type partitionImage struct {
	rawdisk.Partition
	Filesystem string `json:"filesystem,omitempty"`
	File       string `json:"file"`
	Format     string `json:"format"` // of the file, once it is decompressed
	SHA256     string `json:"sha256"` // of the file
}

// partitionTable is Base.partitions.json.
type partitionTable struct {
	Name       string           `json:"name"`
	Table      string           `json:"table"` // its kind
	ID         string           `json:"id"`
	Size       int64            `json:"size"` // of the disk, in bytes
	SectorSize int              `json:"sector_size"`
	Script     string           `json:"sfdisk"`    // file with the table for sfdisk(8)
	Boot       string           `json:"boot_code"` // file with the program in the first sector
	Restore    string           `json:"restore"`   // file with a script that does it all
	Partitions []partitionImage `json:"partitions"`
}

// Tools is what the script that restores it looks for before it erases anything.
func (t partitionTable) Tools() []string {
	tools := []string{"sha256sum", "blockdev", "sfdisk", "losetup", "dd", "sync", "zstd"}
	if slices.ContainsFunc(t.Partitions, func(p partitionImage) bool { return p.Format == asPartclone }) {
		tools = append(tools, "partclone.restore")
	}
	return tools
}

// script is a script of sh that restores it all, from files with those lines of sha256sum(1).
func (t partitionTable) script(sums []string) ([]byte, error) {
	return render(restoreTemplate, struct {
		partitionTable
		Sums []string
	}{t, sums})
}

// partitions writes each partition into a file of its own, and what makes a disk of them.
func (w *work) partitions() error {
	disk, err := os.Open(w.Disk)
	if err != nil {
		return err
	}
	defer disk.Close()
	table, err := rawdisk.ReadTable(disk, w.Size)
	if err != nil {
		return err
	}
	if table.Kind == rawdisk.NoTable {
		return fail.New(fail.Usage, "", "choose another format", "the disk has no partition table")
	}
	all := partitionTable{
		Name: w.Base, Table: table.Kind, ID: table.ID, Size: w.Size, SectorSize: rawdisk.SectorSize,
		Script: w.Base + ".partitions.sfdisk", Boot: w.Base + ".partitions.boot", Restore: w.Base + ".restore.sh",
	}
	var sums []string
	for _, p := range table.Partitions {
		made, err := w.partition(disk, p)
		if err != nil {
			return fmt.Errorf("partition %d: %w", p.Number, err)
		}
		all.Partitions = append(all.Partitions, made)
	}
	if err := w.tableFiles(disk); err != nil {
		return err
	}
	for _, file := range w.made {
		sums = append(sums, file.SHA256+"  "+file.Name)
	}
	script, err := all.script(sums)
	if err != nil {
		return err
	}
	document, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(w.text("restore.sh", script), w.text("partitions.json", append(document, '\n'))); err != nil {
		return err
	}
	return os.Chmod(w.path("restore.sh"), 0o755)
}

func (w *work) text(suffix string, content []byte) error {
	return w.result(suffix, func() (io.Reader, error) { return bytes.NewReader(content), nil })
}

// tableFiles writes the table as sfdisk reads it, and the program in the first sector.
func (w *work) tableFiles(disk io.ReaderAt) error {
	boot := make([]byte, bootCode)
	if err := rawdisk.ReadAll(disk, boot, 0); err != nil {
		return err
	}
	name := filepath.Join(w.scratch, "disk")
	target, err := filepath.Abs(w.Disk)
	if err == nil {
		err = os.Symlink(target, name)
	}
	if err != nil {
		return err
	}
	dump, err := w.host.Output(w.ctx, host.Cmd("sfdisk", "--dump", name))
	if err != nil {
		return err
	}
	return errors.Join(w.text("partitions.boot", boot), w.text("partitions.sfdisk", []byte(portable(string(dump), name))))
}

// ofThisDisk is what a dump tells of one disk alone.
var ofThisDisk = regexp.MustCompile(`(?m)^(device|first-lba|last-lba): .*\n`)

// portable is a dump of sfdisk's for any disk that is large enough.
func portable(dump, name string) string {
	return strings.ReplaceAll(ofThisDisk.ReplaceAllString(dump, ""), "\n"+name, "\n")
}

// partition writes one partition: of a file system that partclone knows the blocks in use,
// else all of it.
func (w *work) partition(disk *os.File, p rawdisk.Partition) (made partitionImage, err error) {
	_, kind, _ := rawdisk.Open(io.NewSectionReader(disk, p.Start, p.Size), p.Size)
	made = partitionImage{Partition: p, Filesystem: kind, Format: asRaw}
	plain := filepath.Join(w.scratch, "partition")
	if err := w.extract(disk, p, plain); err != nil {
		return made, err
	}
	suffix := fmt.Sprintf("p%d.img.zst", p.Number)
	if fs := filesystem.Named(kind); fs != nil && fs.Partclone != "" {
		suffix, made.Format = fmt.Sprintf("p%d.ptcl.zst", p.Number), asPartclone
		if plain, err = w.partclone(fs.Partclone, plain); err != nil {
			return made, err
		}
	}
	made.File = w.Base + "." + suffix
	if err := w.compress(plain, filepath.Join(w.folder, made.File)); err != nil {
		return made, err
	}
	if err := w.finished(filepath.Join(w.folder, made.File), 0); err != nil {
		return made, err
	}
	made.SHA256 = w.made[len(w.made)-1].SHA256
	return made, os.Remove(plain)
}

// extract copies a partition into a file.
func (w *work) extract(disk *os.File, p rawdisk.Partition, path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(p.Size), files.CopySparse(w.ctx, file, 0, disk, p.Start, p.Size), file.Close())
}

// partclone replaces a file system by what partclone makes of it, restores that, and makes sure
// that partclone makes the same of what was restored.
func (w *work) partclone(program, plain string) (path string, err error) {
	path = filepath.Join(w.scratch, "partclone")
	restored, again := filepath.Join(w.scratch, "restored"), filepath.Join(w.scratch, "again")
	for _, command := range []host.Command{
		w.clone(program, plain, path), w.restore(path, restored), w.clone(program, restored, again),
	} {
		if err := w.host.Run(w.ctx, command); err != nil {
			return "", err
		}
	}
	err = opened(again, func(in io.Reader) error {
		return opened(path, func(same io.Reader) error { return comparison{ctx: w.ctx}.contents(in, same) })
	})
	if err != nil {
		return "", fmt.Errorf("restore it: %w", err)
	}
	return path, errors.Join(os.Remove(plain), os.Remove(restored), os.Remove(again))
}

// clone keeps no log of its own, which would be root's alone.
func (w *work) clone(program, from, to string) host.Command {
	return host.Cmd(program, "--clone", "--quiet", "--logfile", filepath.Join(w.scratch, "log"), "--source", from, "--output", to)
}

func (w *work) restore(from, to string) host.Command {
	return host.Cmd("partclone.restore", "--quiet", "--restore_raw_file", "--logfile", filepath.Join(w.scratch, "log"), "--source", from, "--output", to)
}

// compress writes a file as zstd has it, and compares the two.
func (w *work) compress(from, to string) error {
	err := opened(from, func(in io.Reader) error {
		return create(to, func(out io.Writer) error {
			encoder, err := zstd.NewWriter(out)
			if err != nil {
				return err
			}
			return errors.Join(w.copy(encoder, in), encoder.Close())
		})
	})
	if err != nil {
		return err
	}
	return opened(to, func(in io.Reader) error {
		decoder, err := zstd.NewReader(in)
		if err != nil {
			return err
		}
		defer decoder.Close()
		return opened(from, func(same io.Reader) error { return comparison{ctx: w.ctx}.contents(decoder, same) })
	})
}
