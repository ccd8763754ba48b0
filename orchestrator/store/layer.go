package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Names in a layer's folder.
const (
	treeName      = "tree"
	inventoryName = "inventory.gz"
	recordName    = "layer.json"
	usedName      = "used"
)

// About is what a layer's maker says of it.
type About struct {
	Build   string          `json:"build,omitempty"`
	Title   string          `json:"title,omitempty"`
	Seconds float64         `json:"seconds,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`    // what the maker wants back with the layer
	Fetched json.RawMessage `json:"fetched,omitempty"` // what was downloaded for it
	// Packages is what it has done to the packages of the tree below.
	Packages json.RawMessage `json:"packages,omitempty"`
}

// Content is how much a layer adds to the tree below it; of one that is a copy, what the tree
// has.
type Content struct {
	Files   int   `json:"files"`   // names that it adds or changes, but for folders
	Removed int   `json:"removed"` // names that it removes; a folder is one
	Bytes   int64 `json:"bytes"`   // in those files, each once
	Whole   bool  `json:"whole"`   // it needs nothing below it
}

// record is layer.json.
type record struct {
	Version   int       `json:"version"`
	Key       Key       `json:"key"`
	About     About     `json:"about"`
	Below     []stand   `json:"below,omitempty"` // lowest first
	Whole     bool      `json:"whole"`           // the tree needs nothing below it
	Piece     bool      `json:"piece,omitempty"` // files that can be put on any tree
	Size      int64     `json:"size"`            // bytes that the tree takes on its file system
	Content   Content   `json:"content,omitzero"`
	Inventory string    `json:"inventory"` // SHA-256 of its text: it names the content
	Made      time.Time `json:"made"`
}

// recordVersion counts the forms that a layer's folder has had. Others are not read.
const recordVersion = 1

// stand is a layer that another one stands on. A layer that was made again under the
// same key has another content, and is no stand for those made on the one before it.
type stand struct {
	Key       Key    `json:"key"`
	Inventory string `json:"inventory"`
}

func (r *record) stand() stand { return stand{r.Key, r.Inventory} }

// readRecord reads the record of a key. The error is errDamaged or fs.ErrNotExist where
// it is not what Commit wrote.
func (s *Store) readRecord(key Key) (record, error) {
	content, err := os.ReadFile(filepath.Join(s.layerFolder(key), recordName))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(content, &r); err != nil {
		return record{}, fmt.Errorf("%s is %w: %w", recordName, errDamaged, err)
	}
	if r.Version != recordVersion || r.Key != key {
		return record{}, fmt.Errorf("%s is %w: version %d of layer %q", recordName, errDamaged, r.Version, r.Key)
	}
	return r, nil
}

// Layer is a layer that is in use: nobody removes it until it is released or the
// process ends.
type Layer struct {
	record record
	folder string
	lock   *os.File
}

// Key is the layer's key.
func (l *Layer) Key() Key { return l.record.Key }

// Made is when the layer was made.
func (l *Layer) Made() time.Time { return l.record.Made }

// About is what the layer's maker says of it.
func (l *Layer) About() About { return l.record.About }

// Content is how much the layer adds.
func (l *Layer) Content() Content {
	c := l.record.Content
	c.Whole = l.record.Whole
	return c
}

// Release ends the use of the layer. A second Release does nothing.
func (l *Layer) Release() error {
	lock := l.lock
	l.lock = nil
	if lock == nil {
		return nil
	}
	return lock.Close()
}

// Folder is where the files of a piece lie, which are to be read alone.
func (l *Layer) Folder() string { return l.tree() }

func (l *Layer) tree() string { return filepath.Join(l.folder, treeName) }

// Get is the layer of a key, nil where there is none. A layer that no longer matches its
// inventory, by lstat(2) of all that is in it, or whose stands are gone, is removed,
// Note is told, and it counts as none.
func (s *Store) Get(key Key) (*Layer, error) {
	layer, err := s.get(key)
	return layer, explain("layer "+key.short(), err)
}

func (s *Store) get(key Key) (*Layer, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	layer, err := s.use(key)
	if layer == nil {
		return nil, s.drop(key, err)
	}
	if err := s.check(context.Background(), layer, false); err != nil {
		return nil, errors.Join(layer.Release(), s.drop(key, err))
	}
	if err := touch(filepath.Join(layer.folder, usedName)); err != nil {
		return nil, errors.Join(err, layer.Release())
	}
	return layer, nil
}

// Use is the layer of a key as it is, for who needs no more than to know that it stays; nil
// where there is none. Get compares it with its inventory, which tells of files as they are in
// the jail that made it.
func (s *Store) Use(key Key) (*Layer, error) {
	layer, err := s.use(key)
	return layer, explain("layer "+key.short(), err)
}

// Stack is the layer of a key and all that it stands on, lowest first, each as Get gives
// it. It is empty where one of them is missing. Those known, which are in use, are not
// checked again.
func (s *Store) Stack(key Key, known []*Layer) (layers []*Layer, err error) {
	top, err := s.Get(key)
	if top == nil || err != nil {
		return nil, err
	}
	for _, below := range top.record.Below {
		layer, err := s.stand(below, known)
		if layer == nil || err != nil {
			return nil, errors.Join(err, releaseAll(append(layers, top)))
		}
		layers = append(layers, layer)
	}
	return append(layers, top), nil
}

