package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/guest"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// In a guest apt has the same method as in a tree. It lies on the guest's disk alone, asks the
// builder for what the store has, and leaves there what it has downloaded.

// Where the method is in a guest, and where apt is told of it: by a file, since sudo and login
// shells keep no environment.
const (
	guestApt       = "/usr/local/lib/vmctl-apt"
	guestAptConfig = "/etc/apt/apt.conf.d/zz-vmctl"
)

// furnish gives the method to the copy of a tree that a guest's disk is made of.
func (f *fetching) furnish(root string) error {
	tree := host.Tree(root)
	if f == nil || !tree.Exists(aptmethod.MethodsFolder) {
		return nil
	}
	if err := tree.RemoveAll(guestApt); err != nil { // what lies there may lead elsewhere
		return err
	}
	at, err := tree.Path(guestApt)
	if err != nil {
		return err
	}
	f.inGuest = strings.TrimPrefix(at, root) // folders above it may be links
	s := f.settings
	s.Socket = guest.KeptSocket
	return cmp.Or(
		aptmethod.Prepare(at, guestApt, s), copyOfItself(aptmethod.Program(at)),
		tree.Write(guestAptConfig, []byte(aptmethod.Config(guestApt, s)), 0o644),
	)
}

// gather puts what the method of a guest has downloaded, of no more than some bytes, with its
// record where that of a tree puts it. Whatever the guest has written there, names are plain.
func (f *fetching) gather(ctx context.Context, disk guest.Snapshot, most int64) error {
	if f == nil || f.inGuest == "" {
		return nil
	}
	from, to := aptmethod.NewFolder(f.inGuest), aptmethod.NewFolder(f.folder)
	copied := func(name string) error {
		size, err := disk.Copy(ctx, path.Join(from, name), filepath.Join(to, name), most)
		most -= size
		return err
	}
	if err := copied(aptmethod.RecordName); err != nil {
		return err
	}
	record, err := aptmethod.ReadRecord(to)
	if err != nil {
		return err
	}
	for _, fetched := range record {
		if fetched.From != aptmethod.FromArchive {
			continue
		}
		if err := copied(fetched.Kept()); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("take %s from the guest: %w", fetched.Name, err)
		}
	}
	return nil
}

// isOwn says whether a name on a guest's disk is of the method, or of what does the work there.
func (f *fetching) isOwn(name string) bool {
	return guest.IsOwn(name) || f != nil && f.inGuest != "" && (name == f.inGuest || name == guestAptConfig)
}

// kept implements guest.Kept, one part after the other, with what the store has of archives.
func (w *workshop) kept() guest.Kept {
	names := map[string]string{}
	return func(sha256 string, into []byte, offset int64) (int, error) {
		if names[sha256] == "" {
			name, err := w.store.Kept(sha256)
			if name == "" || err != nil {
				return 0, cmp.Or(err, os.ErrNotExist)
			}
			names[sha256] = name
		}
		file, err := os.Open(filepath.Join(w.store.DownloadsFolder(), names[sha256]))
		if err != nil {
			return 0, err
		}
		defer file.Close()
		return file.ReadAt(into, offset)
	}
}
