package definition

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/format"
)

const (
	// partitionAlign is where partitions start and end, in bytes.
	partitionAlign = 1 * MiB
	largestDisk    = 16 * TiB
	smallestRoot   = 512 * MiB
)

// validateTrees refuses formats that hold the tree, where its files are in a file system that
// vmctl does not read.
func (ld *loading) validateTrees(at place, d *Definition) {
	for _, name := range d.Outputs {
		for _, part := range d.Disk.Layout.Resolve() {
			fs := filesystem.Named(part.Filesystem)
			if format.Named(name).Tree && part.Mount != "" && fs != nil && !fs.Readable {
				ld.report(at, fmt.Sprintf("outputs: %s holds the files of the tree, and vmctl does not read those of %s (%s)", name, part.Filesystem, part.Mount),
					"choose "+filesystem.Ext4+" for "+part.Mount+", or another format")
			}
		}
	}
}

// validateBootless refuses formats of what boots, where nothing boots from the disk.
func (ld *loading) validateBootless(at place, d *Definition) {
	if len(d.Firmware) > 0 || ld.unsure("disk") || slices.ContainsFunc(d.Disk.Layout.Resolve(), Partition.doubtful) {
		return
	}
	for _, name := range d.Outputs {
		if f := format.Named(name); f.Name != "" && (!f.Tree || f.Name == format.Kernel) {
			ld.report(at, fmt.Sprintf("outputs: %s is of a machine, and no firmware starts from this disk.layout", name),
				"choose "+strings.Join(treeFormats(), " or ")+", or a layout with a partition of 'type: bios' or with an ESP")
		}
	}
}

// treeFormats is those that hold a tree and nothing that boots it.
func treeFormats() []string {
	var names []string
	for _, f := range format.All() {
		if f.Tree && f.Name != format.Kernel {
			names = append(names, f.Name)
		}
	}
	return names
}

var labelPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// IsLabel says whether a partition may be called so.
func IsLabel(label string) bool { return labelPattern.MatchString(label) }

func (ld *loading) validateDisk(d *Definition, merged *yaml.Node) {
	disk := value(merged, "disk")
	layout := value(disk, "layout")
	at := func(keys ...string) place { return ld.where(merged, append([]string{"disk"}, keys...)...) }
	if name := d.Disk.Layout.Name; name != "" && layouts[name] == nil {
		ld.report(at("layout"), fmt.Sprintf("disk.layout: unknown %q", name), "known: hybrid, efi, bios, none, or a list of partitions")
		return
	}
	partitions := d.Disk.Layout.Resolve()
	partition := func(i int, keys ...string) place {
		if layout == nil || layout.Kind != yaml.SequenceNode {
			return at("layout")
		}
		return at(append([]string{"layout", strconv.Itoa(i)}, keys...)...)
	}
	for i, p := range partitions {
		ld.validatePartition(p, func(keys ...string) place { return partition(i, keys...) })
	}
	ld.validateTogether(partitions, partition)
	ld.validateGrowth(d, partitions, at("grow"))
	if ld.unsure("disk") {
		return // size and layout may be others
	}
	ld.validateFit(d.Disk.Size, partitions, at("size"))
	if !slices.ContainsFunc(partitions, Partition.doubtful) {
		ld.validateFirmware(d.Firmware, partitions, ld.where(merged, "firmware"))
	}
}

func (ld *loading) validateGrowth(d *Definition, partitions []Partition, at place) {
	if *d.Disk.Grow && !growable(partitions) {
		ld.report(at, "disk.grow: only a root file system on the last partition can grow", "write its partition last, or remove grow")
	}
}

var partitionTypes = []string{TypeBIOS, TypeESP, TypeLinux, TypeSwap}

// doubtful says whether the partition is of no known kind, so that nobody can
// say what firmware makes of it; validatePartition reports it.
func (p Partition) doubtful() bool {
	return !slices.Contains(partitionTypes, p.Type) || !isMountPoint(p.Mount)
}

// isMountPoint says whether the path, which may be empty, can be in fstab.
func isMountPoint(mount string) bool {
	return mount == "" || path.IsAbs(mount) && path.Clean(mount) == mount && !strings.ContainsAny(mount, " \t\n\\#")
}

