package rawdisk

import "strings"

const (
	mostFiles   = 10_000_000
	deepestPath = 512
)

// Bounds keeps count of what is met in a tree: a damaged one may have no end.
type Bounds struct {
	met     int
	folders map[uint64]bool
}

// Meet counts a node by its name, and refuses what cannot be in a tree.
func (b *Bounds) Meet(name string, n *Node) error {
	if b.met++; b.met > mostFiles || strings.Count(name, "/") > deepestPath {
		return Damaged("it has more than %d files, or folders more than %d deep", mostFiles, deepestPath)
	}
	if !n.IsFolder() || n.Number == 0 {
		return nil
	}
	if b.folders[n.Number] {
		return Damaged("folder %d has two names", n.Number)
	}
	if b.folders == nil {
		b.folders = map[uint64]bool{}
	}
	b.folders[n.Number] = true
	return nil
}
