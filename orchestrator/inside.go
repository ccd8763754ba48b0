package orchestrator

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// Provisioner applies layers to a tree; cmd/vmctl wires Ansible in.
type Provisioner interface {
	Provision(ctx context.Context, p Provision) error
	// Install gets roles and collections from elsewhere.
	Install(ctx context.Context, i Installation) error
}

// Provision is entries of one layer, and the tree to apply them to.
type Provision struct {
	Root       string // the tree
	Chroot     string // what runs programs in it as chroot(8) does
	Guest      string // socket of the agent of a guest, in which entries are applied instead; "" for none
	Local      bool   // entries write files of the jail, not of a tree, and do nothing else
	Scratch    string // folder for files in passing
	Definition *definition.Definition
	Layer      definition.Layer  // with those entries
	Secrets    map[string]string // values of the secrets that they use
	Vault      string            // password of what is encrypted with ansible-vault; "" for none
	Facts      []bool            // of each entry, whether to find out what Ansible tells of the image before it
	Diff       bool              // tell what changes in files
	Machine    map[string]any    // facts of the machine that is being built, in place of the builder's
	Project    string            // the folder with the user's roles and all else that Ansible finds
	Installed  string            // folder with further roles and collections; "" for none
	Epoch      time.Time         // what the machine takes for now
	Env        []string
	// AllowLocalhost lets tasks act on the machine that builds.
	AllowLocalhost bool
	Log            io.Writer
	Task           func(status, text, output, diff string) // is told of each task, what it printed, and what it has changed in files
	// Build is further values of the variable build.
	Build map[string]any
	// Begin is called before each entry, by its number among these, and returns once the
	// tree is ready to run its programs in. Until then nothing of the run is in the tree.
	Begin func(ctx context.Context, entry int) error
}

// DiskFacts is what is known of a disk once it is made.
type DiskFacts struct {
	Packages []debian.Package `json:"packages"`
	// Disk is what it holds.
	Disk DiskContent `json:"disk"`
	// Outcome is the digest of all that the disk was made of, and of what is made of it.
	Outcome string `json:"outcome,omitempty"`
	// Materials is what archives gave for it.
	Materials Materials `json:"materials"`
	// Deferred is what entries wanted of a running system, and what comes with its first boot.
	Deferred []string `json:"deferred,omitempty"`
	// Starts is the units that start with the machine because they are enabled.
	Starts []string `json:"starts,omitempty"`
	// Layers is what each stage has made of the tree below it, the lowest first.
	Layers []gain `json:"layers,omitempty"`
	// Seed identifies the tree before it was made bootable, and with the disk's plan the disk.
	Seed string `json:"seed,omitempty"`
	// Epoch is the time after which nothing in it was changed, in seconds.
	Epoch int64 `json:"epoch,omitempty"`
}

// The states of the tree, in the order in which it takes them on.
type (
	layeredTree  struct{ tree }
	bootableTree struct{ tree }
	sealedTree   struct{ tree }
	rawDisk      struct {
		file string
		of   sealedTree
	}
)

const diskTitle = "Disk"

// buildDisk is the work in the jail: from nothing to a raw disk that boots. All but the
// last two stages make a tree of the tree before; what the store has is not made again.
// Where nothing has changed since the build before, nothing is made at all.
func buildDisk(s *stages, w *workshop) (facts DiskFacts, err error) {
	defer w.release.CloseInto(&err)
	key, unchanged, err := w.begin(s)
	if err != nil || unchanged {
		return DiskFacts{Outcome: w.before}, err
	}
	sealed, facts, err := growTree(s, w, key)
	if err != nil {
		return facts, err
	}
	raw, err := step(s, diskTitle, func(ctx context.Context) (rawDisk, error) { return w.assemble(ctx, sealed) })
	if err != nil {
		return facts, err
	}
	facts.Disk, err = step(s, "Check", func(ctx context.Context) (DiskContent, error) { return w.compare(ctx, raw) })
	return facts, err
}

// growTree is the stages that make a tree of the tree before, from the source on, whose
// key it is given.
func growTree(s *stages, w *workshop, key store.Key) (sealed sealedTree, facts DiskFacts, err error) {
	grown, err := grow(s, w, w.source(key))
	if err != nil {
		return sealed, facts, err
	}
	if err = w.beginAhead(s.ctx, grown); err != nil {
		return sealed, facts, err
	}
	for i, layer := range withoutEarly(w.plan.Definition) {
		if grown, err = growLayer(s, w, grown, i, layer); err != nil {
			return sealed, facts, err
		}
	}
	layered := layeredTree{grown}
	materials, err := materialsOf(grown)
	if err == nil {
		err = w.obey(materials)
	}
	if err != nil {
		return sealed, facts, err
	}
	outcome, err := w.outcome(layered.source().Key())
	if err != nil {
		return sealed, facts, err
	}
	if layered, err = growWithoutPython(s, w, layered); err != nil {
		return sealed, facts, err
	}
	bootable, err := growBoot(s, w, layered)
	if err != nil {
		return sealed, facts, err
	}
	if facts, err = bootable.facts(); err != nil {
		return sealed, facts, err
	}
	facts.Outcome, facts.Materials = outcome, materials
	if facts.Deferred, err = grown.deferred(); err != nil {
		return sealed, facts, err
	}
	if err = w.identify(facts.Seed); err != nil {
		return sealed, facts, err
	}
	if grown, err = grow(s, w, w.sealing(bootable)); err != nil {
		return sealed, facts, err
	}
	facts.Layers, err = grown.gains()
	return sealedTree{grown}, facts, err
}

// systemd is the major version of systemd in the image, 0 where it has none.
func (f DiskFacts) systemd() int {
	for _, p := range f.Packages {
		if p.Name == "systemd" {
			var version int
			_, _ = fmt.Sscanf(p.Version, "%d", &version)
			return version
		}
	}
	return 0
}
