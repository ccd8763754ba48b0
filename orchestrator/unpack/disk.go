package unpack

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// Disk gives the folder root, which is empty, the tree of a machine's disk.
func Disk(ctx context.Context, system *rawdisk.System, root string) error {
	t, err := openTree(root)
	if err != nil {
		return err
	}
	return t.addDisk(ctx, system)
}

// Mounts adds what belongs into the root file system of a disk, whose files are in the folder
// root.
func Mounts(ctx context.Context, system *rawdisk.System, root string) error {
	t, err := reopenTree(root)
	if err != nil {
		return err
	}
	return t.addDisk(ctx, system)
}

func (t *tree) addDisk(ctx context.Context, system *rawdisk.System) error {
	first := map[any]string{} // names of files that have several
	return t.close(system.Walk(ctx, func(e rawdisk.Entry) error {
		name := "/" + e.Path
		if err := t.meet(name, 0); err != nil { // its size is that of the disk at most
			return err
		}
		if err := t.take(ctx, name, e, first); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	}))
}

func (t *tree) take(ctx context.Context, name string, e rawdisk.Entry, first map[any]string) error {
	switch kindOf(e.Node) {
	case unix.S_IFSOCK:
		return nil // nothing by itself
	case unix.S_IFCHR, unix.S_IFBLK:
		if strings.HasPrefix(name, "/dev/") {
			return nil
		}
		return noDevices()
	}
	if !e.IsFolder() && e.Number != 0 && e.Links > 1 {
		if other, met := first[e.SameFile()]; met {
			return t.link(name, other)
		}
		first[e.SameFile()] = name
	}
	node := *e.Node
	node.Attributes = maps.Clone(e.Attributes)
	maps.DeleteFunc(node.Attributes, func(attribute, _ string) bool { return !files.OfTheFile(attribute) })
	return t.put(name, &node, ContentOf(ctx, e.Node))
}
