package product

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
	"github.com/btw-img/btw-img/orchestrator/text"
)

//go:embed machine.ovf
var ovfTemplate string

//go:embed Vagrantfile
var vagrantfileTemplate string

const (
	mib = 1 << 20
	gib = 1 << 30
)

// described is what templates tell of a machine.
type described struct {
	Subject
	File               string // that has the disk
	FileSize, Capacity int64  // bytes
	MiB                int64  // of memory
	Machine, Loader    string // QEMU's, and the firmware's file
}

func (w *work) described() described {
	return described{
		Subject: w.Subject, Capacity: w.Size, MiB: w.Memory / mib,
		Machine: arch.Target.QEMU.Machine, Loader: arch.Target.FirmwareNamed(arch.UEFI).Code,
	}
}

func render(source string, values any) ([]byte, error) {
	escaped := func(s string) (string, error) {
		var b strings.Builder
		err := xml.EscapeText(&b, []byte(s))
		return b.String(), err
	}
	t, err := template.New("").Funcs(template.FuncMap{"xml": escaped, "word": text.Word}).Parse(source)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, values)
	return b.Bytes(), err
}

// disk writes the disk in a format for an archive, and compares it.
func (w *work) disk(format, name string) (image.File, error) {
	return image.Make(w.ctx, w.host, w.Disk, w.SHA256, format, filepath.Join(w.scratch, name))
}

// ova writes a package of the Open Virtualization Format (DMTF DSP0243 1.1.1): the
// description first, then the digests, then the disk.
func (w *work) ova() error {
	made, err := w.disk(diskformat.VMDK, w.Base+"-disk1."+diskformat.VMDK)
	if err != nil {
		return err
	}
	about := w.described()
	about.File, about.FileSize = made.Name, made.Size
	about.Description = strings.TrimSpace("Debian " + w.Version)
	ovf, err := render(ovfTemplate, about)
	if err != nil {
		return err
	}
	name := w.Base + ".ovf"
	digests := fmt.Sprintf("SHA256(%s)= %s\nSHA256(%s)= %s\n", name, sha256Of(ovf), made.Name, made.SHA256)
	err = w.pack(w.own(), []member{
		{name: name, content: ovf}, {name: w.Base + ".mf", content: []byte(digests)}, {name: made.Name, file: filepath.Join(w.scratch, made.Name)},
	}, uncompressed)
	if err != nil {
		return err
	}
	return w.finished(w.own(), w.Size)
}

// box writes a box of Vagrant for its provider libvirt.
func (w *work) box() error {
	if _, err := w.disk(diskformat.QCOW2, "box.img"); err != nil {
		return err
	}
	metadata, err := json.Marshal(map[string]any{"provider": "libvirt", "format": diskformat.QCOW2, "virtual_size": (w.Size + gib - 1) / gib})
	if err != nil {
		return err
	}
	vagrantfile, err := render(vagrantfileTemplate, w.described())
	if err != nil {
		return err
	}
	err = w.pack(w.own(), []member{
		{name: "metadata.json", content: append(metadata, '\n')}, {name: "Vagrantfile", content: vagrantfile}, {name: "box.img", file: filepath.Join(w.scratch, "box.img")},
	}, gzipped)
	if err != nil {
		return err
	}
	return w.finished(w.own(), w.Size)
}

// gce writes what Google Compute Engine imports: a raw disk of whole GiB by the name of
// disk.raw. Where the disk grows, so does its partition table.
func (w *work) gce() error {
	path, size := filepath.Join(w.scratch, "disk.raw"), (w.Size+gib-1)/gib*gib
	if err := w.grown(w.ctx, w.host, path, size); err != nil {
		return err
	}
	if err := w.pack(w.own(), []member{{name: "disk.raw", file: path}}, gzipped); err != nil {
		return err
	}
	return w.finished(w.own(), size)
}

// grown copies the disk to one of another size; the second table of a GPT moves to its end.
func (s Subject) grown(ctx context.Context, h host.Host, path string, size int64) error {
	from, err := os.Open(s.Disk)
	if err != nil {
		return err
	}
	defer from.Close()
	table, err := rawdisk.ReadTable(from, s.Size)
	if err != nil {
		return err
	}
	to, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := to.Truncate(size); err != nil {
		return err
	}
	if err := files.CopySparse(ctx, to, 0, from, 0, s.Size); err != nil {
		return err
	}
	if table.Kind != rawdisk.GPT || size == s.Size {
		return nil
	}
	return h.Run(ctx, MoveBackupTable(path))
}

// MoveBackupTable is the command that puts the second table of a GPT to the end of its disk.
func MoveBackupTable(disk string) host.Command {
	return host.Cmd("sfdisk", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", disk)
}
