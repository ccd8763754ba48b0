package bootloader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Target is the tree that Apply works on.
type Target struct {
	Root      string // the tree, entered
	Scratch   string // folder for files in passing
	Initramfs bool   // it is made already
}

// Apply makes a tree bootable: packages, configuration, initramfs, and what each
// firmware runs: core.img beside grub.cfg, and the content of the ESP. It needs no
// disk; Embed puts the boot code on it. It gives the packages that are installed then. Where
// nothing is to start, it does no more.
func Apply(ctx context.Context, h host.Host, p Plan, t Target) ([]debian.Package, error) {
	packages, err := ensurePackages(ctx, h, p, t.Root)
	if err != nil || !p.Boots() {
		return packages, err
	}
	return packages, p.apply(ctx, h, t)
}

// apply is Apply, where the packages are there.
func (p Plan) apply(ctx context.Context, h host.Host, t Target) error {
	tree := host.Tree(t.Root)
	for _, f := range p.files() {
		if err := tree.Write(f.path, []byte(f.content), 0o644); err != nil {
			return err
		}
	}
	if answers := p.debconf(); answers != "" {
		preseed := host.Cmd("debconf-set-selections").In(t.Root)
		preseed.Stdin = answers
		if err := h.Run(ctx, preseed); err != nil {
			return err
		}
	}
	if err := configureInitramfs(tree); err != nil {
		return err
	}
	if !t.Initramfs {
		if err := MakeInitramfs(ctx, h, t.Root); err != nil {
			return err
		}
	}
	if err := tree.MkdirAll("/boot/grub"); err != nil {
		return err
	}
	if err := updateGrub(ctx, h, p, t); err != nil {
		return err
	}
	if err := checkRoot(tree); err != nil {
		return err
	}
	if p.BIOS {
		if err := installBIOS(ctx, h, p, t); err != nil {
			return fail.Wrap(fail.Build, "BIOS", err)
		}
	}
	if p.EFI {
		if err := installEFI(p, tree); err != nil {
			return fail.Wrap(fail.Build, "UEFI", err)
		}
	}
	return nil
}

// ensurePackages installs what the source did not bring, and gives all that is installed then.
func ensurePackages(ctx context.Context, h host.Host, p Plan, root string) ([]debian.Package, error) {
	there, err := installed(ctx, h, root)
	if err != nil {
		return nil, err
	}
	missing := slices.DeleteFunc(p.Packages(), func(name string) bool {
		return slices.ContainsFunc(there, func(p debian.Package) bool { return p.Name == name })
	})
	if len(missing) == 0 {
		return there, nil
	}
	if err := h.Run(ctx, host.Cmd("apt-get", "--quiet", "update").In(root)); err != nil {
		return nil, err
	}
	if err := h.Run(ctx, host.Cmd("apt-get", append([]string{"--quiet", "--yes", "--no-install-recommends", "install"}, missing...)...).In(root)); err != nil {
		return nil, err
	}
	return installed(ctx, h, root)
}

// installed is the packages in the entered tree at root.
func installed(ctx context.Context, h host.Host, root string) ([]debian.Package, error) {
	out, err := h.Output(ctx, host.Cmd("dpkg-query", debian.QueryArgs...).In(root))
	if err != nil {
		return nil, err
	}
	return debian.Installed(out)
}

const updateInitramfs = "/usr/sbin/update-initramfs"

// configureInitramfs sets what every initramfs has to hold.
func configureInitramfs(tree host.Tree) error {
	if !tree.Exists(updateInitramfs) {
		return nil
	}
	return tree.Write("/etc/initramfs-tools/conf.d/modules", []byte("# Boots on machines other than the one that built it.\nMODULES=most\n"), 0o644)
}

// MakeInitramfs makes the initramfs of each kernel of the entered tree at root, where
// update-initramfs knows how to; images with dracut have theirs already.
func MakeInitramfs(ctx context.Context, h host.Host, root string) error {
	tree := host.Tree(root)
	kernels, err := tree.Glob("/boot/vmlinuz-*")
	if err != nil {
		return err
	}
	if len(kernels) == 0 {
		return fail.New(fail.Build, "", "add "+arch.Target.Kernel+" to the packages of an install entry", "the image has no kernel in /boot")
	}
	if err := configureInitramfs(tree); err != nil || !tree.Exists(updateInitramfs) {
		return err
	}
	for _, kernel := range kernels {
		version := strings.TrimPrefix(path.Base(kernel), "vmlinuz-")
		if err := h.Run(ctx, host.Cmd("update-initramfs", "-c", "-k", version).In(root)); err != nil {
			return err
		}
	}
	return nil
}