func (ld *loading) validatePartition(p Partition, at func(...string) place) {
	fs := filesystem.Named(p.Filesystem)
	switch {
	case p.Type == TypeBIOS:
		if p.Filesystem != "" || p.Mount != "" || p.Options != "" {
			ld.report(at(), "disk.layout: a BIOS boot partition has no file system", "remove filesystem, mount and options")
		}
	case !slices.Contains(partitionTypes, p.Type):
		ld.report(at("type"), fmt.Sprintf("disk.layout: unknown type %q", p.Type), "known: "+strings.Join(partitionTypes, ", "))
	case fs == nil:
		ld.report(at("filesystem"), fmt.Sprintf("disk.layout: unknown file system %q", p.Filesystem), "known: "+strings.Join(slices.Sorted(slices.Values(filesystem.Names(nil))), ", "))
	case p.Type == TypeESP && !fs.Firmware:
		readable := strings.Join(filesystem.Names(func(f *filesystem.Filesystem) bool { return f.Firmware }), " or ")
		ld.report(at("filesystem"), fmt.Sprintf("disk.layout: firmware reads only %s on the ESP", readable), fmt.Sprintf("write 'filesystem: %s'", readable))
	case (p.Type == TypeSwap) == fs.Mountable():
		ld.report(at("type"), "disk.layout: type and file system do not go together", "use swap for both or for none")
	case !fs.Mountable() && p.Mount != "":
		ld.report(at("mount"), "disk.layout: swap is not mounted", "remove mount")
	}
	if p.Label != "" && !IsLabel(p.Label) {
		ld.report(at("label"), fmt.Sprintf("disk.layout: %q is no label", p.Label), "use letters, digits, dots, hyphens and underscores")
	}
	if limit := 36; len(p.Label) > limit { // UTF-16 units of a GPT name
		ld.report(at("label"), fmt.Sprintf("disk.layout: label %q is too long", p.Label), "use 36 characters at most")
	} else if fs != nil && len(p.Label) > fs.LongestLabel {
		ld.report(at("label"), fmt.Sprintf("disk.layout: label %q is too long for %s", p.Label, p.Filesystem), fmt.Sprintf("use %d characters at most", fs.LongestLabel))
	}
	if !isMountPoint(p.Mount) {
		ld.report(at("mount"), fmt.Sprintf("disk.layout: %q is no mount point", p.Mount), "write an absolute path without spaces")
	}
	if fs != nil {
		ld.validateOptions(p, at("options"))
	}
	if smallest := p.smallest(); p.Size != 0 && p.Size < smallest {
		ld.report(at("size"), fmt.Sprintf("disk.layout: %s is too small for %s", p.Size, p.Filesystem), fmt.Sprintf("give %s or more", smallest))
	}
	if p.Size%partitionAlign != 0 {
		ld.report(at("size"), fmt.Sprintf("disk.layout: %s is not a multiple of 1 MiB", p.Size), "round it, such as 512M")
	}
}

// smallest is the size below which the partition's file system makes no sense.
func (p Partition) smallest() Size {
	if fs := filesystem.Named(p.Filesystem); fs != nil {
		return Size(fs.Smallest)
	}
	return 0
}

func (ld *loading) validateTogether(partitions []Partition, at func(int, ...string) place) {
	labels, mounts := map[string]bool{}, map[string]bool{}
	open, roots, types := 0, 0, map[string]int{}
	for i, p := range partitions {
		if p.Label != "" && labels[p.Label] {
			ld.report(at(i, "label"), fmt.Sprintf("disk.layout: label %q is used twice", p.Label), "give each partition its own")
		}
		if p.Mount != "" && mounts[p.Mount] {
			ld.report(at(i, "mount"), fmt.Sprintf("disk.layout: %s is mounted twice", p.Mount), "give each partition its own mount point")
		}
		labels[p.Label], mounts[p.Mount] = true, true
		types[p.Type]++
		if (p.Type == TypeBIOS || p.Type == TypeESP) && types[p.Type] > 1 {
			ld.report(at(i), fmt.Sprintf("disk.layout: there is a second partition of type %s", p.Type), "keep one")
		}
		if p.Size == 0 && slices.Contains(partitionTypes, p.Type) {
			if open++; open > 1 {
				ld.report(at(i), "disk.layout: two partitions have no size", "only one can take the rest of the disk")
			}
		}
		if p.Mount == "/" {
			roots++
			if fs := filesystem.Named(p.Filesystem); fs != nil && fs.Holds == filesystem.Files {
				ld.report(at(i, "filesystem"), fmt.Sprintf("disk.layout: %s cannot hold a root file system", p.Filesystem), "use "+strings.Join(filesystem.Names((*filesystem.Filesystem).HoldsTree), " or "))
			}
		}
	}
	if roots == 0 {
		ld.report(at(0), "disk.layout: no partition is mounted on /", "add 'mount: /' to one")
	}
}

func (ld *loading) validateFit(size Size, partitions []Partition, at place) {
	if size > largestDisk {
		ld.report(at, fmt.Sprintf("disk.size: %s is more than an image file can be", size), fmt.Sprintf("give %s at most", largestDisk))
		return
	}
	if size%partitionAlign != 0 {
		ld.report(at, fmt.Sprintf("disk.size: %s is not a multiple of 1 MiB", size), "round it, such as 2G")
	}
	need := 2 * partitionAlign // both partition tables
	for _, p := range partitions {
		smallest := p.Size
		if smallest == 0 {
			smallest = p.smallest()
			if p.Mount == "/" {
				smallest = max(smallest, smallestRoot)
			}
		}
		need += smallest
	}
	if size < need {
		ld.report(at, fmt.Sprintf("disk.size: the partitions need %s, the disk has %s", need, size), "enlarge the disk or shrink a partition")
	}
}

func (ld *loading) validateFirmware(firmware []string, partitions []Partition, at place) {
	for _, f := range firmware {
		switch {
		case f == arch.BIOS && !hasType(partitions, TypeBIOS):
			ld.report(at, "firmware: bios needs a BIOS boot partition", "use 'layout: hybrid', or add a partition of 'type: bios'")
		case (f == arch.UEFI || f == arch.SecureBoot) && !hasType(partitions, TypeESP):
			ld.report(at, fmt.Sprintf("firmware: %s needs an ESP", f), "use 'layout: hybrid', or add a partition with 'mount: /boot/efi'")
		}
	}
}
