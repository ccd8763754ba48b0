package rawdisk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// System is the tree of a machine's disk: its root file system, and in it the others of the
// disk where /etc/fstab mounts them.
type System struct {
	Table  Table
	Uses   []Use           // of its partitions, in their order
	mounts map[string]Tree // by path, "" for the root
}

// Entry is a node of a System.
type Entry struct {
	Path string // without a slash in front; "" for the root
	*Node
	volume Tree
}

const largestFstab = 1 << 20 // bytes

// OpenSystem finds the root file system of a disk, and those that belong into it. A disk
// without one, or whose files cannot be read, is wrong usage.
func OpenSystem(disk io.ReaderAt, size int64) (*System, error) {
	s := &System{mounts: map[string]Tree{}}
	var err error
	if s.Table, err = ReadTable(disk, size); err != nil {
		return nil, err
	}
	volumes := s.volumes(disk)
	root, fstab, err := rootOf(volumes)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, noRoot(volumes)
	}
	s.mounts[""] = root.tree
	if err := s.mount(volumes, root.Number, fstab); err != nil {
		return nil, err
	}
	return s, s.clean()
}

// volumes is what is in the partitions.
func (s *System) volumes(disk io.ReaderAt) []volume {
	volumes := make([]volume, len(s.Table.Partitions))
	for i, p := range s.Table.Partitions {
		v := &volumes[i]
		v.Partition = p
		content := io.NewSectionReader(disk, p.Start, p.Size)
		v.tree, v.kind, v.problem = Open(content, p.Size)
		v.uuid, v.label = v.identity(content)
	}
	return volumes
}

// rootLabels is how root file systems are called where their partitions do not tell.
var rootLabels = []string{"root", "rootfs", "cloudimg-rootfs"}

// rank is how much tells that a volume has the root file system, less its files; 0 for nothing.
func (v volume) rank() (rank int) {
	if strings.EqualFold(v.Type, arch.Target.RootType) {
		rank += 2
	}
	if slices.Contains(rootLabels, strings.ToLower(v.Label)) || slices.Contains(rootLabels, strings.ToLower(v.label)) {
		rank++
	}
	return rank
}

// rootOf is the volume that has the root file system, nil for none that can be read, and its
// /etc/fstab. One that has that file comes before one that is only said to be it.
func rootOf(volumes []volume) (root *volume, fstab []byte, err error) {
	most := 0
	for i := range volumes {
		v := &volumes[i]
		if v.tree == nil || v.tree.Kind() != filesystem.Ext4 {
			continue
		}
		rank, table := v.rank(), []byte(nil)
		if found, err := Find(v.tree, "etc/fstab"); err == nil && found != nil && found.IsRegular() && found.Size <= largestFstab {
			if table, err = content(found); err != nil {
				return nil, nil, err
			}
			rank += 4
		} else if !v.looksLikeRoot() {
			continue
		}
		if rank > most {
			root, fstab, most = v, table, rank
		}
	}
	return root, fstab, nil
}

// looksLikeRoot says so of a file system without /etc/fstab.
func (v volume) looksLikeRoot() bool {
	for _, name := range []string{"etc", "usr"} {
		if found, err := Find(v.tree, name); err != nil || found == nil || !found.IsFolder() {
			return false
		}
	}
	return true
}

// OpenMounts is what belongs into the root file system of a disk, which is in the partition with
// that number; its /etc/fstab is given since its files cannot be read here.
func OpenMounts(disk io.ReaderAt, size int64, root int, fstab []byte) (*System, error) {
	s := &System{mounts: map[string]Tree{}}
	var err error
	if s.Table, err = ReadTable(disk, size); err != nil {
		return nil, err
	}
	if err := s.mount(s.volumes(disk), root, fstab); err != nil {
		return nil, err
	}
	return s, s.clean()
}

// clean is an error where a file system was not unmounted.
func (s *System) clean() error {
	for _, tree := range s.mounts {
		if e, ok := tree.(*ext4); ok && e.incompatible&ext4Recover != 0 {
			return fail.New(fail.Usage, "", "shut its machine down, or check it with fsck", "a file system was in use when the image was made")
		}
	}
	return nil
}

