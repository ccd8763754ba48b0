package proof

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Machine is all that decides how a disk comes up, but for the disk.
type Machine struct {
	QEMU      string            `json:"qemu"`                // what it says of its version
	Files     map[string]string `json:"files"`               // SHA-256 of QEMU and of the firmware, by their names
	Command   string            `json:"command"`             // how QEMU is called, but for files that each run has of its own
	Processor string            `json:"processor,omitempty"` // of the host, where guests see it
}

// describer describes machines. It asks QEMU once.
type describer struct {
	host host.Host

	once    sync.Once
	qemu    string   // path
	version string   // of QEMU
	folders []string // of the files that it brings
	err     error
}

func (d *describer) machine(ctx context.Context, m vm.Machine) (Machine, error) {
	d.once.Do(func() { d.err = d.ask(ctx) })
	if d.err != nil {
		return Machine{}, d.err
	}
	described := Machine{QEMU: d.version, Files: map[string]string{}, Command: m.Command().String()}
	if m.Accel == vm.AccelKVM {
		described.Processor = host.Processor()
	}
	firmware := arch.Target.FirmwareNamed(m.Firmware)
	paths := append([]string{d.qemu}, firmware.Files()...)
	for _, name := range firmware.ROMs {
		rom, err := d.rom(name)
		if err != nil {
			return Machine{}, err
		}
		paths = append(paths, rom)
	}
	for _, path := range paths {
		digest, _, err := image.Digest(ctx, path)
		if err != nil {
			return Machine{}, err
		}
		described.Files[filepath.Base(path)] = digest
	}
	return described, nil
}

// ask has QEMU say its version and where the files are that it brings.
func (d *describer) ask(ctx context.Context) error {
	d.qemu = host.Find(arch.Target.QEMU.Binary)
	version, err := d.host.Output(ctx, host.Cmd(arch.Target.QEMU.Binary, "--version"))
	if err != nil {
		return err
	}
	d.version, _, _ = strings.Cut(string(version), "\n")
	folders, err := d.host.Output(ctx, host.Cmd(arch.Target.QEMU.Binary, "-L", "help"))
	d.folders = strings.Fields(string(folders))
	return err
}

// rom is the path of a file that QEMU brings: the first one that it finds.
func (d *describer) rom(name string) (string, error) {
	for _, folder := range d.folders {
		path := filepath.Join(folder, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
}
