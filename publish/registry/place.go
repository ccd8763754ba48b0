package registry

import (
	"context"
	"io/fs"
	"os"

	"oras.land/oras-go/v2"
)

// Place is where to read images from.
type Place interface {
	oras.ReadOnlyGraphTarget
}

// OpenPlace opens the place to read from. Whether a registry is there is not asked; a
// layout or archive that cannot be read is a fail.Registry or fail.Host error.
func (a Access) OpenPlace(ctx context.Context, r Reference) (Place, error) {
	if r.kind == inRegistry {
		return a.repository(ctx, r)
	}
	open := openArchiveFS
	if r.kind == inLayout {
		open = openLayoutFS
	}
	fsys, err := open(r.path)
	if err != nil {
		return nil, unreadable(r, err)
	}
	store, err := OpenStore(fsys)
	if err != nil {
		return nil, unreadable(r, err)
	}
	return store, nil
}

func openLayoutFS(path string) (fs.FS, error) {
	root, err := os.OpenRoot(path) // open until the process ends
	if err != nil {
		return nil, err
	}
	return FolderFS(root, "."), nil
}

// Destination is a place to push to. Commit makes what was pushed visible,
// where that does not happen at once; Close gives up what was not committed.
type Destination interface {
	oras.Target
	Commit(ctx context.Context) error
	Close() error
}

// OpenDestination opens the place to push to. A layout is made where there is none, and
// locked until it is closed; an archive must not be there yet.
func (a Access) OpenDestination(ctx context.Context, r Reference) (Destination, error) {
	switch r.kind {
	case inArchive:
		return openArchive(r.path, a.Owner)
	case inLayout:
		return openLayout(r.path, a.Owner)
	default:
		repository, err := a.repository(ctx, r)
		if err != nil {
			return nil, err
		}
		return direct{repository}, nil
	}
}

// direct is a destination that shows everything at once.
type direct struct{ oras.Target }

func (direct) Commit(context.Context) error { return nil }
func (direct) Close() error                 { return nil }
