package disk

import (
	"fmt"
	"path"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

// Describe is how Assemble makes the file systems of the disk image file from the tree
// at root, in the words of the tools that do it.
func (p Plan) Describe(file, root string) string {
	var b strings.Builder
	for _, part := range p.Partitions {
		if part.Filesystem != "" {
			part.describe(&b, file, root)
		}
	}
	return b.String()
}

func (p Partition) describe(b *strings.Builder, file, root string) {
	fs, own, folder := p.kind(), fmt.Sprintf("PARTITION-%d", p.Number), ""
	if p.Mount != "" {
		folder = path.Join(root, p.Mount)
	}
	target := p.target(file, own)
	fmt.Fprintln(b, fs.Mkfs(p.volume(), target, folder))
	if folder != "" {
		switch fs.Filling {
		case filesystem.ByMtools:
			fmt.Fprintln(b, mcopy(own, "FOLDER", path.Join(folder, "FOLDER", "FILES")))
		case filesystem.ByKernel:
			at := fmt.Sprintf("MOUNT-%d", p.Number)
			fmt.Fprintf(b, "# The kernel mounts %s on %s.\n%s\n", own, at, copyTree(folder, at))
		}
	}
	if fs.Fsck != nil {
		fmt.Fprintln(b, fs.Fsck(target))
	}
	if target.File == own {
		fmt.Fprintf(b, "# What %s holds goes into %s, from byte %d on.\n", own, file, p.Start)
	}
}
