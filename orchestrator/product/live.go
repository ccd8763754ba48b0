package product

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// A live system is on a medium that is only read: GRUB starts the tree's kernel with an
// initramfs of live-boot(7), which mounts the tree as a squashfs and keeps in memory what is
// written. Kernel, initramfs and tree lie in a folder named after the disk's digest: by that
// GRUB and live-boot find this medium among others.

// liveBoot is where a tree has live-boot.
const liveBoot = "usr/lib/live/boot"

// Files on the medium.
const (
	liveGrubImage = "boot/grub/eltorito.img"
	liveInfo      = ".disk/info"
	// liveEFIConfig is read by signed GRUB, on the device that the firmware says it came from:
	// the EFI system partition, or all of the medium.
	liveEFIConfig = "EFI/debian/grub.cfg"
	removable     = "EFI/BOOT" // UEFI 2.10, 3.5.1.1
)

// espFolders is where the EFI system partition of a disk may be mounted.
var espFolders = []string{"boot/efi", "efi", "boot"}

// liveMedium is what goes onto a medium.
type liveMedium struct {
	*work
	folder string // with the files of the medium
	place  string // of the system, in it
	entry  menuEntry
	bios   *rawdisk.Node            // El Torito boot image of GRUB; nil for a disk that needs UEFI
	hybrid *rawdisk.Node            // boot code that loads it where the medium is a disk
	efi    map[string]*rawdisk.Node // programs of the folder removable; none for a disk that needs a BIOS
	system *rawdisk.System
}

// live writes a hybrid ISO 9660 image, of a CD as of a disk, that boots on each firmware that
// the disk boots on.
func (w *work) live() error {
	system, disk, err := w.system()
	if err != nil {
		return err
	}
	defer disk.Close()
	l := &liveMedium{work: w, folder: filepath.Join(w.scratch, liveFolder), place: path.Join("live", w.SHA256[:16]), efi: map[string]*rawdisk.Node{}, system: system}
	if err := l.find(); err != nil {
		return err
	}
	squashfs := filepath.Join(l.folder, l.place, "filesystem.squashfs")
	if err := os.MkdirAll(filepath.Dir(squashfs), 0o755); err != nil {
		return err
	}
	if err := w.writeSquashfs(squashfs); err != nil {
		return err
	}
	if err := l.fill(); err != nil {
		return err
	}
	if err := w.host.Run(w.ctx, l.write(w.own())); err != nil {
		return err
	}
	if err := l.check(w.own()); err != nil {
		return err
	}
	return w.finished(w.own(), 0)
}

// notLive is why a tree cannot be a live system, nil where it can.
func notLive(system *rawdisk.System) error {
	found, err := system.Find(liveBoot)
	if err == nil && (found == nil || !found.IsFolder()) {
		err = fail.New(fail.Usage, "", "add live-boot to the packages of an install entry", "the image cannot be a live system: it has no live-boot (/%s)", liveBoot)
	}
	return err
}

// find finds what starts the tree.
func (l *liveMedium) find() error {
	err := notLive(l.system)
	if err == nil {
		l.entry, err = bootedFirst(l.system)
	}
	if err == nil {
		err = l.checkEntry()
	}
	grub := arch.Target.GRUB
	if err == nil {
		l.bios, err = l.loader(grub.CDImage())
	}
	if err == nil && l.bios != nil {
		l.hybrid, err = l.loader(path.Join("usr/lib/grub", grub.BIOS, "boot_hybrid.img"))
	}
	if err == nil {
		err = l.findEFI()
	}
	if err == nil && l.bios == nil && len(l.efi) == 0 {
		err = fail.New(fail.Usage, "", "build it with live-boot, for a firmware", "the image has no boot loader for a medium")
	}
	return err
}

