// Package product makes a finished disk into what people want of it: images in the formats of
// package format. Each is read back and compared with the disk, or with the tree that is on
// it. What it writes depends on the disk and on Subject alone.
package product

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// Subject is a disk, and what its formats tell of it.
type Subject struct {
	Disk        string    // file of the raw disk
	Size        int64     // bytes
	SHA256      string    // of the raw disk, in hexadecimal
	Base        string    // of the names of files
	Name        string    // of the build
	Version     string    // number of the Debian release, "" for unknown
	Description string    // in a line, "" for none
	Epoch       time.Time // after which nothing in it was changed
	Memory      int64     // bytes, for a machine of it
	CPUs        int
	UEFI        bool // it does not boot on a BIOS
}

// writers is how the formats of package format are written that are no images of disks.
var writers = map[string]func(*work) error{
	format.Tar:        (*work).tar,
	format.OCI:        (*work).oci,
	format.Squashfs:   (*work).squashfs,
	format.OVA:        (*work).ova,
	format.Box:        (*work).box,
	format.GCE:        (*work).gce,
	format.Partitions: (*work).partitions,
	format.Kernel:     (*work).kernel,
	format.ISO:        (*work).live,
}

// work is one format of a disk in the making.
type work struct {
	Subject
	ctx     context.Context
	host    host.Host
	format  string
	folder  string // for the files
	scratch string // for files in passing
	made    []image.File
}

// Make writes the disk in a format into a folder, and says what files it consists of. What
// lies there after an error is not whole. A disk that lacks what the format needs is wrong
// usage.
func Make(ctx context.Context, h host.Host, name string, of Subject, folder string) (made []image.File, err error) {
	if folder, err = filepath.Abs(folder); err != nil { // tools would take some relative names for options
		return nil, err
	}
	if diskformat.Named(name).Written {
		file, err := makeDisk(ctx, h, name, of, folder)
		return []image.File{file}, err
	}
	w := &work{Subject: of, ctx: ctx, host: h, format: name, folder: folder}
	if w.scratch, err = os.MkdirTemp(folder, ".scratch-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(w.scratch)) }()
	if err := writers[name](w); err != nil {
		return nil, fail.Wrap(fail.Build, "write "+name, err)
	}
	return w.made, nil
}

func makeDisk(ctx context.Context, h host.Host, name string, of Subject, folder string) (made image.File, err error) {
	out := filepath.Join(folder, of.Base+"."+format.Named(name).Suffix)
	if whole := diskformat.Named(name).Whole; whole > 0 && of.Size%whole != 0 {
		grown := filepath.Join(folder, ".grown")
		defer func() { err = errors.Join(err, os.Remove(grown)) }()
		if err := of.grown(ctx, h, grown, (of.Size+whole-1)/whole*whole); err != nil {
			return made, err
		}
		of.Disk = grown
	}
	return image.Make(ctx, h, of.Disk, of.SHA256, name, out)
}

// Unreadable is why the format cannot be made of a disk, nil where it can. It costs little.
func Unreadable(name, disk string) error {
	if !format.Named(name).Tree {
		return nil
	}
	system, file, err := openSystem(disk)
	if err != nil {
		return err
	}
	defer file.Close()
	if name == format.ISO {
		return notLive(system)
	}
	return nil
}

// path is where a file of the format goes.
func (w *work) path(suffix string) string { return filepath.Join(w.folder, w.Base+"."+suffix) }

// own is the path of the format's first or only file.
func (w *work) own() string { return w.path(format.Named(w.format).Suffix) }

// finished notes a file that is whole, and that holds a disk of so many bytes, or none.
func (w *work) finished(path string, virtual int64) error {
	sum, size, err := image.Digest(w.ctx, path)
	w.made = append(w.made, image.File{Name: filepath.Base(path), Format: w.format, Size: size, VirtualSize: virtual, SHA256: sum})
	return err
}

// system is the tree on the disk, for as long as the file is open.
func (w *work) system() (*rawdisk.System, *os.File, error) { return openSystem(w.Disk) }

func openSystem(disk string) (*rawdisk.System, *os.File, error) {
	file, err := os.Open(disk)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var system *rawdisk.System
		if system, err = rawdisk.OpenSystem(file, info.Size()); err == nil {
			return system, file, nil
		}
	}
	file.Close()
	return nil, nil, err
}

func (w *work) copy(out io.Writer, in io.Reader) error {
	_, err := files.Copy(w.ctx, out, in)
	return err
}

func sha256Of(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
