package disk

import "github.com/btw-img/btw-img/orchestrator/host"

const (
	repart       = "/usr/bin/systemd-repart"
	repartFolder = "/etc/repart.d"
)

// LetGrow tells systemd-repart(8) of a tree to enlarge the root partition to the end of the
// disk whenever the machine starts; an option in FSTab has systemd-growfs(8) enlarge the
// file system. Trees without it, or with rules of their own, stay as they are.
func (p Plan) LetGrow(root string) error {
	tree := host.Tree(root)
	if !p.Grow || !tree.Exists(repart) {
		return nil
	}
	if own, err := tree.Glob(repartFolder + "/*.conf"); err != nil || len(own) > 0 {
		return err
	}
	return tree.Write(repartFolder+"/50-root.conf", []byte("[Partition]\nType=root\n"), 0o644)
}
