// Package diskformat is what is known of the formats of disk images: one row for each,
// and which of them an image is of, and what identifies one. It runs nothing.
package diskformat

// Names of the formats that others have to name.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
	// Default is what a build writes, and boots, where there is a choice.
	Default = QCOW2
	VMDK    = "vmdk"
	VHDX    = "vhdx"
	VHD     = "vhd"
)

// VMDKMagic is how a VMDK that is written begins.
const VMDKMagic = "KDMV"

// Format is all that is known of one.
type Format struct {
	Name     string   // in definitions, options, records and tags, and the usual suffix of files
	Suffixes []string // that files have besides
	QEMU     string   // QEMU's name
	Written  bool     // builds can write it
	Options  []string // of 'qemu-img convert'
	Whole    int64    // of so many bytes the disk in an image that is written is a multiple; 0 for any number
	Backing  bool     // an image may name another one that lies below it
	magics   []magic
	identify func(ReadWriterAt, identifier) error // where qemu-img writes identifiers by chance
}

// table is the formats, in the order in which they are told.
var table = []Format{
	{
		Name: QCOW2, QEMU: "qcow2", Written: true, Backing: true,
		// Each cluster is compressed by itself; larger ones make the image smaller. They are
		// written in order, or their places would depend on how fast each was compressed.
		Options: []string{"-c", "-o", "compression_type=zstd,cluster_size=256k", "-m", "16"},
		magics:  []magic{{text: "QFI\xfb\x00\x00\x00\x02", check: checkQCOW2}, {text: "QFI\xfb\x00\x00\x00\x03", check: checkQCOW2}},
	},
	{Name: Raw, Suffixes: []string{"img"}, QEMU: "raw", Written: true},
	{
		// VMware; of its kinds the stream-optimized one, which all its products import. Package
		// image writes it itself.
		Name: VMDK, QEMU: "vmdk", Written: true, Backing: true,
		magics: []magic{{text: VMDKMagic, check: checkVMDK}}, identify: identifyVMDK,
	},
	{Name: VHDX, QEMU: "vhdx", Written: true, magics: []magic{{text: "vhdxfile"}}, identify: identifyVHDX},                      // Hyper-V
	{Name: "vdi", QEMU: "vdi", Written: true, magics: []magic{{text: "\x7f\x10\xda\xbe", offset: 0x40}}, identify: identifyVDI}, // VirtualBox
	{
		// Hyper-V of old and Azure, which takes the fixed kind alone, in whole MiB. That
		// kind is a raw disk with a footer; the others begin with a copy of it.
		Name: VHD, QEMU: "vpc", Written: true, Whole: 1 << 20, Options: []string{"-o", "subformat=fixed,force_size=on"},
		magics: []magic{{text: vhdCookie, check: checkVHD}}, identify: identifyVHD,
	},
}

// Named is the format of that name, the zero value where there is none.
func Named(name string) Format {
	for _, f := range table {
		if f.Name == name {
			return f
		}
	}
	return Format{}
}

// Written is the names of the formats that builds can write.
func Written() []string {
	var names []string
	for _, f := range table {
		if f.Written {
			names = append(names, f.Name)
		}
	}
	return names
}

// Suffixes is how the names of disk images end, with the dot.
func Suffixes() []string {
	var suffixes []string
	for _, f := range table {
		for _, suffix := range append([]string{f.Name}, f.Suffixes...) {
			suffixes = append(suffixes, "."+suffix)
		}
	}
	return suffixes
}