// checkEntry refuses what would be no entry of GRUB's menu, or none that can start.
func (l *liveMedium) checkEntry() error {
	line := strings.Join(l.arguments(), " ")
	switch {
	case len(l.entry.initramfs) == 0:
		return fail.New(fail.Usage, "", "", "GRUB's menu names no initramfs, which a live system needs")
	case strings.HasSuffix(line, `\`) || strings.Count(line, "'")%2 > 0 || strings.Count(line, `"`)%2 > 0:
		return fail.New(fail.Usage, "", "", "the kernel's command line is not whole in GRUB's menu: %s", line)
	}
	return nil
}

// largestLoader is more than any boot loader has, in bytes.
const largestLoader = 32 << 20

// loader is a file that a firmware loads, nil where it is not there.
func (l *liveMedium) loader(name string) (*rawdisk.Node, error) {
	n, err := firstOf(l.system, name)
	if err == nil && n != nil && n.Size > largestLoader {
		err = fail.New(fail.Usage, "", "", "/%s is no boot loader: it has %d bytes", strings.TrimPrefix(name, "/"), n.Size)
	}
	return n, err
}

// findEFI finds the programs that boot the disk: shim under the name that the firmware looks
// for, GRUB, and what manages shim's keys.
func (l *liveMedium) findEFI() error {
	suffix := arch.Target.GRUB.EFISuffix + ".efi"
	first := strings.ToUpper("boot" + suffix)
	for _, folder := range espFolders {
		folder = path.Join(folder, removable)
		found := map[string]*rawdisk.Node{}
		for _, name := range []string{first, "grub" + suffix, "mm" + suffix} {
			program, err := l.loader(path.Join(folder, name))
			if err != nil {
				return err
			}
			if program != nil {
				found[name] = program
			}
		}
		if found[first] != nil && found["grub"+suffix] != nil { // else it looks for the disk
			l.efi = found
			return nil
		}
	}
	return nil
}

// fill writes what goes onto the medium beside the tree.
func (l *liveMedium) fill() error {
	put := map[string]func() (io.Reader, error){
		filepath.Join(l.folder, l.place, "vmlinuz"): inBoot(l.system, l.entry.kernel),
		filepath.Join(l.folder, l.place, "initrd"):  inBoot(l.system, l.entry.initramfs...),
		filepath.Join(l.folder, grubConfig):         words(l.menu()),
		filepath.Join(l.folder, liveInfo):           words(l.title() + "\n"),
	}
	if l.bios != nil {
		put[filepath.Join(l.folder, liveGrubImage)] = contentOf(l.bios)
	}
	if l.hybrid != nil {
		put[filepath.Join(l.scratch, liveMBR)] = contentOf(l.hybrid)
	}
	if len(l.efi) > 0 {
		put[filepath.Join(l.folder, liveEFIConfig)] = words(l.efiConfig())
	}
	for name, program := range l.efi {
		put[filepath.Join(l.scratch, name)] = contentOf(program)
	}
	for file, content := range put {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := l.written(file, content); err != nil {
			return err
		}
		if err := os.Chtimes(file, time.Time{}, l.time()); err != nil {
			return err
		}
	}
	if len(l.efi) == 0 {
		return nil
	}
	if err := l.writeESP(); err != nil {
		return fmt.Errorf("EFI system partition: %w", err)
	}
	return nil
}

// words is a content of text.
func words(text string) func() (io.Reader, error) {
	return func() (io.Reader, error) { return strings.NewReader(text), nil }
}

// title is what the medium is called for people.
func (l *liveMedium) title() string { return strings.TrimSpace(l.Name + " " + l.Version) }

// label is the name of the volume, of characters that every system takes (ECMA-119, 7.4.1).
func (l *liveMedium) label() string {
	known := func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}
	name := strings.Map(known, strings.ToUpper(l.Base))
	return name[:min(len(name), 32)]
}

// menu is GRUB's, on the screen and the first serial port as that of the disk.
func (l *liveMedium) menu() string {
	var b strings.Builder
	b.WriteString("serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\nset timeout=3\n")
	fmt.Fprintf(&b, "menuentry '%s' {\n\tlinux /%s/vmlinuz %s\n\tinitrd /%s/initrd\n}\n",
		strings.ReplaceAll(l.title(), "'", `'\''`), l.place, strings.Join(l.arguments(), " "), l.place)
	return b.String()
}

// arguments is the kernel's command line. What /etc/fstab names is on the disk and not here.
func (l *liveMedium) arguments() []string {
	ofDisk := func(word string) bool {
		return word == "ro" || word == "rw" || strings.HasPrefix(word, "root=") || strings.HasPrefix(word, "rootflags=")
	}
	return append([]string{"boot=live", "live-media-path=/" + l.place, "fstab=no"}, slices.DeleteFunc(slices.Clone(l.entry.arguments), ofDisk)...)
}

// efiConfig leads signed GRUB to the menu.
func (l *liveMedium) efiConfig() string {
	return fmt.Sprintf("search.file /%s/vmlinuz root\nset prefix=($root)/%s\nconfigfile $prefix/%s\n", l.place, path.Dir(grubConfig), path.Base(grubConfig))
}

// Names in the folder for files in passing, where the tools run: they would take some names of
// folders for what they are not.
const (
	liveFolder = "medium"
	liveMBR    = "mbr"
	liveESP    = "esp"
	liveBack   = "back"
	liveImages = "images"
)