// stand is a layer that another one stands on, nil where it is gone or another one.
func (s *Store) stand(below stand, known []*Layer) (*Layer, error) {
	for _, layer := range known {
		if layer.record.stand() == below {
			return s.again(layer)
		}
	}
	layer, err := s.Get(below.Key)
	if layer != nil && layer.record.stand() != below {
		return nil, layer.Release()
	}
	return layer, err
}

func releaseAll(layers []*Layer) error {
	var problems []error
	for _, layer := range layers {
		problems = append(problems, layer.Release())
	}
	return errors.Join(problems...)
}

// use takes a layer into use, unchecked. It is nil where there is none, and with an
// error that isDamage where it cannot be read.
func (s *Store) use(key Key) (*Layer, error) {
	lock, err := hold(s.layerFolder(key), unix.LOCK_SH)
	if lock == nil {
		return nil, err
	}
	r, err := s.readRecord(key)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Layer{record: r, folder: s.layerFolder(key), lock: lock}, nil
}

// again is the same layer, in use once more: whoever holds it may release it meanwhile.
func (s *Store) again(l *Layer) (*Layer, error) {
	layer, err := s.use(l.Key())
	switch {
	case err != nil:
		return nil, err
	case layer == nil:
		return nil, fmt.Errorf("layer %s is gone", l.Key().short())
	case layer.record.Inventory != l.record.Inventory:
		return nil, errors.Join(fmt.Errorf("layer %s is another one now", l.Key().short()), layer.Release())
	}
	return layer, nil
}

// isDamage says whether an error is the layer's fault, which is mended by removing it,
// and not that of a moment.
func isDamage(err error) bool {
	for _, sign := range []error{errDamaged, fs.ErrNotExist, unix.ENOTDIR, unix.ELOOP, unix.EIO, unix.EUCLEAN, unix.EBADMSG} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// check compares a layer with its inventory: whole digests everything, otherwise lstat(2)
// must do. The error isDamage where something differs.
func (s *Store) check(ctx context.Context, l *Layer, whole bool) error {
	if err := s.checkStands(&l.record); err != nil {
		return err
	}
	want, err := readInventory(filepath.Join(l.folder, inventoryName), l.record.Inventory)
	if err != nil {
		return err
	}
	got, err := takeInventory(l.tree())
	if err == nil && whole {
		err = got.complete(ctx, l.tree())
	}
	if err != nil {
		return err
	}
	if difference := want.difference(got, whole); difference != "" {
		return fmt.Errorf("%w: %s", errDamaged, difference)
	}
	return nil
}

// checkStands says with an error that isDamage whether the layers below are those that
// the layer was made on.
func (s *Store) checkStands(r *record) error {
	for _, below := range r.Below {
		found, err := s.readRecord(below.Key)
		if isDamage(err) {
			return fmt.Errorf("%w: layer %s, which it stands on, is gone", errDamaged, below.Key.short())
		}
		if err != nil {
			return err
		}
		if found.stand() != below {
			return fmt.Errorf("%w: layer %s, which it stands on, was made again", errDamaged, below.Key.short())
		}
	}
	return nil
}

// drop removes the layer that is damaged in the way that the error says, unless
// somebody uses it; another error is returned, and none drops nothing.
func (s *Store) drop(key Key, damage error) error {
	if damage == nil || !isDamage(damage) {
		return damage
	}
	lock, err := hold(s.layerFolder(key), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, errInUse) {
		s.note("layer %s is not used: %v", key.short(), damage)
		return nil
	}
	if lock == nil {
		return err
	}
	// Another process may have made it again meanwhile.
	if r, err := s.readRecord(key); err == nil {
		layer := &Layer{record: r, folder: s.layerFolder(key)}
		if err := s.check(context.Background(), layer, false); err == nil || !isDamage(err) {
			return errors.Join(err, lock.Close())
		}
	}
	s.note("layer %s is removed: %v", key.short(), damage)
	return s.remove(key, lock)
}

// remove removes a layer whose lock is held exclusively, and releases the lock.
func (s *Store) remove(key Key, lock *os.File) error {
	defer lock.Close()
	gone := s.workFolder()
	if err := os.Rename(s.layerFolder(key), gone); err != nil {
		return err
	}
	return erase(gone)
}

// touch makes a file's time now, and the file where there is none.
func touch(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Futimes(int(file.Fd()), nil)
}

func keysOf(stands []stand) []Key {
	keys := make([]Key, len(stands))
	for i, below := range stands {
		keys[i] = below.Key
	}
	return keys
}

func standsOf(layers []*Layer) []stand {
	stands := make([]stand, len(layers))
	for i, layer := range layers {
		stands[i] = layer.record.stand()
	}
	return stands
}

// checkChain says whether each of the layers stands on all those before it. A piece stands
// on none, and may be anywhere but first.
func checkChain(layers []*Layer) error {
	stands := standsOf(layers)
	for i, layer := range layers {
		if layer.record.Piece && i > 0 {
			continue
		}
		if layer.record.Piece || !slices.Equal(layer.record.Below, stands[:i]) {
			return fmt.Errorf("layer %s does not stand on those given: %v", layer.Key().short(), keysOf(stands[:i]))
		}
	}
	return nil
}

// Names is what a layer adds, changes or removes besides folders, as paths from the tree's
// root, without a slash before it. A layer that is a copy has all that the tree has.
func (l *Layer) Names() ([]string, error) {
	inv, err := readInventory(filepath.Join(l.folder, inventoryName), l.record.Inventory)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range inv.entries {
		if e := &inv.entries[i]; !e.is(unix.S_IFDIR) {
			names = append(names, e.Path)
		}
	}
	return names, nil
}
