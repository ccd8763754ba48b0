// Package arch is what is known of the machines that images are for: one row for each
// architecture. It runs nothing.
package arch

// Names of the firmwares.
const (
	BIOS       = "bios"
	UEFI       = "uefi"
	SecureBoot = "secureboot"
)

// Architecture is all that is known of one.
type Architecture struct {
	Debian   string // dpkg's name, also in the names of Debian's packages
	OCI      string // the name that Go and OCI have for it
	Kernel   string // Debian's package with the usual kernel
	RootType string // GUID of partitions for /, of the UAPI Group's Discoverable Partitions Specification
	QEMU     QEMU
	GRUB     GRUB
	Firmware []Firmware // in the order in which they are told
}

// QEMU is the emulator and the machine that it plays.
type QEMU struct {
	Binary  string
	Package string // Debian's
	Machine string
	CPU     string // that TCG emulates
	Screen  string // device that shows what the boot loader and a console on the screen say
	Log     string // device at which the firmware says what it does
}

// Firmware is how a machine starts.
type Firmware struct {
	Name    string
	Package string   // Debian's, with the files that follow; "" where QEMU brings them
	ROMs    []string // of the files that QEMU brings, those that a guest starts with besides Code
	Code    string
	Vars    string   // what a guest's variables start as a copy of
	Machine string   // what QEMU's machine must have besides
	Args    []string // of QEMU
	SMM     bool     // needs System Management Mode
}

// GRUB is the boot loader: Debian's packages, and where they have what.
type GRUB struct {
	BIOS           string // platform: the folder of its modules, and grub-mkimage's format
	EFI            string
	BIOSPackages   []string // the first one is asked about BIOS by debconf
	EFIPackages    []string // the first one is asked about UEFI by debconf
	HybridPackages []string
	EFISuffix      string // of the names of EFI programs (UEFI specification 2.10, 3.5.1.1)
}

// CDImage is where images that can be live systems have the GRUB that a BIOS loads from a CD
// (El Torito 1.0, without emulation).
func (g GRUB) CDImage() string { return "/boot/grub/" + g.BIOS + "/eltorito.img" }

// table is the architectures of images.
var table = []Architecture{{
	Debian: "amd64", OCI: "amd64", Kernel: "linux-image-amd64",
	RootType: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
	QEMU: QEMU{
		Binary: "qemu-system-x86_64", Package: "qemu-system-x86", Machine: "q35",
		// Five-level page tables and string instructions that the guest believes to
		// be fast only slow TCG down.
		CPU: "max,la57=off,erms=off,fsrm=off", Screen: "VGA", Log: "isa-debugcon,iobase=0x402",
	},
	GRUB: GRUB{
		BIOS: "i386-pc", EFI: "x86_64-efi", EFISuffix: "x64",
		BIOSPackages:   []string{"grub-pc"},
		EFIPackages:    []string{"grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed"},
		HybridPackages: []string{"grub-cloud-amd64"}, // Debian's own for images that boot both ways
	},
	Firmware: []Firmware{
		{Name: BIOS, ROMs: []string{"bios-256k.bin", "vgabios-stdvga.bin"}},
		{Name: UEFI, Package: "ovmf", Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{
			// The secboot build enforces Secure Boot with the variables of
			// VARS_4M.ms, which hold Microsoft's keys.
			Name: SecureBoot, Package: "ovmf", Code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
			Machine: "smm=on", SMM: true,
			Args: []string{"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"},
		},
	},
}}

// Target is the architecture of the images: definitions cannot choose another one yet.
var Target = table[0]

// FirmwareNames is the firmwares that the architecture has.
func (a Architecture) FirmwareNames() []string {
	var names []string
	for _, f := range a.Firmware {
		names = append(names, f.Name)
	}
	return names
}

// FirmwareNamed is the firmware of that name, the zero value where there is none.
func (a Architecture) FirmwareNamed(name string) Firmware {
	for _, f := range a.Firmware {
		if f.Name == name {
			return f
		}
	}
	return Firmware{}
}

// Files is what a host must have for the firmware, besides QEMU.
func (f Firmware) Files() []string {
	if f.Code == "" {
		return nil
	}
	return []string{f.Code, f.Vars}
}

// Known is the names that Go and OCI have for the architectures of Debian: others may
// have pushed images for them.
var Known = []string{"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"}
