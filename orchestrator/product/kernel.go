package product

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

const (
	grubConfig        = "boot/grub/grub.cfg"
	largestGrubConfig = 1 << 20 // bytes
	virtioConsole     = "console=hvc0"
)

// kernel writes what a machine needs that boots the disk without its boot loader: kernel,
// initramfs and command line of the first entry in GRUB's menu.
func (w *work) kernel() error {
	system, disk, err := w.system()
	if err != nil {
		return err
	}
	defer disk.Close()
	config, err := system.ReadFile(grubConfig, largestGrubConfig)
	if err != nil {
		return err
	}
	entry, err := firstEntry(string(config))
	if err != nil {
		return err
	}
	for _, part := range []struct {
		suffix string
		names  []string
	}{{"vmlinuz", []string{entry.kernel}}, {"initrd", entry.initramfs}} {
		if err := w.copyOut(system, part.suffix, part.names); err != nil {
			return err
		}
	}
	line := []byte(entry.commandLine() + "\n")
	if err := w.written("cmdline", func() (io.Reader, error) { return bytes.NewReader(line), nil }); err != nil {
		return err
	}
	return nil
}

// menuEntry is what an entry of GRUB's menu boots.
type menuEntry struct {
	kernel    string
	arguments []string
	initramfs []string
}

// firstEntry reads the first entry that boots Linux, as grub-mkconfig(8) writes it.
func firstEntry(config string) (entry menuEntry, err error) {
	for line := range strings.Lines(config) {
		words := strings.Fields(line)
		switch {
		case len(words) < 2:
		case words[0] == "linux" && entry.kernel == "":
			entry.kernel = words[1]
			for _, word := range words[2:] {
				if !strings.HasPrefix(word, "$") {
					entry.arguments = append(entry.arguments, word)
				}
			}
		case words[0] == "initrd" && entry.kernel != "":
			entry.initramfs = words[1:]
			return entry, nil
		case words[0] == "menuentry" && entry.kernel != "":
			return entry, nil
		}
	}
	if entry.kernel == "" {
		return entry, fail.New(fail.Usage, "", "choose another format", "GRUB's menu has no Linux (/%s)", grubConfig)
	}
	return entry, nil
}

// commandLine is the kernel's, which speaks on the console of virtio as well. The consoles
// that it had before stay the last ones, of which the last is /dev/console.
func (m menuEntry) commandLine() string {
	if slices.Contains(m.arguments, virtioConsole) {
		return strings.Join(m.arguments, " ")
	}
	at := slices.IndexFunc(m.arguments, func(word string) bool { return strings.HasPrefix(word, "console=") })
	if at < 0 {
		at = len(m.arguments)
	}
	return strings.Join(slices.Insert(slices.Clone(m.arguments), at, virtioConsole), " ")
}

// copyOut writes files of the tree, one after the other, into one.
func (w *work) copyOut(system *rawdisk.System, suffix string, names []string) error {
	var nodes []*rawdisk.Node
	for _, name := range names {
		n, err := inBoot(system, name)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	if len(nodes) == 0 {
		return nil
	}
	return w.written(suffix, func() (io.Reader, error) {
		var all []io.Reader
		for _, n := range nodes {
			content, err := n.Content()
			if err != nil {
				return nil, err
			}
			all = append(all, io.NewSectionReader(content, 0, n.Size))
		}
		return io.MultiReader(all...), nil
	})
}

// inBoot finds a file that GRUB's menu names. Where /boot has a file system of its own, the
// menu leaves that out.
func inBoot(system *rawdisk.System, name string) (*rawdisk.Node, error) {
	for _, candidate := range []string{name, path.Join("boot", name)} {
		n, err := system.Find(candidate)
		if err != nil {
			return nil, err
		}
		if n != nil && n.IsRegular() {
			return n, nil
		}
	}
	return nil, fail.New(fail.Usage, "", "", "GRUB's menu names %s, which is not there", name)
}

// written makes a file of the format, reads it back and compares it.
func (w *work) written(suffix string, content func() (io.Reader, error)) error {
	from, err := content()
	if err != nil {
		return err
	}
	file := w.path(suffix)
	if err := create(file, func(out io.Writer) error { return w.copy(out, from) }); err != nil {
		return err
	}
	if from, err = content(); err != nil {
		return err
	}
	c := comparison{ctx: w.ctx}
	if err := opened(file, func(in io.Reader) error { return c.contents(in, from) }); err != nil {
		return fmt.Errorf("read %s back: %w", suffix, err)
	}
	return w.finished(file, 0)
}
