package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Work is a layer that is being made.
type Work struct {
	store   *Store
	at      string       // where the tree is mounted
	folder  string       // of work, in the store; "" once it is committed or discarded
	made    string       // in folder: what becomes the layer's tree
	whole   bool         // the tree needs nothing below it
	piece   bool         // it is made of files that can be put on any tree
	below   []*Layer     // in use until the end
	held    scope.Stack  // the lock of folder, and below
	mounted func() error // unmounts the tree; nil where it is not mounted
}

// Begin starts a layer on the layers below it, lowest first and each standing on all
// those before it; a source has none. Until Commit or Discard the tree is mounted at a
// folder, which is made where there is none, and the layers below are in use.
func (s *Store) Begin(ctx context.Context, h host.Host, below []*Layer, at string) (begun *Work, err error) {
	return s.begin(ctx, h, below, at, false)
}

// BeginPiece starts a piece: files, and the folders that they are in, that can be put on
// any tree.
func (s *Store) BeginPiece(ctx context.Context, h host.Host, at string) (begun *Work, err error) {
	return s.begin(ctx, h, nil, at, true)
}

func (s *Store) begin(ctx context.Context, h host.Host, below []*Layer, at string, piece bool) (begun *Work, err error) {
	w := &Work{store: s, at: at, piece: piece}
	defer func() {
		if err != nil {
			begun, err = nil, explain("begin a layer", scope.Join(err, w.Discard()))
		}
	}()
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, err
	}
	if err := s.probe(h, at); err != nil {
		return nil, err
	}
	if w.below, err = s.useAll(below, &w.held); err != nil {
		return nil, err
	}
	folder, lock, err := s.newWork()
	if err != nil {
		return nil, err
	}
	w.folder = folder
	w.held.Push("unlock", lock.Close)
	if len(below) > 0 && s.Mode() == Overlay {
		return w, w.stack(h)
	}
	return w, w.fill(ctx, h)
}

// stack mounts an overlay of a new folder over the layers below.
func (w *Work) stack(h host.Host) error {
	w.made = filepath.Join(w.folder, upperName)
	lower := trees(w.below)
	if err := errors.Join(makeFolder(w.made), makeFolder(filepath.Join(w.folder, workdirName))); err != nil {
		return err
	}
	if err := likeRoot(w.made, rootOf(w.below)); err != nil {
		return err
	}
	unmount, err := mountOverlay(h, lower, w.folder, w.at)
	if err == nil {
		w.mounted = unmount
	}
	return err
}

// fill mounts a plain folder: empty, or a copy of the layers below.
func (w *Work) fill(ctx context.Context, h host.Host) (err error) {
	w.whole, w.made = !w.piece, filepath.Join(w.folder, treeName)
	if len(w.below) == 0 {
		err = makeFolder(w.made)
	} else {
		err = copyChain(ctx, h, w.below, w.at, w.made)
	}
	if err != nil {
		return err
	}
	unmount, err := bind(h, w.made, w.at, false)
	if err == nil {
		w.mounted = unmount
	}
	return err
}

// makeFolder makes a folder as the root of a tree has to be, whatever the umask is.
func makeFolder(path string) error {
	return errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o755))
}

// Root is the folder that is to be filled.
func (w *Work) Root() string { return w.at }

// Changed is a folder with all names that the work has changed so far, and maybe others. It
// is to be read alone.
func (w *Work) Changed() string {
	if w.whole || w.piece {
		return w.at
	}
	return w.made
}

// Commit unmounts the tree and makes it the layer of the key, which is in use by then.
// Where that layer has come into being meanwhile, it is returned and this one is
// discarded. After an error the work is to be discarded.
func (w *Work) Commit(ctx context.Context, key Key, about About) (_ *Layer, err error) {
	defer func() { err = explain("commit layer "+key.short(), err) }()
	if err := key.check(); err != nil {
		return nil, err
	}
	if w.folder == "" {
		return nil, errors.New("its work has ended")
	}
	if err := w.unmount(); err != nil {
		return nil, err
	}
	r, err := w.finish(ctx, key, about)
	if err != nil {
		return nil, err
	}
	layer, err := w.publish(r)
	if err != nil {
		return nil, err
	}
	if err := w.Discard(); err != nil {
		return nil, errors.Join(err, layer.Release())
	}
	return layer, nil
}

func (w *Work) unmount() error {
	if w.mounted == nil {
		return nil
	}
	err := w.mounted()
	if err == nil {
		w.mounted = nil
	}
	return err
}

// finish makes the folder of work what the layer's folder is.
func (w *Work) finish(ctx context.Context, key Key, about About) (record, error) {
	tree := filepath.Join(w.folder, treeName)
	if err := os.RemoveAll(filepath.Join(w.folder, workdirName)); err != nil {
		return record{}, err
	}
	if err := unix.Rename(w.made, tree); err != nil {
		return record{}, &os.LinkError{Op: "rename", Old: w.made, New: tree, Err: err}
	}
	w.made = tree
	inv, err := takeInventory(tree)
	if err != nil {
		return record{}, err
	}
	if err := inv.complete(ctx, tree); err != nil {
		return record{}, err
	}
	r := record{
		Version: recordVersion, Key: key, About: about, Below: standsOf(w.below), Whole: w.whole, Piece: w.piece,
		Size: inv.usage, Content: inv.content(w.whole), Made: time.Now().UTC(),
	}
	if r.Inventory, err = inv.write(filepath.Join(w.folder, inventoryName)); err != nil {
		return record{}, err
	}
	content, err := json.Marshal(r)
	if err != nil {
		return record{}, err
	}
	return r, errors.Join(
		writeNew(filepath.Join(w.folder, recordName), content),
		writeNew(filepath.Join(w.folder, usedName), nil),
	)
}

// publish gives the layer its name, or is the layer that has it.
func (w *Work) publish(r record) (*Layer, error) {
	folder := w.store.layerFolder(r.Key)
	for range 3 { // what has the name may be removed, and come again
		err := unix.Rename(w.folder, folder)
		if err == nil {
			w.folder = ""
			return w.store.use(r.Key)
		}
		if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTEMPTY) {
			return nil, &os.LinkError{Op: "rename", Old: w.folder, New: folder, Err: err}
		}
		theirs, err := w.store.get(r.Key)
		if theirs != nil || err != nil {
			return theirs, err
		}
	}
	return nil, fail.New(fail.Host, "", hintInUse, "the layer is there, damaged and in use")
}

// Discard unmounts and removes what was made. It does nothing after Commit.
func (w *Work) Discard() error {
	if err := w.unmount(); err != nil {
		return scope.Join(err, w.held.Close()) // what is in use is left for Collect
	}
	folder := w.folder
	w.folder = ""
	var err error
	if folder != "" {
		err = erase(folder)
	}
	return scope.Join(err, w.held.Close())
}