// checkRoot refuses a grub.cfg that names the builder's devices.
func checkRoot(tree host.Tree) error {
	content, err := tree.Read("/boot/grub/grub.cfg")
	if err != nil {
		return err
	}
	kernels := 0
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "linux" {
			continue
		}
		kernels++
		if !strings.Contains(line, "root=UUID=") {
			return fmt.Errorf("update-grub wrote a kernel line without root=UUID=: %s", strings.TrimSpace(line))
		}
	}
	if kernels == 0 {
		return errors.New("update-grub found no kernel")
	}
	return nil
}

const (
	moduleFolder = "/usr/lib/grub/"
	grubFolder   = "/boot/grub/"
	earlyFile    = "/run/early.cfg"

	bootImage = "boot.img"
	coreImage = "core.img"
)

// biosFolder is where grub-install keeps what a BIOS runs.
func biosFolder() string { return grubFolder + arch.Target.GRUB.BIOS + "/" }

// installBIOS puts beside grub.cfg what grub-install does.
func installBIOS(ctx context.Context, h host.Host, p Plan, t Target) error {
	tree := host.Tree(t.Root)
	if err := copyModules(tree, arch.Target.GRUB.BIOS, "*.mod", "*.lst", bootImage); err != nil {
		return err
	}
	if err := tree.Write(earlyFile, []byte(p.coreConfig()), 0o644); err != nil {
		return err
	}
	if err := h.Run(ctx, p.mkimage(t.Root, earlyFile)); err != nil || !tree.Exists(liveBoot) {
		return err
	}
	return h.Run(ctx, mkCDImage(t.Root))
}

// liveBoot is in trees that can be live systems.
const liveBoot = "/usr/lib/live/boot"

// Embed puts the boot code of a bootable tree on its disk, whose image is the file
// disk: boot.img into the first sector, core.img into the BIOS boot partition.
func Embed(p Plan, root, disk string) error {
	if !p.BIOS {
		return nil
	}
	tree := host.Tree(root)
	boot, err := tree.Read(biosFolder() + bootImage)
	if err != nil {
		return err
	}
	core, err := tree.Read(biosFolder() + coreImage)
	if err != nil {
		return err
	}
	bootCode, sectors, err := embed(boot, core, p.CoreStart, p.CoreSize)
	if err != nil {
		return err
	}
	return writeAt(disk, bootCode, sectors, p.CoreStart)
}

// efiModules is what grub.cfg loads that the signed GRUB does not hold already.
var efiModules = []string{"bli.mod", "*.lst"}

// copyModules puts the platform's modules beside grub.cfg, as grub-install
// does. Patterns that match nothing are passed over, as older GRUBs lack some
// modules, but a platform without any is an error.
func copyModules(tree host.Tree, platform string, patterns ...string) error {
	copied := 0
	for _, pattern := range patterns {
		names, err := tree.Glob(moduleFolder + platform + "/" + pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			content, err := tree.Read(name)
			if err != nil {
				return err
			}
			if err := tree.Write(grubFolder+platform+"/"+path.Base(name), content, 0o644); err != nil {
				return err
			}
			copied++
		}
	}
	if copied == 0 {
		return fmt.Errorf("there are no modules in %s of the image", moduleFolder+platform)
	}
	return nil
}

// installEFI fills the folder of the ESP.
func installEFI(p Plan, tree host.Tree) error {
	if err := copyModules(tree, arch.Target.GRUB.EFI, efiModules...); err != nil {
		return err
	}
	for _, f := range p.espFiles() {
		content := []byte(f.content)
		if f.source != "" {
			var err error
			content, err = tree.Read(f.source)
			if errors.Is(err, fs.ErrNotExist) && !f.needed {
				continue
			}
			if err != nil {
				return err
			}
		}
		if err := tree.Write(path.Join(p.ESP, f.path), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