// Unread is the error about a disk whose root file system seems to be of a kind that is known,
// and whose files vmctl does not read.
type Unread struct {
	Partition
	Filesystem string
}

func (u *Unread) Error() string {
	return fmt.Sprintf("vmctl does not read files of %s (partition %d)", u.Filesystem, u.Number)
}

func noRoot(volumes []volume) error {
	const hint = "name a disk whose root file system is " + filesystem.Ext4
	for _, v := range volumes {
		if v.problem != nil {
			return fail.New(fail.Usage, "", hint, "no root file system can be read in it: partition %d: %w", v.Number, v.problem)
		}
	}
	var unread *Unread
	most := -1
	for _, v := range volumes {
		if fs := filesystem.Named(v.kind); fs != nil && fs.HoldsTree() && v.tree == nil && v.rank() > most {
			unread, most = &Unread{v.Partition, v.kind}, v.rank()
		}
	}
	if unread != nil {
		return &fail.Error{Kind: fail.Usage, Hint: hint, Err: unread}
	}
	return fail.New(fail.Usage, "", hint, "there is no Linux root file system in it")
}

// Walk visits every file, a folder before what is in it and in the order of their names; of
// what OpenMounts has opened, one file system after the other.
// What tools of file systems keep in them (lost+found) is no part of the tree.
func (s *System) Walk(ctx context.Context, visit func(Entry) error) error {
	bounds := map[Tree]*Bounds{}
	var walk func(e Entry) error
	walk = func(e Entry) error {
		if bounds[e.volume] == nil {
			bounds[e.volume] = &Bounds{}
		}
		if err := bounds[e.volume].Meet(e.Path, e.Node); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visit(e); err != nil || !e.IsFolder() {
			return err
		}
		names, err := e.volume.List(e.Node)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		top := s.mounts[e.Path] == e.volume
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if top && name == "lost+found" && names[name].IsFolder() {
				continue
			}
			below := Entry{path.Join(e.Path, name), names[name], e.volume}
			if mounted := s.mounts[below.Path]; mounted != nil && names[name].IsFolder() {
				if below, err = mountedAt(below.Path, mounted); err != nil {
					return err
				}
			}
			if err := walk(below); err != nil {
				return err
			}
		}
		return nil
	}
	tops := []string{""}
	if s.mounts[""] == nil {
		tops = slices.Sorted(maps.Keys(s.mounts))
	}
	for _, at := range tops {
		if bounds[s.mounts[at]] != nil {
			continue // it lies in one that was visited
		}
		top, err := mountedAt(at, s.mounts[at])
		if err == nil {
			err = walk(top)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func mountedAt(at string, volume Tree) (Entry, error) {
	root, err := volume.Root()
	return Entry{at, root, volume}, err
}

// SameFile identifies a file that may have several names.
func (e Entry) SameFile() any {
	return struct {
		volume Tree
		number uint64
	}{e.volume, e.Number}
}

// ReadFile is the content of a file of at most so many bytes. Links are not followed.
func (s *System) ReadFile(name string, most int64) ([]byte, error) {
	n, err := s.Find(name)
	switch {
	case err != nil:
		return nil, err
	case n == nil || !n.IsRegular():
		return nil, fail.New(fail.Usage, "", "", "there is no file /%s in it", name)
	case n.Size > most:
		return nil, fail.New(fail.Usage, "", "", "/%s is larger than %d bytes", name, most)
	}
	return content(n)
}

// Find is the node of that path, nil where there is none. Links are not followed.
func (s *System) Find(name string) (*Node, error) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	at := ""
	for mount := range s.mounts {
		if len(mount) > len(at) && strings.HasPrefix(name+"/", mount+"/") {
			at = mount
		}
	}
	inside := strings.TrimPrefix(strings.TrimPrefix(name, at), "/")
	if inside == "" {
		return s.mounts[at].Root()
	}
	return Find(s.mounts[at], inside)
}

func content(n *Node) ([]byte, error) {
	c, err := n.Content()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.NewSectionReader(c, 0, n.Size))
	return b.Bytes(), err
}
