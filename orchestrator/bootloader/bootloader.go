// Package bootloader makes the image boot with GRUB: on BIOS from the BIOS boot
// partition, on UEFI and Secure Boot from the removable path of the ESP with
// Debian's signed shim and GRUB. It writes no NVRAM, and leaves Debian's own
// packages in charge of upgrades inside the running image.
package bootloader

import (
	"fmt"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Plan is what the boot loader needs to know of the image.
type Plan struct {
	BIOS    bool   `json:"bios"`
	EFI     bool   `json:"efi"`
	ESP     string `json:"esp,omitempty"` // where the ESP is mounted
	Cmdline string `json:"cmdline"`
	Timeout int    `json:"timeout"` // seconds
	// The file system that holds /boot/grub, and where in it.
	GrubUUID   string `json:"grub_uuid"`
	GrubPath   string `json:"grub_path"`
	Filesystem string `json:"filesystem"`
	DiskID     string `json:"disk_id"` // GUID of the disk
	// Place of the BIOS boot partition, in bytes.
	CoreStart int64 `json:"core_start,omitempty"`
	CoreSize  int64 `json:"core_size,omitempty"`
	// Volumes is the mounted file systems of the disk to be made.
	Volumes []Volume `json:"volumes"`
}

// Volume is one file system of the disk, as GRUB's tools see it.
type Volume struct {
	Mount      string `json:"mount"`
	Filesystem string `json:"filesystem"`
	UUID       string `json:"uuid"`
	Label      string `json:"label,omitempty"`
	Partition  int    `json:"partition"` // 1 for the first
	PartUUID   string `json:"partuuid"`
}

// Boots says whether anything is to start from the disk.
func (p Plan) Boots() bool { return p.BIOS || p.EFI }

// Packages is the Debian packages that boot the image and keep doing so when
// kernel and GRUB are upgraded inside it.
func (p Plan) Packages() []string {
	switch grub := arch.Target.GRUB; {
	case !p.Boots():
		return nil
	case p.BIOS && p.EFI:
		return slices.Clone(grub.HybridPackages)
	case p.EFI:
		return slices.Clone(grub.EFIPackages)
	default:
		return slices.Clone(grub.BIOSPackages)
	}
}

// cloudFlag tells the maintainer script of the hybrid package that it may install
// GRUB whenever it is upgraded.
const cloudFlag = "/etc/grub.d/enable_cloud"

// bootDisk is the name that the image's udev gives its own disk, whatever
// the machine calls it; grub-pc needs one that stays.
const bootDisk = "/dev/disk/by-id/vmctl-boot-disk"

// file is a file that the boot loader puts into the image.
type file struct {
	path    string
	content string
}

// files is the configuration in the image.
func (p Plan) files() []file {
	files := []file{{"/etc/default/grub.d/vmctl.cfg", p.defaults()}}
	switch {
	case p.BIOS && p.EFI:
		files = append(files, file{cloudFlag, ""})
	case p.BIOS:
		files = append(files, file{"/etc/udev/rules.d/60-vmctl-boot-disk.rules", fmt.Sprintf(
			"# %s installs GRUB there when it is upgraded.\nSUBSYSTEM==\"block\", ENV{DEVTYPE}==\"disk\", ENV{ID_PART_TABLE_UUID}==\"%s\", SYMLINK+=\"%s\"\n",
			arch.Target.GRUB.BIOSPackages[0], strings.ToLower(p.DiskID), strings.TrimPrefix(bootDisk, "/dev/"))})
	}
	return files
}

// defaults is read by grub-mkconfig after /etc/default/grub.
func (p Plan) defaults() string {
	return fmt.Sprintf(`# Written by vmctl. A file here that sorts later, or a change of this one
# followed by update-grub, changes it.
GRUB_TIMEOUT=%d
GRUB_CMDLINE_LINUX="%s"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
`, p.Timeout, p.Cmdline)
}

// debconf is the answers that the GRUB packages ask for at upgrades.
func (p Plan) debconf() string {
	switch {
	case p.BIOS && p.EFI:
		return ""
	case p.EFI:
		asked := arch.Target.GRUB.EFIPackages[0]
		return asked + " grub2/force_efi_extra_removable boolean true\n" +
			asked + " grub2/update_nvram boolean false\n"
	default:
		asked := arch.Target.GRUB.BIOSPackages[0]
		return asked + " " + asked + "/install_devices multiselect " + bootDisk + "\n" +
			asked + " " + asked + "/install_devices_empty boolean false\n"
	}
}

// coreConfig is embedded in core.img. It opens the serial port first, so that
// a GRUB that finds nothing more says so there too.
func (p Plan) coreConfig() string {
	return "serial --unit=0 --speed=115200\nterminal_output console serial\nterminal_input console serial\n" + p.earlyConfig()
}

// earlyConfig finds /boot/grub by the UUID of its file system.
func (p Plan) earlyConfig() string {
	return fmt.Sprintf("search.fs_uuid %s root\nset prefix=($root)%s\n", p.GrubUUID, p.GrubPath)
}

// espConfig is what Debian's signed GRUB reads first.
func (p Plan) espConfig() string {
	return p.earlyConfig() + "configfile $prefix/grub.cfg\n"
}

// mkimage is the call of the image's own grub-mkimage that makes core.img.
func (p Plan) mkimage(root, config string) host.Command {
	return host.Cmd("grub-mkimage", "--format="+arch.Target.GRUB.BIOS, "--output="+biosFolder()+coreImage, "--config="+config, "--prefix="+p.GrubPath,
		"biosdisk", "part_gpt", "part_msdos", filesystem.Named(p.Filesystem).GRUB, "search_fs_uuid", "normal", "configfile", "serial", "terminal").In(root)
}

// mkCDImage is the call that makes the GRUB for a medium of which only the kernel and grub.cfg
// are known: it finds them where it was loaded from, and needs no modules there.
func mkCDImage(root string) host.Command {
	return host.Cmd("grub-mkimage", "--format="+arch.Target.GRUB.BIOS+"-eltorito", "--output="+arch.Target.GRUB.CDImage(), "--prefix=/boot/grub",
		"biosdisk", "iso9660", "part_msdos", "normal", "configfile", "linux", "serial", "terminal", "echo", "ls", "reboot", "halt").In(root)
}

// espFile is a file for the ESP: a path in the image, or content.
type espFile struct {
	path    string // on the ESP
	source  string // in the image; "" for content
	content string
	needed  bool
}

const shimFolder = "/usr/lib/shim/"

// efiName is the name of an EFI program for the architecture.
func efiName(stem string) string { return stem + arch.Target.GRUB.EFISuffix + ".efi" }

// espFiles is what Debian's grub-install --force-extra-removable would put on
// the ESP, less what writes NVRAM at boot (the fallback program in EFI/BOOT).
func (p Plan) espFiles() []espFile {
	boot, shim, mok, fallback, grub := efiName("boot"), efiName("shim"), efiName("mm"), efiName("fb"), efiName("grub")
	signedShim, signedMok := shimFolder+shim+".signed", shimFolder+mok+".signed"
	signedGrub := moduleFolder + arch.Target.GRUB.EFI + "-signed/" + grub + ".signed"
	list := strings.ToUpper(strings.TrimSuffix(boot, ".efi") + ".csv")
	return []espFile{
		{path: "EFI/BOOT/" + strings.ToUpper(boot), source: signedShim, needed: true},
		{path: "EFI/BOOT/" + grub, source: signedGrub, needed: true},
		{path: "EFI/BOOT/" + mok, source: signedMok, needed: true},
		{path: "EFI/debian/" + shim, source: signedShim, needed: true},
		{path: "EFI/debian/" + grub, source: signedGrub, needed: true},
		{path: "EFI/debian/" + mok, source: signedMok, needed: true},
		{path: "EFI/debian/" + fallback, source: shimFolder + fallback + ".signed"},
		{path: "EFI/debian/" + list, source: shimFolder + list},
		{path: "EFI/debian/grub.cfg", content: p.espConfig(), needed: true},
	}
}

// Firmware is the firmwares that the plan serves.
func (p Plan) Firmware() []string {
	var names []string
	if p.BIOS {
		names = append(names, arch.BIOS)
	}
	if p.EFI {
		names = append(names, arch.UEFI, arch.SecureBoot)
	}
	return names
}
