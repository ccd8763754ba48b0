// Package store keeps layers of trees by key. A layer is what one step of a build
// added to the layers below it; its key is the digest of all that went into it. Layers
// are overlays (overlayfs of Linux), or copies of the whole tree where the store's file
// system cannot hold an overlay's upper folder; who uses them sees the same tree. One
// thing alone tells them apart: in an overlay, a name that is changed or moved is no
// longer another name of the same file, if a layer below has several for it.
//
// On disk, below the store's folder:
//
//	secret                   random bytes, made once
//	layers/KEY/tree          upper folder of an overlay, with its whiteouts, or a whole tree
//	layers/KEY/inventory.gz  all that is in tree
//	layers/KEY/layer.json    what the layer stands on, and what its maker says of it
//	layers/KEY/used          its time is when the layer was last asked for
//	layers/KEY/lock          flock(2): shared by who uses the layer, exclusive to remove it
//	downloads/SHA256-NAME    a file from an archive of packages, or for a source; its time is when it was last used
//	partial/                 what is being downloaded and not whole, with a lock on each file
//	downloads/lock           shared by builds that cannot download
//	work/RANDOM              a layer or downloads that are being made or removed, with a lock as above
//
// Own gives others folders beside these.
//
// A layer comes and goes by rename(2), so that it is there whole or not at all, whenever
// a process is killed, and locks end with the process that holds them. Several processes
// may share a store.
//
// Nothing is synced: a power failure may truncate files of a layer that was just
// committed, or fill them with zeros. Get finds those whose size or time is not what
// the inventory says, which is what file systems commonly leave; Verify finds the rest.
package store

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Key is the digest of all that went into a layer: 64 hex digits.
type Key string

const (
	keyDigits      = 64
	shortestPrefix = 8
)

func (k Key) check() error {
	if len(k) != keyDigits || !isHex(string(k)) {
		return fmt.Errorf("%q is no key of a layer", string(k))
	}
	return nil
}

// short is enough of a key for people.
func (k Key) short() string { return string(k[:min(len(k), 12)]) }

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// Mode is how a store makes layers.
type Mode string

// The modes. Which one it is shows at the first Begin.
const (
	Unknown Mode = ""
	Overlay Mode = "overlay" // a layer holds what it adds
	Copy    Mode = "copy"    // a layer holds the whole tree
)

// Store is a folder of layers. Its methods may be called at the same time.
type Store struct {
	// Note is told what happened to layers unasked; nil for nobody.
	Note func(text string)

	folder, layers, downloads, work string

	probing sync.Mutex
	mode    Mode
}

// Hints for what users can do about a store that fails.
const (
	hintFull  = "free space, remove layers with 'vmctl cache gc', or choose another store with --cache"
	hintOther = "choose another store with --cache"
	hintInUse = "wait for the build that uses it"
)

// Open opens the store at a folder, which it makes where there is none. The error is a
// *fail.Error of kind Host where root must not trust the folder, and where nothing can
// be written there.
func Open(folder string) (*Store, error) {
	s, err := open(folder)
	if err != nil {
		return nil, &fail.Error{
			Kind: fail.Host, Op: "store " + folder, Err: err,
			Hint: cmp.Or(fail.Hint(err), fail.Hint(explain("", err)), hintOther),
		}
	}
	return s, nil
}

func open(folder string) (*Store, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	s := &Store{folder: folder, layers: filepath.Join(folder, "layers"), downloads: filepath.Join(folder, "downloads"), work: filepath.Join(folder, "work")}
	if err := files.Trusted(folder); err != nil {
		return nil, err
	}
	// The store is root's, even where sudo made it, or the next caller could not trust it.
	// The folders above it are not.
	if err := files.Caller().MakeFolders(filepath.Dir(folder)); err != nil {
		return nil, err
	}
	if err := files.Prepare(folder, files.Owner{}); err != nil {
		return nil, err
	}
	for _, own := range []string{s.layers, s.downloads, s.work} {
		if err := prepareOwn(own); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// prepareOwn makes a folder of the store. Nobody else may enter it, for trees hold
// programs that run as their owner, and some of them are old.
func prepareOwn(folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "open", Path: folder, Err: unix.ENOTDIR}
	}
	if err := files.Trusted(folder); err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d: the layers in it are that one's", folder, owner)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, folder, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "write in", Path: folder, Err: err}
	}
	return nil
}

// Own is a folder in the store for something else that is kept with the layers. Nobody
// but the store's owner may enter it.
func (s *Store) Own(name string) (folder string, err error) {
	folder = filepath.Join(s.folder, name)
	return folder, explain("store", prepareOwn(folder))
}

// Folder is where the store is.
func (s *Store) Folder() string { return s.folder }

// Mode is how the store makes layers.
func (s *Store) Mode() Mode {
	s.probing.Lock()
	defer s.probing.Unlock()
	return s.mode
}

func (s *Store) note(format string, args ...any) {
	if s.Note != nil {
		s.Note(fmt.Sprintf(format, args...))
	}
}

func (s *Store) layerFolder(key Key) string { return filepath.Join(s.layers, string(key)) }

// workFolder is a name for a folder of work that nobody else uses.
func (s *Store) workFolder() string { return filepath.Join(s.work, rand.Text()) }

// Find is the key of the one layer whose key begins with the prefix, which has at
// least 8 digits.
func (s *Store) Find(prefix string) (Key, error) {
	prefix = strings.ToLower(prefix)
	if len(prefix) < shortestPrefix || !isHex(prefix) {
		return "", fail.New(fail.Usage, "", "'vmctl cache ls' shows the keys", "%q is no key of a layer, and not the first %d digits of one", prefix, shortestPrefix)
	}
	keys, err := s.keys()
	if err != nil {
		return "", err
	}
	var found []Key
	for _, key := range keys {
		if strings.HasPrefix(string(key), prefix) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return "", unknown(Key(prefix))
	case 1:
		return found[0], nil
	default:
		return "", fail.New(fail.Usage, "", "give more digits", "%d layers begin with %s", len(found), prefix)
	}
}

func unknown(key Key) error {
	return fail.New(fail.Usage, "", "'vmctl cache ls' shows the keys", "no layer %s in the store", key)
}

// keys is the keys of all layers, sorted.
func (s *Store) keys() ([]Key, error) {
	entries, err := os.ReadDir(s.layers)
	if err != nil {
		return nil, err
	}
	var keys []Key
	for _, entry := range entries {
		if key := Key(entry.Name()); key.check() == nil {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// explain gives an error its operation, and a full or unwritable store a kind and a hint.
func explain(op string, err error) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), strings.Contains(fail.Tail(err), "No space left on device"):
		hint = hintFull
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		hint = hintOther
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
	return &fail.Error{Kind: fail.Host, Op: op, Hint: hint, Err: err}
}
