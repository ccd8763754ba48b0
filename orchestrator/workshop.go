package orchestrator

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/bootloader"
	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// workshop is the jail in which trees grow and a disk is made of them.
type workshop struct {
	plan        Plan
	secrets     secrets
	parts       parts
	store       *store.Store
	host        host.Host
	provisioner Provisioner
	outside     outside
	guests      guests
	supply      func() ([]string, error)                                                                                     // has the store get what the source is made of
	project     string                                                                                                       // the user's folder, as the user calls it
	entryPart   func(ctx context.Context, layer, entry int) (entryPart, error)                                               // as its files are now, both by their numbers
	assembler   func(ctx context.Context, h host.Host, plan disk.Plan, root, file, scratch string, filler disk.Filler) error // disk.Assemble
	log         io.Writer

	before   string                                   // what came of the build before: its Outcome
	fresh    string                                   // the layer from which on nothing of the store is used: everything, or a layer's name
	since    time.Time                                // what was made after it is fresh
	offline  bool                                     // the archives are as they were
	alone    bool                                     // programs of layers have no network
	diff     bool                                     // tell what entries change in files
	told     func(status, format string, args ...any) // of what the source does
	archives []source.Release                         // that an installer has installed from
	onDisk   *keptDisk                                // of an installer that has run; nil for none
	fetched  []aptmethod.Fetched                      // by the stage that runs
	onlyOld  bool                                     // what the store lacks ends the build, as notStored
	visit    visitAfter                               // of the tree of a stage that fails; nil for none
	stage    string                                   // folder in memory that all of the jail's own mounts are below
	work     string                                   // folder for large files, which end with the build
	results  string                                   // what the folder is called outside that work lies in
	changed  string                                   // folder with the names that differ from the tree below, and maybe others
	running  *run                                     // of the provisioner, which waits before an entry; nil for none
	ahead    *ahead                                   // an initramfs that is being made; nil for none
	known    []*store.Layer                           // in use until the build ends
	release  scope.Stack                              // what lasts until then
}

// outside is what needs power that the jail lacks.
type outside interface {
	disk.Filler
	// Compare compares the disk image file with the tree at root.
	Compare(ctx context.Context, plan disk.Plan, file, root string) error
	// Read gives the tree at root the files of a file system that lies in a file.
	Read(ctx context.Context, v disk.Volume, file, root string) error
}

// The places in the stage.
func (w *workshop) root() string    { return filepath.Join(w.stage, "tree") }
func (w *workshop) devices() string { return filepath.Join(w.stage, "dev") }
func (w *workshop) disk() string    { return filepath.Join(w.work, rawDiskName) }

// scratch is a folder in memory, gone with the jail, for what may be secret.
func (w *workshop) scratch(name string) string { return filepath.Join(w.stage, name) }

const rawDiskName = "disk.raw"

// tree is a root file system: layers, the lowest first.
type tree struct{ layers []*store.Layer }

func (t tree) top() *store.Layer    { return t.layers[len(t.layers)-1] }
func (t tree) source() *store.Layer { return t.layers[0] }

// recipe is how a tree is made of the one below it.
type recipe struct {
	title string
	layer string // the build that the work is of, "" for none
	piece bool   // it makes a piece, which is on nothing
	below tree
	key   store.Key // "" where only the finished tree tells it
	work  func(ctx context.Context, root string) error
	// Of the finished work: its key where that is not known before, and what is
	// remembered with it.
	finished func(root string) (key store.Key, data any, err error)
}

const (
	sourceTitle = "Source"
	layerTitle  = "Layer "
)

// Everything stands for the first of all layers, where one is named from which on a build
// is made anew.
const Everything = "*"

// stale says whether a recipe is followed although the store has what it makes. What
// stands on it has another key then, or goes with it.
func (w *workshop) stale(r recipe, found *store.Layer) bool {
	refreshed := w.fresh == Everything && r.title == sourceTitle || w.fresh != "" && (r.layer == w.fresh || r.piece)
	return refreshed && found.Made().Before(w.since)
}

// grow is one stage that makes a tree: from the store, or by the work of the recipe,
// which is then stored.
func grow(s *stages, w *workshop, r recipe) (tree, error) {
	return stepOr(s, r.title, func(ctx context.Context) (tree, bool, error) {
		found, err := w.find(r)
		if err != nil || found != nil {
			return found.orNone(), true, err
		}
		grown, stored, err := w.obtain(ctx, r)
		return grown, stored, w.explainFull(err)
	})
}

