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

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Formats of images.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
	VMDK  = "vmdk" // VMware; the stream-optimized kind, which all its products import
	VHDX  = "vhdx" // Hyper-V
	VDI   = "vdi"  // VirtualBox
)

// Convert is the command that writes raw as an image of the format.
func Convert(raw, format, out string) host.Command {
	args := []string{"convert", "-f", Raw, "-O", format}
	switch format {
	case QCOW2:
		// Each cluster is compressed by itself; larger ones make the image smaller.
		args = append(args, "-c", "-o", "compression_type=zstd,cluster_size=256k", "-m", "16", "-W")
	case VMDK:
		args = append(args, "-o", "subformat=streamOptimized")
	}
	return host.Cmd("qemu-img", append(args, raw, out)...)
}

// Compare is the command that fails unless both images hold the same disk.
// qemu-img check does not notice a half-written file; this does.
func Compare(raw, format, out string) host.Command {
	return host.Cmd("qemu-img", "compare", "-q", "-f", Raw, "-F", format, raw, out)
}

// Write makes out an image of the format from raw and checks it.
func Write(ctx context.Context, h host.Host, raw, format, out string) error {
	if err := h.Run(ctx, Convert(raw, format, out)); err != nil {
		return err
	}
	return h.Run(ctx, Compare(raw, format, out))
}

// File is an image as it lies on disk.
type File struct {
	Name        string `json:"name"`
	Format      string `json:"format"`
	Size        int64  `json:"size"`         // bytes
	VirtualSize int64  `json:"virtual_size"` // bytes, of the disk inside
	SHA256      string `json:"sha256"`
}

// Measure reads what File tells.
func Measure(ctx context.Context, h host.Host, path string) (File, error) {
	info, err := Inspect(ctx, h, path)
	if err != nil {
		return File{}, err
	}
	sum, size, err := Digest(ctx, path)
	if err != nil {
		return File{}, err
	}
	return File{Name: filepath.Base(path), Format: info.Format, Size: size, VirtualSize: info.VirtualSize, SHA256: sum}, nil
}

// Info is what qemu-img knows of an image.
type Info struct {
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual-size"`
	Backing     string `json:"backing-filename"`
}

// Inspect asks qemu-img. An image that names a backing file is refused, since
// it could make QEMU open any file of the host.
func Inspect(ctx context.Context, h host.Host, path string) (Info, error) {
	if _, err := os.Stat(path); err != nil {
		return Info{}, &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a disk image"}
	}
	out, err := h.Output(ctx, host.Cmd("qemu-img", "info", "--output=json", path))
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(out, &info); err != nil {
		return Info{}, fmt.Errorf("qemu-img info %s: %w", path, err)
	}
	if info.Backing != "" {
		return Info{}, fail.New(fail.Usage, path, "convert it to an image of its own with qemu-img convert", "it depends on %s", info.Backing)
	}
	return info, nil
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
		data, hole := nextData(f, size, info.Size())
		if _, err := io.Copy(hash, untilDone{ctx, io.LimitReader(zeros{}, data-size)}); err != nil {
			return "", 0, err
		}
		if _, err := io.Copy(hash, untilDone{ctx, io.NewSectionReader(f, data, hole-data)}); err != nil {
			return "", 0, err
		}
		size = hole
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}

// nextData is where the next data from offset on starts and ends (lseek(2),
// SEEK_DATA and SEEK_HOLE). Where the file system cannot tell, all is data.
func nextData(f *os.File, offset, size int64) (start, end int64) {
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

// zeros is an endless reader of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// untilDone is a reader that ends with its context.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
