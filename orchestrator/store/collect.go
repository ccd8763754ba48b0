package store

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Info is what the store knows of a layer.
type Info struct {
	Key     Key       `json:"key"`
	About   About     `json:"about"`
	Below   []Key     `json:"below,omitempty"` // what it stands on, lowest first
	Size    int64     `json:"size"`            // bytes that its tree takes on its file system
	Used    time.Time `json:"used"`
	Made    time.Time `json:"made"`
	InUse   bool      `json:"inUse"`
	Problem string    `json:"problem,omitempty"` // why it cannot be used
}

// List is all layers, in the order in which they were made. Their trees are not looked
// at.
func (s *Store) List() ([]Info, error) {
	infos, err := s.list()
	for i := range infos {
		lock, locking := hold(s.layerFolder(infos[i].Key), unix.LOCK_EX|unix.LOCK_NB)
		infos[i].InUse = errors.Is(locking, errInUse)
		if lock != nil {
			lock.Close()
		}
	}
	return infos, explain("list the layers", err)
}

// list is List without knowing what is in use.
func (s *Store) list() ([]Info, error) {
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	var infos []Info
	for _, key := range keys {
		info, err := s.info(key)
		if _, gone := os.Lstat(s.layerFolder(key)); errors.Is(gone, fs.ErrNotExist) {
			continue // meanwhile
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(len(a.Below), len(b.Below)), cmp.Compare(a.Key, b.Key))
	})
	return infos, nil
}

func (s *Store) info(key Key) (Info, error) {
	info := Info{Key: key}
	r, err := s.readRecord(key)
	if err == nil {
		info.About, info.Below, info.Size, info.Made, info.Used = r.About, keysOf(r.Below), r.Size, r.Made, r.Made
		err = s.checkStands(&r)
	} else {
		info.Size = usage(s.layerFolder(key))
	}
	if used, err := os.Lstat(filepath.Join(s.layerFolder(key), usedName)); err == nil {
		info.Used = used.ModTime()
	}
	if isDamage(err) {
		info.Problem, err = err.Error(), nil
	}
	return info, err
}

// usage is how many bytes a folder takes on its file system, as far as can be told.
func usage(folder string) int64 {
	inv, err := takeInventory(folder)
	if err != nil {
		return 0
	}
	return inv.usage
}

// Verify compares all layers with their inventories, digests and extended attributes
// included; those that are damaged have a Problem.
func (s *Store) Verify(ctx context.Context) ([]Info, error) {
	infos, err := s.List()
	if err != nil {
		return nil, err
	}
	var there []Info
	for _, info := range infos {
		layer, err := s.use(info.Key)
		if layer == nil && err == nil {
			continue // it was removed meanwhile
		}
		if layer != nil {
			err = s.check(ctx, layer, true)
			err = errors.Join(err, layer.Release())
		}
		if isDamage(err) {
			info.Problem, err = err.Error(), nil
		}
		if err != nil {
			return nil, explain("verify layer "+info.Key.short(), err)
		}
		there = append(there, info)
	}
	return there, nil
}

// taken is a layer that nobody else can use, to be removed.
type taken struct {
	Info
	lock *os.File
}

// take locks layers and all that stand on them, those on top first. Layers that are not
// there are left out. The error is errInUse where any is in use: then none is locked.
func (s *Store) take(keys ...Key) (all []taken, err error) {
	locks := map[Key]*os.File{}
	defer func() {
		if err != nil {
			for _, lock := range locks {
				lock.Close()
			}
		}
	}()
	take := func(key Key) error {
		if locks[key] != nil {
			return nil
		}
		lock, err := hold(s.layerFolder(key), unix.LOCK_EX|unix.LOCK_NB)
		if lock != nil {
			locks[key] = lock
		}
		if errors.Is(err, errInUse) {
			return fail.New(fail.Host, "", hintInUse, "layer %s is %w", key.short(), err)
		}
		return err
	}
	for _, key := range keys {
		if err := take(key); err != nil {
			return nil, err
		}
	}
	// From now on nothing new can come to stand on them, for that takes their locks.
	infos, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		if slices.ContainsFunc(info.Below, func(below Key) bool { return slices.Contains(keys, below) }) {
			if err := take(info.Key); err != nil {
				return nil, err
			}
		}
		if lock := locks[info.Key]; lock != nil {
			all = append(all, taken{info, lock})
		}
	}
	slices.SortStableFunc(all, func(a, b taken) int { return cmp.Compare(len(b.Below), len(a.Below)) })
	return all, nil
}