func (t *tree) orNone() tree {
	if t == nil {
		return tree{}
	}
	return *t
}

// obtain is the tree of a recipe that the store does not have: it is made, unless another
// build does that meanwhile; then it waits for that one, and the tree is stored.
func (w *workshop) obtain(ctx context.Context, r recipe) (made tree, stored bool, err error) {
	if w.onlyOld {
		return tree{}, false, notStored{r.below}
	}
	release, waited, err := w.claim(ctx, cmp.Or(string(r.key), w.parts.Source))
	if err != nil {
		return tree{}, false, err
	}
	defer release()
	if waited {
		if found, err := w.madeMeanwhile(ctx, r); err != nil || found != nil {
			return found.orNone(), true, err
		}
	}
	made, err = w.make(ctx, r)
	return made, false, w.missed(err)
}

// find is the tree of the recipe that the store has, nil for none. It need not have grown
// by the same steps.
func (w *workshop) find(r recipe) (*tree, error) {
	if r.key == "" {
		return nil, nil
	}
	found, err := w.store.Stack(r.key, w.known)
	if found == nil || err != nil {
		return nil, err
	}
	if !w.stale(r, found[len(found)-1]) {
		w.keep(found...)
		return &tree{found}, nil
	}
	for _, layer := range found {
		err = errors.Join(err, layer.Release())
	}
	return nil, errors.Join(err, w.store.Remove(r.key))
}

// keep keeps layers in use until the build ends.
func (w *workshop) keep(layers ...*store.Layer) {
	for _, layer := range layers {
		w.release.Push("release a layer", layer.Release)
	}
	w.known = append(w.known, layers...)
}

// claim waits until no other build makes what has that name, so that builds which
// share a layer make it once. It ends with the process that holds it.
func (w *workshop) claim(ctx context.Context, name string) (release func(), waited bool, err error) {
	folder := filepath.Join(w.store.Folder(), "claims")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, false, err
	}
	lock := openLock(filepath.Join(folder, name[:2])) // few files; who waits for a stranger waits not for long
	free, err := lock.TryLock()
	if err == nil && !free {
		_, err = lock.TryLockContext(ctx, 100*time.Millisecond)
	}
	if err != nil {
		return nil, false, fmt.Errorf("wait for another build: %w", err)
	}
	return func() { _ = lock.Close() }, !free, nil
}

// madeMeanwhile is the tree of the recipe where another build has made it while this
// one waited.
func (w *workshop) madeMeanwhile(ctx context.Context, r recipe) (*tree, error) {
	if r.key == "" {
		var err error
		if r.key, err = w.knownSource(ctx); err != nil {
			return nil, err
		}
	}
	return w.find(r)
}

func (w *workshop) make(ctx context.Context, r recipe) (made tree, err error) {
	w.fetched = nil
	var begun *store.Work
	if r.piece {
		begun, err = w.store.BeginPiece(ctx, w.host, w.root())
	} else {
		begun, err = w.store.Begin(ctx, w.host, r.below.layers, w.root())
	}
	if err != nil {
		return tree{}, err
	}
	defer func() { err = scope.Join(err, begun.Discard()) }()
	w.changed = begun.Changed()
	before := packagesIn(begun.Root())
	if err := r.work(ctx, begun.Root()); err != nil {
		return tree{}, w.rescueAsIs(ctx, begun.Root(), w.explainFull(err))
	}
	key, data := r.key, any(nil)
	if r.finished != nil {
		if key, data, err = r.finished(begun.Root()); err != nil {
			return tree{}, err
		}
	}
	remembered, err := json.Marshal(data)
	if err != nil {
		return tree{}, err
	}
	fetched, err := w.fetchedJSON()
	if err != nil {
		return tree{}, err
	}
	packages, err := json.Marshal(debian.Differences(before, packagesIn(begun.Root())))
	if err != nil {
		return tree{}, err
	}
	if r.key != key { // the store may have had it all the time
		r.key = key
		if found, err := w.find(r); found != nil || err != nil {
			return found.orNone(), err
		}
	}
	layer, err := begun.Commit(ctx, key, store.About{Build: w.plan.Definition.Name, Title: r.title, Data: remembered, Fetched: fetched, Packages: packages})
	if err != nil {
		return tree{}, err
	}
	w.keep(layer)
	return tree{append(r.below.layers[:len(r.below.layers):len(r.below.layers)], layer)}, nil
}