// tool is a call of a tool, which writes the same times whenever and wherever it runs.
func (l *liveMedium) tool(name string, args ...string) host.Command {
	c := host.Cmd(name, args...)
	c.Dir = l.scratch
	c.Env = []string{"TZ=UTC", "MTOOLS_SKIP_CHECK=1", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", l.time().Unix())}
	return c
}

// time is what FAT can say of when the files were changed.
func (l *liveMedium) time() time.Time {
	if first := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); l.Epoch.Before(first) {
		return first
	}
	return l.Epoch
}

// writeESP makes the EFI system partition, a FAT file system of the kind that mkfs.fat(8)
// takes for its size.
func (l *liveMedium) writeESP() error {
	var programs []string
	size := int64(2 * mib) // for FAT itself and what does not fill its clusters
	for name, program := range l.efi {
		programs = append(programs, name)
		size += program.Size
	}
	slices.Sort(programs)
	file, err := os.OpenFile(filepath.Join(l.scratch, liveESP), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate((size+mib-1)/mib*mib), file.Close()); err != nil {
		return err
	}
	for _, command := range []host.Command{
		l.tool("mkfs.fat", "--invariant", "-i", l.SHA256[:8], liveESP),
		l.tool("mmd", "-i", liveESP, "::/EFI", "::/"+removable, "::/"+path.Dir(liveEFIConfig)),
		l.tool("mcopy", slices.Concat([]string{"-Q", "-m", "-i", liveESP}, programs, []string{"::/" + removable + "/"})...),
		l.tool("mcopy", "-Q", "-m", "-i", liveESP, path.Join(liveFolder, liveEFIConfig), "::/"+liveEFIConfig),
		l.tool("fsck.fat", "-n", liveESP),
	} {
		if err := l.host.Run(l.ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// write makes the medium: as a CD it has boot images by El Torito, as a disk an MBR with
// boot code and an EFI system partition.
func (l *liveMedium) write(out string) host.Command {
	// Files may be of more than 4 GiB; names are as on every Linux, owners are root.
	args := []string{
		"-no_rc", "-as", "mkisofs", "-quiet", "-o", out, "-V", l.label(), "-iso-level", "3", "-R", "-uid", "0", "-gid", "0", "-dir-mode", "0755", "-file-mode", "0644",
		"--set_all_file_dates", l.Epoch.UTC().Format("20060102150405") + "00", "-partition_offset", "16",
	}
	if l.hybrid != nil {
		args = append(args, "--grub2-mbr", liveMBR)
	}
	if l.bios != nil {
		args = append(args, "-c", "boot/grub/boot.cat", "-b", liveGrubImage, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info")
	}
	if len(l.efi) > 0 {
		args = append(args, "-append_partition", "2", "0xef", liveESP)
		if l.bios != nil {
			args = append(args, "-eltorito-alt-boot")
		}
		args = append(args, "-e", "--interval:appended_partition_2:all::", "-no-emul-boot")
	}
	return l.tool("xorriso", append(args, liveFolder)...)
}

// check reads the medium back: each file, and the EFI system partition, which is none.
func (l *liveMedium) check(medium string) error {
	back, images := filepath.Join(l.scratch, liveBack), filepath.Join(l.scratch, liveImages)
	err := l.host.Run(l.ctx, l.tool("xorriso", "-no_rc", "-osirrox", "on", "-indev", medium, "-extract", "/", liveBack, "-extract_boot_images", liveImages))
	if err != nil {
		return err
	}
	err = filepath.WalkDir(l.folder, func(original string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(l.folder, original)
		if err != nil {
			return err
		}
		if name == liveGrubImage {
			return l.sameImage(filepath.Join(back, name), original)
		}
		return l.same(filepath.Join(back, name), original)
	})
	if err == nil && len(l.efi) > 0 {
		err = l.same(filepath.Join(images, "mbr_part2_efi.img"), filepath.Join(l.scratch, liveESP))
	}
	return err
}

// same compares two files.
func (l *liveMedium) same(file, original string) error {
	in, err := os.Open(original)
	if err != nil {
		return err
	}
	defer in.Close()
	return l.holds(file, func() (io.Reader, error) { return in, nil })
}

// sameImage compares GRUB's boot image, into which xorriso writes where it lies on the medium.
func (l *liveMedium) sameImage(file, original string) error {
	got, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	want, err := os.ReadFile(original)
	if err != nil {
		return err
	}
	for _, table := range [][2]int{{8, 64}, {2548, 2556}} { // of isolinux(1), and GRUB's own
		if len(got) == len(want) && table[1] <= len(got) {
			copy(want[table[0]:table[1]], got[table[0]:table[1]])
		}
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("read %s back: %w", filepath.Base(file), errDiffers)
	}
	return nil
}
