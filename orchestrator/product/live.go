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
	l := &liveMedium{work: w, folder: filepath.Join(w.scratch, "medium"), place: path.Join("live", w.SHA256[:16]), efi: map[string]*rawdisk.Node{}, system: system}
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
	grub := arch.Target.GRUB
	if err == nil {
		l.bios, err = firstOf(l.system, grub.CDImage())
	}
	if err == nil && l.bios != nil {
		l.hybrid, err = firstOf(l.system, path.Join("usr/lib/grub", grub.BIOS, "boot_hybrid.img"))
	}
	if err == nil {
		err = l.findEFI()
	}
	if err == nil && l.bios == nil && len(l.efi) == 0 {
		err = fail.New(fail.Usage, "", "build it with live-boot, for a firmware", "the image has no boot loader for a medium")
	}
	return err
}

// findEFI finds the programs that boot the disk: shim under the name that the firmware looks
// for, GRUB, and what manages shim's keys.
func (l *liveMedium) findEFI() error {
	suffix := arch.Target.GRUB.EFISuffix + ".efi"
	first := strings.ToUpper("boot" + suffix)
	for _, folder := range espFolders {
		folder = path.Join(folder, removable)
		if found, err := firstOf(l.system, path.Join(folder, first)); found == nil || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		for _, name := range []string{first, "grub" + suffix, "mm" + suffix} {
			program, err := firstOf(l.system, path.Join(folder, name))
			if err != nil {
				return err
			}
			if program != nil {
				l.efi[name] = program
			}
		}
		return nil
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
		put[l.mbr()] = contentOf(l.hybrid)
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
		if err := os.Chtimes(file, time.Time{}, l.Epoch); err != nil {
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

func (l *liveMedium) mbr() string { return filepath.Join(l.scratch, "mbr") }
func (l *liveMedium) esp() string { return filepath.Join(l.scratch, "esp") }

// writeESP makes the EFI system partition, a FAT file system of the kind that mkfs.fat(8)
// takes for its size.
func (l *liveMedium) writeESP() error {
	var programs []string
	size := int64(2 * mib) // for FAT itself and what does not fill its clusters
	for name, program := range l.efi {
		programs = append(programs, filepath.Join(l.scratch, name))
		size += program.Size
	}
	slices.Sort(programs)
	file, err := os.OpenFile(l.esp(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate((size+mib-1)/mib*mib), file.Close()); err != nil {
		return err
	}
	for _, command := range []host.Command{
		host.Cmd("mkfs.fat", "--invariant", "-i", l.SHA256[:8], l.esp()),
		host.Cmd("mmd", "-i", l.esp(), "::/EFI", "::/"+removable, "::/"+path.Dir(liveEFIConfig)),
		host.Cmd("mcopy", slices.Concat([]string{"-Q", "-m", "-i", l.esp()}, programs, []string{"::/" + removable + "/"})...),
		host.Cmd("mcopy", "-Q", "-m", "-i", l.esp(), filepath.Join(l.folder, liveEFIConfig), "::/"+liveEFIConfig),
		host.Cmd("fsck.fat", "-n", l.esp()),
	} {
		command.Env = l.env()
		if err := l.host.Run(l.ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// env has tools write the same times whenever and wherever they run.
func (l *liveMedium) env() []string {
	first := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // that FAT has
	return []string{"TZ=UTC", "MTOOLS_SKIP_CHECK=1", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", max(l.Epoch.Unix(), first.Unix()))}
}

// write makes the medium: as a CD it has boot images by El Torito, as a disk an MBR with
// boot code and an EFI system partition.
func (l *liveMedium) write(out string) host.Command {
	// Files may be of more than 4 GiB; names are as on every Linux, owners are root.
	args := []string{
		"-as", "mkisofs", "-quiet", "-o", out, "-V", l.label(), "-iso-level", "3", "-R", "-uid", "0", "-gid", "0", "-dir-mode", "0755", "-file-mode", "0644",
		"--set_all_file_dates", l.Epoch.UTC().Format("20060102150405") + "00", "-partition_offset", "16",
	}
	if l.hybrid != nil {
		args = append(args, "--grub2-mbr", l.mbr())
	}
	if l.bios != nil {
		args = append(args, "-c", "boot/grub/boot.cat", "-b", liveGrubImage, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info")
	}
	if len(l.efi) > 0 {
		args = append(args, "-append_partition", "2", "0xef", l.esp())
		if l.bios != nil {
			args = append(args, "-eltorito-alt-boot")
		}
		args = append(args, "-e", "--interval:appended_partition_2:all::", "-no-emul-boot")
	}
	c := host.Cmd("xorriso", append(args, l.folder)...)
	c.Env = l.env()
	return c
}

// check reads the medium back: each file, and the EFI system partition, which is none.
func (l *liveMedium) check(medium string) error {
	back, images := filepath.Join(l.scratch, "back"), filepath.Join(l.scratch, "images")
	err := l.host.Run(l.ctx, host.Cmd("xorriso", "-osirrox", "on", "-indev", medium, "-extract", "/", back, "-extract_boot_images", images))
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
		err = l.same(filepath.Join(images, "mbr_part2_efi.img"), l.esp())
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