// explainFull says where a tool found no room: the store that it writes into without
// knowing, or the folder for files in passing.
func (w *workshop) explainFull(err error) error {
	return explainFull(err, storePlace(w.store.Folder()), resultsPlace(w.work, w.results))
}

// source makes the first tree: what the definition's source gives, with nothing in it
// that is one machine's.
func (w *workshop) source(key store.Key) recipe {
	d := w.plan.Definition
	var facts sourceFacts
	return recipe{
		title: sourceTitle, key: key,
		work: func(ctx context.Context, root string) error {
			facts.Pinned = w.plan.Pinned
			if err := w.fill(ctx, root); err != nil {
				return blame(d, err)
			}
			epoch, err := w.sourceEpoch(root)
			if err != nil {
				return err
			}
			facts.Epoch, facts.Disk = epoch.Unix(), w.onDisk
			if err := w.complete(ctx, root, chosenEpoch(epoch)); err != nil {
				return err
			}
			if err := errors.Join(seal.Begin(root), seal.DropCaches(root)); err != nil {
				return err
			}
			return seal.Clamp(root, chosenEpoch(epoch))
		},
		finished: func(root string) (store.Key, any, error) {
			if !d.Source.Archived() {
				return key, facts, nil
			}
			archive := w.archives
			if w.bootstrapped() {
				var err error
				if archive, err = source.Archive(root); err != nil {
					return "", nil, err
				}
			}
			facts.Archives = archive
			if w.plan.Lock != nil { // builds without it want what the archive has
				return w.parts.sourceKey(archive), facts, nil
			}
			return w.parts.sourceKey(archive), facts, w.rememberArchive(archive)
		},
	}
}

// entered does work that runs the tree's own programs.
func (w *workshop) entered(ctx context.Context, root, hostname string, work func() error) (err error) {
	leave, err := chroot.Enter(w.host, root, w.devices(), hostname, w.endProcesses)
	if err != nil {
		return err
	}
	defer func() { err = scope.Join(err, leave()) }()
	return w.rescue(ctx, root, work())
}

// identify gives the disk identifiers: those of a tree with that seed on a disk of that
// plan, so that images that differ in anything differ in them.
func (w *workshop) identify(seed string) error {
	seed = digestOf(seed, w.plan.Definition.Name, w.parts.Disk)
	plan, err := NewPlan(w.plan.Definition, func(of string) string {
		return uuid.NewSHA1(uuid.Nil, []byte(seed+" "+of)).String()
	})
	w.plan.Disk, w.plan.Boot, w.plan.FSTab = plan.Disk, plan.Boot, plan.FSTab
	return err
}

// The parts of the stages that write identifiers into the tree. These derive from the tree
// below, whose key is in that of the stages.
func (w *workshop) bootPart() string { return digestOf(w.parts.Maker, w.parts.Disk, "boot") }
func (w *workshop) sealPart() string { return digestOf(w.parts.Maker, "seal") }

// outcome identifies what comes of a build whose source has that key, to this store
// alone: build.json tells it, and secrets may be among what it is a digest of.
func (w *workshop) outcome(key store.Key) (string, error) {
	for _, layer := range w.parts.Layers {
		for _, entry := range layer {
			key = following(key, entry.Digest)
		}
	}
	key = following(following(following(key, w.bootPart()), w.sealPart()), w.plan.Definition.Python)
	secret, err := w.store.Secret()
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(following(key, digestOf(w.parts.Maker, w.plan.Definition.Name, w.parts.Disk, w.parts.Outputs))))
	return hex.EncodeToString(mac.Sum(nil)), nil
}

// growBoot makes the tree bootable on the disk that is planned for it.
func growBoot(s *stages, w *workshop, t layeredTree) (bootableTree, error) {
	key := following(t.top().Key(), w.bootPart())
	below := t.tree
	found, err := w.find(recipe{key: key})
	if err == nil && found == nil && !w.onlyOld {
		below, err = growInitramfs(s, w, t)
	}
	if err = errors.Join(err, w.endAhead()); err != nil {
		return bootableTree{}, err
	}
	grown, err := grow(s, w, w.boot(below, key))
	return bootableTree{grown}, err
}

