package rawdisk

import (
	"bytes"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// Use is what a partition of a machine's disk is for, as the machine's /etc/fstab says.
type Use struct {
	Partition
	Filesystem      string // or what else is in it; "" for what is not known
	FilesystemLabel string
	Mount           string // absolute path; "" where it is not mounted
	Options         string // of mount(8)
}

// volume is what is in a partition.
type volume struct {
	Partition
	tree        Tree   // nil where it cannot be read
	kind        string // "" for unknown
	uuid, label string // of the file system, "" where it does not tell
	problem     error
}

// identities is where file systems that are not opened have their UUIDs and labels: bytes from
// their beginning, and how long the label may be.
var identities = map[string]struct{ uuid, label, labelSize int64 }{
	filesystem.XFS:   {32, 108, 12},
	filesystem.Btrfs: {0x10020, 0x1012b, 255},
	filesystem.Swap:  {1036, 1052, 16},
}

// identity is UUID and label of the file system in a partition, "" where it does not tell.
func (v volume) identity(content io.ReaderAt) (uuid, label string) {
	if v.tree != nil {
		for _, f := range v.tree.Facts() {
			switch f.What {
			case "UUID":
				uuid = f.Is
			case "file system label":
				label = f.Is
			}
		}
		return uuid, label
	}
	at, known := identities[v.kind]
	if !known {
		return "", ""
	}
	const uuidSize = 16
	raw := make([]byte, uuidSize+at.labelSize)
	if _, err := content.ReadAt(raw[:uuidSize], at.uuid); err != nil {
		return "", ""
	}
	if _, err := content.ReadAt(raw[uuidSize:], at.label); err != nil {
		return "", ""
	}
	return uuidText(raw[:uuidSize]), cString(raw[uuidSize:])
}

// mounting is a line of /etc/fstab (fstab(5)).
type mounting struct{ source, at, options string }

// mountings is what a table says that is mounted, or swapped on.
func mountings(fstab []byte) (all []mounting) {
	for line := range bytes.Lines(fstab) {
		fields := strings.Fields(string(line))
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		m := mounting{source: unescaped(fields[0])}
		if fs := filesystem.Named(fields[2]); fields[1] != "none" && (fs == nil || fs.Mountable()) {
			m.at = path.Clean("/" + unescaped(fields[1]))
		}
		if len(fields) > 3 {
			m.options = unescaped(fields[3])
		}
		all = append(all, m)
	}
	return all
}

// mount obeys what a table says of this disk, whose root file system is in the partition with
// that number.
func (s *System) mount(volumes []volume, root int, fstab []byte) error {
	for _, v := range volumes {
		use := Use{Partition: v.Partition, Filesystem: v.kind, FilesystemLabel: v.label}
		if v.Number == root {
			use.Mount = "/"
		}
		s.Uses = append(s.Uses, use)
	}
	all := mountings(fstab)
	disk := diskName(all, root)
nextLine:
	for _, m := range all {
		for i, v := range volumes {
			if !v.is(m.source, disk) {
				continue
			}
			if m.at == "" || m.at == "/" || v.Number != root {
				s.Uses[i].Options = m.options
			}
			at := strings.TrimPrefix(m.at, "/")
			switch {
			case m.at == "" || m.at == "/" || v.Number == root && (v.tree != nil || path.Base(at) == ".snapshots"):
				continue nextLine
			case v.Number == root:
				return fail.New(fail.Usage, "", "name a disk on which /"+at+" is no subvolume of its own", "vmctl does not read other subvolumes of %s than the root's (partition %d, of /%s)", v.kind, v.Number, at)
			}
			if v.problem != nil {
				return fail.New(fail.Usage, "", "", "partition %d, of /%s: %w", v.Number, at, v.problem)
			}
			if v.tree == nil {
				return fail.New(fail.Usage, "", "name a disk whose file systems are ext4 and FAT", "vmctl does not read files of %s (partition %d, of /%s)", v.kind, v.Number, at)
			}
			s.Uses[i].Mount = m.at
			s.mounts[at] = v.tree
			break
		} // else it is of another disk, or of none
	}
	return nil
}

// device is the name of a partition's: of its disk, and its number.
var device = regexp.MustCompile(`^(/dev/(?:[a-z]+|[a-z]+\d+(?:n\d+)?p))(\d+)$`)

// diskName is what a table calls the disk whose partition with that number is mounted as root,
// "" where it does not tell.
func diskName(all []mounting, root int) string {
	for _, m := range all {
		if found := device.FindStringSubmatch(m.source); m.at == "/" && found != nil && found[2] == strconv.Itoa(root) {
			return found[1]
		}
	}
	return ""
}

// is says whether the first field of a line of fstab means the volume, on a disk of that name.
func (v volume) is(source, disk string) bool {
	if disk != "" && source == disk+strconv.Itoa(v.Number) {
		return true
	}
	tag, value, found := strings.Cut(source, "=")
	if name, is := strings.CutPrefix(source, "/dev/disk/by-"); is {
		tag, value, found = strings.Cut(name, "/")
	}
	if value = strings.Trim(value, `"`); !found || value == "" {
		return false
	}
	switch strings.ToUpper(tag) {
	case "UUID":
		return strings.EqualFold(value, v.uuid)
	case "LABEL":
		return value == v.label
	case "PARTUUID":
		return strings.EqualFold(value, v.ID)
	case "PARTLABEL":
		return value == v.Label
	}
	return false
}

// unescaped is a field of fstab, in which spaces are octal.
func unescaped(field string) string {
	var out strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+3 < len(field) {
			if code, err := strconv.ParseUint(field[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(field[i])
	}
	return out.String()
}
