// Package flash writes the disk in an image onto a disk of this machine. It refuses a disk
// that anything uses.
package flash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Device is a whole disk that is open and nobody else's.
type Device struct {
	Path   string   `json:"path"`
	Size   int64    `json:"size"` // bytes
	Model  string   `json:"model,omitempty"`
	Serial string   `json:"serial,omitempty"`
	Holds  []string `json:"holds"` // what is on it, for people; empty for nothing that is known

	file *os.File
}

// Open opens the disk at path for writing. Partitions, disks that are read-only or whose sectors
// do not have 512 bytes, and such of which anything is mounted or in use, are refused.
func Open(ctx context.Context, h host.Host, path string) (*Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a disk, such as /dev/sdb; 'lsblk' lists them"}
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return nil, fail.New(fail.Usage, path, "name a disk, such as /dev/sdb; 'vmctl convert' writes files", "it is no disk")
	}
	d := &Device{Path: path}
	if err := d.describe(ctx, h); err != nil {
		return nil, err
	}
	if d.file, err = os.OpenFile(path, os.O_RDWR|os.O_EXCL|unix.O_CLOEXEC, 0); err != nil {
		return nil, refused(path, err)
	}
	return d, nil
}

// refused explains why the kernel does not open the disk for writing by us alone.
func refused(path string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fail.New(fail.Usage, path, "unmount it, or name another disk", "it is in use")
	case errors.Is(err, fs.ErrPermission):
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "use sudo, or have an administrator give you the disk"}
	case errors.Is(err, unix.EROFS):
		return fail.New(fail.Usage, path, "unlock it, or name another disk", "it is read-only")
	}
	return fail.Wrap(fail.Host, "open the disk", err)
}

// Close lets others have the disk again. Where the kernel reads partition tables, it reads
// the new one.
func (d *Device) Close() error {
	err := d.file.Close()
	if file, opening := os.OpenFile(d.Path, os.O_RDONLY|unix.O_CLOEXEC, 0); opening == nil {
		_ = unix.IoctlSetInt(int(file.Fd()), unix.BLKRRPART, 0) // a loop device without partitions refuses
		_ = file.Close()
	}
	return err
}

// node is what lsblk(8) tells of a disk or of what is on it.
type node struct {
	Name        string
	Path        string
	Type        string
	Size        int64
	Model       string
	Serial      string
	FSType      string
	Label       string
	PartLabel   string
	RO          bool
	LogSec      int64 `json:"log-sec"` // bytes of a logical sector
	MountPoints []string
	Children    []node
}

// describe asks lsblk what the disk is and what is on it.
func (d *Device) describe(ctx context.Context, h host.Host) error {
	out, err := h.Output(ctx, host.Cmd("lsblk", "--json", "--bytes", "--output", "NAME,PATH,TYPE,SIZE,MODEL,SERIAL,FSTYPE,LABEL,PARTLABEL,RO,LOG-SEC,MOUNTPOINTS", d.Path))
	if err != nil {
		return fail.Wrap(fail.Host, "look at the disk", err)
	}
	var found struct{ BlockDevices []node }
	if err := json.Unmarshal(out, &found); err != nil || len(found.BlockDevices) != 1 {
		return fail.New(fail.Host, d.Path, "", "lsblk does not describe it: %v", err)
	}
	disk := found.BlockDevices[0]
	switch {
	case disk.Type == "part":
		return fail.New(fail.Usage, d.Path, "name the whole disk", "it is a partition")
	case disk.RO:
		return fail.New(fail.Usage, d.Path, "unlock it, or name another disk", "it is read-only")
	case disk.LogSec != sectorSize: // the table of an image, and the boot code, count sectors
		return fail.New(fail.Usage, d.Path, "name another disk, or have this one show sectors of 512 bytes, as 'nvme format' and 'hdparm --set-sector-size' can",
			"its sectors have %d bytes: no machine would start from it, since images are of disks whose sectors have %d", disk.LogSec, sectorSize)
	}
	if used := disk.mounted(); len(used) > 0 {
		return fail.New(fail.Usage, d.Path, "unmount it, or name another disk", "it is in use: %s", strings.Join(used, ", "))
	}
	d.Size, d.Model, d.Serial = disk.Size, strings.TrimSpace(disk.Model), strings.TrimSpace(disk.Serial)
	d.Holds = disk.holds()
	return nil
}

// mounted is where anything of it is mounted.
func (n node) mounted() []string {
	var used []string
	for _, at := range n.MountPoints {
		if at != "" {
			used = append(used, fmt.Sprintf("%s on %s", filepath.Base(n.Path), at))
		}
	}
	for _, child := range n.Children {
		used = append(used, child.mounted()...)
	}
	return used
}

// holds is what is on it, in words.
func (n node) holds() []string {
	var found []string
	for _, child := range n.Children {
		words := []string{child.Name + ":", sized(child.Size)}
		for _, word := range []string{child.FSType, child.Label, child.PartLabel} {
			if word != "" && !slices.Contains(words, fmt.Sprintf("%q", word)) {
				words = append(words, fmt.Sprintf("%q", word))
			}
		}
		found = append(found, strings.Join(words, " "))
		found = append(found, child.holds()...)
	}
	if len(n.Children) == 0 && n.Type != "part" && n.FSType != "" {
		found = append(found, strings.TrimSpace(fmt.Sprintf("%s %q", n.FSType, n.Label)))
	}
	return found
}

// sized is a number of bytes, in words.
func sized(bytes int64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}

// String is what a person knows the disk by.
func (d *Device) String() string {
	words := []string{d.Path + ",", sized(d.Size)}
	for _, word := range []string{d.Model, d.Serial} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}
