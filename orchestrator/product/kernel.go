package product

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"path/filepath"
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
	entry, err := bootedFirst(system)
	if err != nil {
		return err
	}
	line := []byte(entry.commandLine() + "\n")
	for _, part := range []struct {
		suffix  string
		content func() (io.Reader, error)
	}{
		{"vmlinuz", inBoot(system, entry.kernel)},
		{"initrd", inBoot(system, entry.initramfs...)},
		{"cmdline", func() (io.Reader, error) { return bytes.NewReader(line), nil }},
	} {
		if part.suffix == "initrd" && len(entry.initramfs) == 0 {
			continue
		}
		if err := w.result(part.suffix, part.content); err != nil {
			return err
		}
	}
	return nil
}

// menuEntry is what an entry of GRUB's menu boots.
type menuEntry struct {
	kernel    string
	arguments []string
	initramfs []string
}

// bootedFirst is the first entry of the menu that the tree has.
func bootedFirst(system *rawdisk.System) (menuEntry, error) {
	config, err := system.ReadFile(grubConfig, largestGrubConfig)
	if err != nil {
		return menuEntry{}, err
	}
	return firstEntry(string(config))
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

// inBoot opens files that GRUB's menu names, one after the other. Where /boot has a file system
// of its own, the menu leaves that out.
func inBoot(system *rawdisk.System, names ...string) func() (io.Reader, error) {
	return func() (io.Reader, error) {
		var all []io.Reader
		var size int64
		for _, name := range names {
			all = append(all, bytes.NewReader(make([]byte, -size&3))) // archives of an initramfs begin at multiples of 4
			n, err := firstOf(system, name, path.Join("boot", name))
			if err != nil {
				return nil, err
			}
			if n == nil {
				return nil, fail.New(fail.Usage, "", "", "GRUB's menu names %s, which is not there", name)
			}
			content, err := contentOf(n)()
			if err != nil {
				return nil, err
			}
			all = append(all, content)
			size += n.Size
		}
		return io.MultiReader(all...), nil
	}
}

// contentOf opens a file of the tree.
func contentOf(n *rawdisk.Node) func() (io.Reader, error) {
	return func() (io.Reader, error) {
		content, err := n.Content()
		if err != nil {
			return nil, err
		}
		return io.NewSectionReader(content, 0, n.Size), nil
	}
}

// firstOf is the first of the files that is there, nil for none.
func firstOf(system *rawdisk.System, names ...string) (*rawdisk.Node, error) {
	for _, name := range names {
		n, err := system.Find(name)
		if err != nil {
			return nil, err
		}
		if n != nil && n.IsRegular() {
			return n, nil
		}
	}
	return nil, nil
}

// result makes a file of the format.
func (w *work) result(suffix string, content func() (io.Reader, error)) error {
	file := w.path(suffix)
	if err := w.written(file, content); err != nil {
		return err
	}
	return w.finished(file, 0)
}

// written makes a file, reads it back and compares it.
func (w *work) written(file string, content func() (io.Reader, error)) error {
	from, err := content()
	if err != nil {
		return err
	}
	if err := create(file, func(out io.Writer) error { return w.copy(out, from) }); err != nil {
		return err
	}
	return w.holds(file, content)
}

// holds compares a file with what it must be.
func (w *work) holds(file string, content func() (io.Reader, error)) error {
	from, err := content()
	if err != nil {
		return err
	}
	c := comparison{ctx: w.ctx}
	if err := opened(file, func(in io.Reader) error { return c.contents(in, from) }); err != nil {
		return fmt.Errorf("read %s back: %w", filepath.Base(file), err)
	}
	return nil
}