func untake(all []taken) {
	for _, one := range all {
		one.lock.Close()
	}
}

// removeTaken removes what was taken, and says what it was.
func (s *Store) removeTaken(all []taken) (freed int64, removed []Key, err error) {
	for i, one := range all {
		if err := s.remove(one.Key, one.lock); err != nil {
			untake(all[i+1:])
			return freed, removed, err
		}
		freed += one.Size
		removed = append(removed, one.Key)
	}
	return freed, removed, nil
}

// Remove removes layers and what is built on them, unless any of those is in use.
func (s *Store) Remove(keys ...Key) error {
	var problems []error
	for _, key := range keys {
		if err := key.check(); err != nil {
			return fail.Wrap(fail.Usage, "", err)
		}
		if _, err := os.Lstat(s.layerFolder(key)); errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, unknown(key))
		}
	}
	if err := scope.Join(problems...); err != nil {
		return err
	}
	all, err := s.take(keys...)
	for range 5 { // who lists the layers has their locks for a moment
		if !errors.Is(err, errInUse) {
			break
		}
		time.Sleep(20 * time.Millisecond)
		all, err = s.take(keys...)
	}
	if err == nil {
		_, _, err = s.removeTaken(all)
	}
	return explain("remove layers", err)
}

// Collect removes work that nobody does any more, downloads that were begun long ago, layers that are damaged or whose
// stands are gone, and then the layers and downloads that were not used for longest, no
// layer before what stands on it, until what is left takes no more than the limit, in
// bytes; 0 is no limit. What is in use stays, and what that stands on. It returns how many
// bytes were freed, and which layers are gone.
func (s *Store) Collect(limit int64) (freed int64, removed []Key, err error) {
	c := collection{store: s}
	c.unfinished()
	c.stale()
	c.damaged()
	if limit > 0 {
		c.oldest(limit)
	}
	return c.freed, c.removed, explain("collect garbage", scope.Join(c.problems...))
}

// Trim is Collect without looking at trees, which takes long for many: damaged layers stay
// until they are asked for.
func (s *Store) Trim(limit int64) (freed int64, removed []Key, err error) {
	c := collection{store: s}
	c.unfinished()
	c.stale()
	if limit > 0 {
		c.oldest(limit)
	}
	return c.freed, c.removed, explain("cut the store down", scope.Join(c.problems...))
}

// Exceeds says whether layers and downloads take more than the limit, in bytes.
func (s *Store) Exceeds(limit int64) (bool, error) {
	infos, err := s.list()
	if err != nil {
		return false, explain("measure the store", err)
	}
	downloads, err := s.Downloads()
	size := int64(0)
	for _, info := range infos {
		size += info.Size
	}
	for _, d := range downloads {
		size += d.Size
	}
	return size > limit, err
}

type collection struct {
	store    *Store
	freed    int64
	removed  []Key
	problems []error
}

// unfinished removes the folders of work whose process is gone.
func (c *collection) unfinished() {
	entries, err := os.ReadDir(c.store.work)
	c.failed(err)
	for _, entry := range entries {
		if !entry.IsDir() {
			continue // not the store's
		}
		folder := filepath.Join(c.store.work, entry.Name())
		lock, err := hold(folder, unix.LOCK_EX|unix.LOCK_NB)
		if lock == nil {
			if !errors.Is(err, errInUse) {
				c.failed(err)
			}
			continue
		}
		size := usage(folder)
		if err := erase(folder); err == nil {
			c.freed += size
		} else {
			c.failed(err)
		}
		lock.Close()
	}
}