// boot is the recipe of the boot loader.
func (w *workshop) boot(below tree, key store.Key) recipe {
	var facts DiskFacts
	return recipe{
		title: "Boot loader", below: below, key: key,
		work: func(ctx context.Context, root string) error {
			epoch, err := below.epoch()
			if err != nil {
				return err
			}
			seed, err := contentSeed(root, w.changed, epoch)
			if err != nil {
				return err
			}
			if err := w.identify(seed); err != nil {
				return err
			}
			if facts, err = w.makeBootable(ctx, dated(w.host, epoch), below, root); err != nil {
				return err
			}
			facts.Seed, facts.Epoch = seed, epoch.Unix()
			return seal.ClampChanged(root, w.changed, epoch)
		},
		finished: func(string) (store.Key, any, error) {
			return key, facts, nil
		},
	}
}

// makeBootable needs the identified disk.
func (w *workshop) makeBootable(ctx context.Context, h host.Host, below tree, root string) (facts DiskFacts, err error) {
	if err := errors.Join(w.plan.identity().Settle(root), w.makeMountPoints(root), w.plan.Disk.LetGrow(root)); err != nil {
		return facts, err
	}
	err = w.entered(ctx, root, w.plan.Definition.Hostname, func() (err error) {
		if err := chroot.RestoreInitramfs(ctx, h, root); err != nil {
			return err
		}
		target := bootloader.Target{Root: root, Scratch: w.stage}
		if target.Initramfs, err = below.rememberInitramfs(root); err != nil {
			return err
		}
		facts.Packages, err = bootloader.Apply(ctx, h, w.plan.Boot, target)
		return err
	})
	if err == nil {
		facts.Starts, err = startsAtBoot(root)
	}
	return facts, err
}

func (w *workshop) makeMountPoints(root string) error {
	for _, part := range w.plan.Disk.Partitions {
		if part.Mount == "" {
			continue
		}
		if err := host.Tree(root).MkdirAll(part.Mount); err != nil {
			return err
		}
	}
	return nil
}

// facts is what the boot loader's stage has found out.
func (t bootableTree) facts() (facts DiskFacts, err error) {
	err = json.Unmarshal(t.top().About().Data, &facts)
	return facts, err
}

// sealing turns the tree of one machine into that of many.
func (w *workshop) sealing(t bootableTree) recipe {
	return recipe{
		title: "Seal", below: t.tree, key: following(t.top().Key(), w.sealPart()),
		work: func(ctx context.Context, root string) error {
			epoch, err := t.epoch()
			if err != nil {
				return err
			}
			err = w.entered(ctx, root, w.plan.Definition.Hostname, func() error { return seal.FirstBoot(ctx, dated(w.host, epoch), root) })
			if err != nil {
				return err
			}
			return cmp.Or(seal.Apply(root), seal.ClampChanged(root, w.changed, epoch))
		},
	}
}

// assemble makes the disk of the finished tree.
func (w *workshop) assemble(ctx context.Context, t sealedTree) (raw rawDisk, err error) {
	epoch, err := t.epoch()
	if err != nil {
		return rawDisk{}, err
	}
	unmount, err := w.store.Mount(w.host, t.layers, w.root())
	if err != nil {
		return rawDisk{}, err
	}
	w.release.Push("unmount the tree", unmount)
	scratch := filepath.Join(w.work, "disk")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return rawDisk{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	err = w.assembler(ctx, dated(w.host, epoch), w.plan.Disk, w.root(), w.disk(), scratch, w.outside)
	if err == nil {
		err = bootloader.Embed(w.plan.Boot, w.root(), w.disk())
	}
	return rawDisk{w.disk(), t}, explainFull(err, resultsPlace(w.work, w.results))
}

// compare makes sure that the disk is sound and holds the tree, and digests it meanwhile.
func (w *workshop) compare(ctx context.Context, raw rawDisk) (content DiskContent, err error) {
	all, together := errgroup.WithContext(ctx)
	all.Go(func() error { return disk.CheckFilled(together, w.host, w.plan.Disk, raw.file) })
	all.Go(func() error { return w.outside.Compare(together, w.plan.Disk, raw.file, w.root()) })
	all.Go(func() (err error) {
		content.SHA256, content.Size, err = image.Digest(together, raw.file)
		return err
	})
	return content, all.Wait()
}
