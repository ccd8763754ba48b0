// Package image converts the raw disk into the formats that people use, and
// measures the results.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Convert is the command that writes raw as an image of the format.
func Convert(raw, format, out string) host.Command {
	to := diskformat.Named(format)
	args := append([]string{"convert", "-f", diskformat.Raw, "-O", to.QEMU}, to.Options...)
	return host.Cmd("qemu-img", append(args, raw, out)...)
}

// Unpack is the command that writes an image of the format as a raw disk, with holes.
// QEMU opens what an image names, so it is for images that Open has passed.
func Unpack(file *os.File, format, out string) host.Command {
	return host.Cmd("qemu-img", "convert", "-f", diskformat.Named(format).QEMU, "-O", diskformat.Raw, "-m", "16", "-W", "-S", "64k", "-t", "unsafe", Name(file), out)
}

// Name is a name of an open file in which QEMU expands nothing, for as long as it is open.
func Name(file *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()) }

// Compare is the command that fails unless both images hold the same disk.
// qemu-img check does not notice a half-written file; this does.
func Compare(raw, format, out string) host.Command {
	return host.Cmd("qemu-img", "compare", "-q", "-f", diskformat.Raw, "-F", diskformat.Named(format).QEMU, raw, out)
}

// Make writes the raw disk with that SHA-256 as an image of the format, and compares them.
// The image is the same under every name, but for a VMDK, which holds its own.
func Make(ctx context.Context, h host.Host, raw, content, format, out string) (File, error) {
	written := filepath.Join(filepath.Dir(out), ".image."+format)
	if err := write(ctx, h, raw, format, written, filepath.Base(out)); err != nil {
		return File{}, err
	}
	if err := Identify(written, format, content); err != nil {
		return File{}, err
	}
	if err := os.Rename(written, out); err != nil {
		return File{}, err
	}
	if size, same := sameSize(raw, out); same && format == diskformat.Raw { // they were compared
		return File{Name: filepath.Base(out), Format: format, Size: size, VirtualSize: size, SHA256: content}, nil
	}
	return Measure(ctx, h, out, format)
}

func sameSize(one, other string) (size int64, same bool) {
	a, err := os.Stat(one)
	b, failed := os.Stat(other)
	if err != nil || failed != nil || a.Size() != b.Size() {
		return 0, false
	}
	return a.Size(), true
}

// Write makes out an image of the format from raw and checks it.
func Write(ctx context.Context, h host.Host, raw, format, out string) error {
	return write(ctx, h, raw, format, out, filepath.Base(out))
}

// write writes an image that will be called name.
func write(ctx context.Context, h host.Host, raw, format, out, name string) (err error) {
	if format == diskformat.VMDK {
		err = writeVMDK(ctx, raw, out, name)
	} else {
		err = h.Run(ctx, Convert(raw, format, out))
	}
	if err != nil {
		return err
	}
	if format == diskformat.VHDX {
		return compareVHDX(ctx, raw, out)
	}
	return h.Run(ctx, Compare(raw, format, out))
}

// Identify gives the image of a disk with that SHA-256 identifiers that derive from it.
func Identify(path, format, content string) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return diskformat.Named(format).Identify(file, content)
}

// File is an image as it lies on disk.
type File struct {
	Name        string `json:"name"`
	Format      string `json:"format"`
	Size        int64  `json:"size"`         // bytes
	VirtualSize int64  `json:"virtual_size"` // bytes, of the disk inside
	SHA256      string `json:"sha256"`
}

// Measure reads what File tells of an image of the format.
func Measure(ctx context.Context, h host.Host, path, format string) (File, error) {
	file := File{Name: filepath.Base(path), Format: format}
	var err error
	if file.VirtualSize, err = VirtualSize(ctx, h, path, format); err != nil {
		return File{}, err
	}
	file.SHA256, file.Size, err = Digest(ctx, path)
	return file, err
}

// VirtualSize is how many bytes the disk in an image of the format has.
func VirtualSize(ctx context.Context, h host.Host, path, format string) (size int64, err error) {
	out, err := h.Output(ctx, Info(path, format))
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(out, &struct {
		VirtualSize *int64 `json:"virtual-size"`
	}{&size}); err != nil {
		return 0, fmt.Errorf("qemu-img info %s: %w", path, err)
	}
	return size, nil
}

// Info is the command that describes an image of the format. QEMU opens what an
// image names, so it is for images that were made here.
func Info(path, format string) host.Command {
	return host.Cmd("qemu-img", "info", "--output=json", "-f", diskformat.Named(format).QEMU, path)
}

// Digest is the SHA-256 of a file, in hexadecimal, and its size in bytes. The
// holes of a sparse file are hashed as the zeros they stand for, but not read:
// that would fill the page cache with them. It ends with its context.
func Digest(ctx context.Context, path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	hash := sha256.New()
	for size < info.Size() {
		data, hole := files.NextData(f, size, info.Size())
		if _, err := io.Copy(hash, files.UntilDone(ctx, io.LimitReader(zeros{}, data-size))); err != nil {
			return "", 0, err
		}
		if _, err := io.Copy(hash, files.UntilDone(ctx, io.NewSectionReader(f, data, hole-data))); err != nil {
			return "", 0, err
		}
		size = hole
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}

// zeros is an endless reader of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