func (c *collection) failed(err error) {
	if err != nil {
		c.problems = append(c.problems, err)
	}
}

// damaged removes the layers that cannot be used, and what stands on them.
func (c *collection) damaged() {
	infos, err := c.store.list()
	c.failed(err)
	for _, info := range infos {
		problem := info.Problem
		if problem == "" {
			problem = c.problem(info.Key)
		}
		if problem != "" && c.remove(info.Key, false) {
			c.store.note("layer %s is removed: %s", info.Key.short(), problem)
		}
	}
}

// problem is what Get would find.
func (c *collection) problem(key Key) string {
	layer, err := c.store.use(key)
	if layer != nil {
		err = c.store.check(context.Background(), layer, false)
		c.failed(layer.Release())
	}
	if isDamage(err) {
		return err.Error()
	}
	c.failed(err)
	return ""
}

// oldest removes layers and downloads until the rest takes no more than the limit.
func (c *collection) oldest(limit int64) {
	stays := map[Key]bool{} // in use
	downloads := c.downloads()
	defer downloads.release()
	for {
		infos, err := c.store.list()
		c.failed(err)
		size := downloads.size
		under := map[Key]bool{}
		for _, info := range infos {
			size += info.Size
			for _, below := range info.Below {
				under[below] = true
			}
		}
		leaves := slices.DeleteFunc(infos, func(i Info) bool { return under[i.Key] || stays[i.Key] })
		slices.SortFunc(leaves, func(a, b Info) int { return a.Used.Compare(b.Used) })
		used := time.Now()
		if len(leaves) > 0 {
			used = leaves[0].Used
		}
		size -= downloads.remove(c, size-limit, used)
		if size <= limit || len(leaves) == 0 {
			return
		}
		stays[leaves[0].Key] = !c.remove(leaves[0].Key, true)
	}
}

// removable is the downloads, those first that were not used for longest.
type removable struct {
	files []Download // none where a build needs them
	size  int64      // bytes of all
	lock  *os.File
}

func (c *collection) downloads() *removable {
	all, err := c.store.Downloads()
	c.failed(err)
	r := &removable{}
	for _, d := range all {
		r.size += d.Size
	}
	lock, err := hold(c.store.downloads, unix.LOCK_EX|unix.LOCK_NB)
	if lock == nil {
		if !errors.Is(err, errInUse) {
			c.failed(err)
		}
		return r
	}
	slices.SortStableFunc(all, func(a, b Download) int { return a.Used.Compare(b.Used) })
	r.files, r.lock = all, lock
	return r
}

func (r *removable) release() {
	if r.lock != nil {
		r.lock.Close()
	}
}

// remove removes files that were last used before a time, until so many bytes are freed.
func (r *removable) remove(c *collection, bytes int64, before time.Time) (freed int64) {
	for len(r.files) > 0 && freed < bytes && r.files[0].Used.Before(before) {
		oldest := r.files[0]
		r.files = r.files[1:]
		if err := c.store.RemoveDownload(oldest); err != nil {
			c.failed(err)
			continue
		}
		freed += oldest.Size
	}
	r.size -= freed
	c.freed += freed
	return freed
}

// remove removes a layer, alone or with what stands on it, unless any of that is in use.
func (c *collection) remove(key Key, alone bool) bool {
	all, err := c.store.take(key)
	if !errors.Is(err, errInUse) {
		c.failed(err)
	}
	if alone && len(all) > 1 {
		untake(all)
		return false
	}
	freed, removed, err := c.store.removeTaken(all)
	c.failed(err)
	c.freed += freed
	c.removed = append(c.removed, removed...)
	return len(removed) > 0
}
