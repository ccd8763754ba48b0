// Package disk plans and makes the disk image: its partition table, file
// systems, fstab and mounts, and fills it from a finished tree. It does not know
// what is in the tree.
package disk

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// SectorSize is the size of a sector, in bytes, in all that follows.
const SectorSize = 512

const align = int64(definition.MiB) // room for the GPT in front and, mirrored, behind

// Plan is a disk image before it exists.
type Plan struct {
	Size       int64       `json:"size"` // bytes
	ID         string      `json:"id"`   // GUID of the disk
	Grow       bool        `json:"grow"` // the root file system takes all of a larger disk
	Partitions []Partition `json:"partitions"`
}

// Partition is one partition of a Plan.
type Partition struct {
	Number     int    `json:"number"` // 1 for the first
	Type       string `json:"type"`   // definition.TypeBIOS and its kin
	ID         string `json:"id"`     // GUID of the partition
	Start      int64  `json:"start"`  // bytes
	Size       int64  `json:"size"`   // bytes
	Label      string `json:"label,omitempty"`
	Filesystem string `json:"filesystem,omitempty"`
	UUID       string `json:"uuid,omitempty"` // of the file system
	Mount      string `json:"mount,omitempty"`
	Options    string `json:"options,omitempty"`
}

// New lays the partitions of d out, aligned to 1 MiB. newUUID gives the identifier
// of the thing that it is told of. It fails where the partitions do not fit.
func New(d definition.Disk, newUUID func(of string) string) (Plan, error) {
	wanted := d.Layout.Resolve()
	plan := Plan{Size: int64(d.Size), ID: newUUID("disk"), Grow: d.Grow != nil && *d.Grow}
	rest := plan.Size - 2*align
	for _, w := range wanted {
		rest -= int64(w.Size)
	}
	start := align
	for i, w := range wanted {
		p := Partition{
			Number: i + 1, Type: w.Type, ID: newUUID(fmt.Sprintf("partition %d", i+1)), Start: start, Size: int64(w.Size),
			Label: w.Label, Filesystem: w.Filesystem, Mount: w.Mount, Options: w.Options,
		}
		if p.Size == 0 {
			p.Size = rest
		}
		if p.Size <= 0 || p.Start+p.Size > plan.Size-align {
			return Plan{}, fail.New(fail.Usage, "disk", "enlarge disk.size", "partition %d does not fit on a disk of %s", p.Number, d.Size)
		}
		if p.Filesystem != "" {
			p.UUID = p.kind().UUID(newUUID(fmt.Sprintf("file system %d", p.Number)))
		}
		start += p.Size
		plan.Partitions = append(plan.Partitions, p)
	}
	return plan, nil
}

// typeGUIDs are from the UEFI specification 2.10, table 5.7, the GRUB manual
// and the UAPI Group's Discoverable Partitions Specification.
var typeGUIDs = map[string]string{
	definition.TypeBIOS:  "21686148-6449-6E6F-744E-656564454649",
	definition.TypeESP:   "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
	definition.TypeSwap:  "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
	definition.TypeLinux: "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
}

// TypeOf is the type of a partition whose type in a GPT is that GUID, "" for one of no type of
// its own here.
func TypeOf(guid string) string {
	for kind, known := range typeGUIDs {
		if strings.EqualFold(known, guid) {
			return kind
		}
	}
	return ""
}

func (p Partition) typeGUID() string {
	if p.Mount == "/" {
		return arch.Target.RootType
	}
	return typeGUIDs[p.Type]
}

// Script is the partition table as sfdisk(8) reads it.
func (p Plan) Script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "label: gpt\nlabel-id: %s\nunit: sectors\nsector-size: %d\n\n", p.ID, SectorSize)
	for _, part := range p.Partitions {
		fmt.Fprintf(&b, "%d: start=%d, size=%d, type=%s, uuid=%s", part.Number, part.Start/SectorSize, part.Size/SectorSize, part.typeGUID(), part.ID)
		if part.Label != "" {
			fmt.Fprintf(&b, ", name=%q", part.Label)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// kind is what is known of the partition's file system; nil where it has none.
func (p Partition) kind() *filesystem.Filesystem { return filesystem.Named(p.Filesystem) }

func (p Partition) volume() filesystem.Volume { return filesystem.Volume{UUID: p.UUID, Label: p.Label} }

// FSTab is the image's /etc/fstab: every file system and swap by UUID.
func (p Plan) FSTab() string {
	var b strings.Builder
	b.WriteString("# <file system> <mount point> <type> <options> <dump> <pass>\n")
	for _, part := range p.byDepth() {
		fs := part.kind()
		if fs == nil || part.Mount == "" && fs.Mountable() {
			continue
		}
		pass := 0
		switch {
		case fs.BootCheck && part.Mount == "/":
			pass = 1
		case fs.BootCheck:
			pass = 2
		}
		mount, options := cmp.Or(part.Mount, "none"), cmp.Or(part.Options, fs.Usual)
		if part.Mount == "/" && p.Grow {
			options += ",x-systemd.growfs"
		}
		fmt.Fprintf(&b, "UUID=%s %s %s %s 0 %d\n", part.UUID, mount, part.Filesystem, options, pass)
	}
	return b.String()
}

// byDepth is the partitions in the order in which they can be mounted.
func (p Plan) byDepth() []Partition {
	depth := func(part Partition) int {
		if part.Mount == "" {
			return 1 << 10
		}
		return len(strings.FieldsFunc(part.Mount, func(r rune) bool { return r == '/' }))
	}
	sorted := slices.Clone(p.Partitions)
	slices.SortStableFunc(sorted, func(a, b Partition) int { return depth(a) - depth(b) })
	return sorted
}

// OfType is the first partition of the type, or nil.
func (p Plan) OfType(kind string) *Partition {
	for i := range p.Partitions {
		if p.Partitions[i].Type == kind {
			return &p.Partitions[i]
		}
	}
	return nil
}

// Holding is the partition whose file system holds the path of the image, and
// the path inside that file system.
func (p Plan) Holding(name string) (part Partition, inside string) {
	best := -1
	for _, candidate := range p.Partitions {
		rest, below := strings.CutPrefix(name+"/", strings.TrimSuffix(candidate.Mount, "/")+"/")
		if candidate.Mount != "" && below && len(candidate.Mount) > best {
			best, part, inside = len(candidate.Mount), candidate, path.Join("/", rest)
		}
	}
	return part, inside
}

// Packages is the Debian packages that the image needs to check its own file
// systems at boot.
func (p Plan) Packages() []string {
	var packages []string
	for _, part := range p.Partitions {
		if fs := part.kind(); fs != nil && fs.Package != "" && !slices.Contains(packages, fs.Package) {
			packages = append(packages, fs.Package)
		}
	}
	return packages
}
