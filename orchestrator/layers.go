package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// growing is a layer of the definition while it is applied.
type growing struct {
	*workshop
	layer    int                // its number
	name     string             // of its build
	entries  []definition.Layer // one by one
	keys     []store.Key        // keys[i] is that of the tree with the first i entries
	deferred []string           // what entries of the recipe wanted of a running system
	listed   bool               // an entry was applied in the tree, and its lists are of today
	task     func(status, format string, args ...any)
	told     func(status, text, output, diff string) // as task, with what it printed and changed
}

// layerFacts is what is remembered with the tree of a layer.
type layerFacts struct {
	Deferred []string `json:"deferred,omitempty"`
	Entries  int      `json:"entries,omitempty"` // how many it has applied
}

// deferred is what the entries of a tree's layers wanted of a running system.
func (t tree) deferred() (all []string, err error) {
	for _, layer := range t.layers {
		if !strings.HasPrefix(layer.About().Title, layerTitle) {
			continue
		}
		var facts layerFacts
		if err := json.Unmarshal(layer.About().Data, &facts); err != nil {
			return nil, err
		}
		all = append(all, facts.Deferred...)
	}
	return all, nil
}

// growLayer is the stage that applies a layer, the farthest ancestor's first. It goes on
// from the last of its entries that the store has, and stores the tree after each.
func growLayer(s *stages, w *workshop, below tree, number int, layer definition.Layer) (tree, error) {
	title := layerTitle + layer.Name
	g := growing{
		workshop: w, layer: number, name: layer.Name, entries: entriesOf(layer), keys: []store.Key{below.top().Key()},
		task: func(status, format string, args ...any) { s.task(title, status, format, args...) },
		told: func(status, text, output, diff string) {
			s.tell(Event{Kind: TaskSeen, Stage: title, Status: status, Text: text, Entry: true, Output: output, Diff: diff})
		},
	}
	for i, part := range w.parts.Layers[number] {
		g.keys = append(g.keys, following(g.keys[i], part.Digest))
	}
	return stepOr(s, title, func(ctx context.Context) (_ tree, stored bool, err error) {
		defer w.endRun()
		grown, done, err := g.stored(below)
		if stored = done == len(g.entries); !stored {
			g.tellStored(done)
		}
		for err == nil && done < len(g.entries) {
			grown, done, err = g.next(ctx, grown, done)
		}
		return grown, stored, err
	})
}

// stored is the tree with as many entries as the store has, and how many those are.
func (g *growing) stored(below tree) (tree, int, error) {
	for done := len(g.entries); done > 0; done-- {
		if g.within(done) {
			continue
		}
		found, err := g.find(g.recipe(below, 0, done))
		if err != nil || found != nil {
			return found.orNone(), done, err
		}
	}
	return below, 0, nil
}

// tellStored tells of the entries that are not applied again.
func (g *growing) tellStored(done int) {
	for _, entry := range g.entries[:done] {
		for _, e := range entry.Install {
			g.task("cached", "%s %s", e.Origin, cmp.Or(e.Name, "Install"))
		}
		for _, e := range entry.Commands {
			g.task("cached", "%s %s", e.Origin, cmp.Or(e.Name, "Command"))
		}
	}
}

// mostLayers is how many layers a tree has at most, roughly: an overlay becomes slower
// with each, and cannot be mounted with many.
const mostLayers = 64

// next is the tree with the entries that are stored as one layer after those done.
func (g *growing) next(ctx context.Context, grown tree, done int) (tree, int, error) {
	if g.onBoot(done) {
		return g.nextInGuest(ctx, grown, done)
	}
	together := 1
	if entries := g.countEntries(); entries > mostLayers {
		together = (entries + mostLayers - 1) / mostLayers
	}
	if !g.onlyOld {
		mode, err := g.store.Probe(g.host, g.root())
		if err != nil {
			return tree{}, done, err
		}
		if mode == store.Copy {
			together = len(g.entries)
		}
	}
	to := min(g.sharing(done), done+together)
	r := g.recipe(grown, done, to)
	found, err := g.find(r)
	if err != nil || found != nil { // another build has made it meanwhile
		g.endRun()
		return found.orNone(), to, err
	}
	grown, stored, err := g.obtain(ctx, r)
	if stored {
		g.endRun()
	}
	return grown, to, err
}

func (w *workshop) countEntries() (n int) {
	for _, layer := range w.parts.Layers {
		n += len(layer)
	}
	return n
}

// recipe applies some of the entries to a tree with all those before.
func (g *growing) recipe(below tree, from, to int) recipe {
	return recipe{
		title: layerTitle + g.name, layer: g.name, below: below, key: g.keys[to],
		work: func(ctx context.Context, root string) error {
			epoch, err := below.epoch()
			if err != nil {
				return err
			}
			g.deferred = nil
			for entry := from; entry < to; entry++ {
				if err := g.apply(ctx, root, entry, epoch); err != nil {
					return err
				}
			}
			return cmp.Or(seal.DropCaches(root), seal.ClampChanged(root, g.changed, epoch))
		},
		finished: func(string) (store.Key, any, error) { return g.keys[to], layerFacts{g.deferred, to - from}, nil },
	}
}

// apply applies an entry to the tree at root.
func (g *growing) apply(ctx context.Context, root string, entry int, epoch time.Time) error {
	err := g.fetch(ctx, layerTitle+g.name, g.layerScope(g.name), func(f *fetching) error {
		if g.running == nil {
			g.startRun(g.provision(root, entry, epoch, f.env()))
		}
		return g.entered(ctx, root, hostnameIn(g.plan.Definition, g.layer), func() (err error) {
			if err := chroot.DeferInitramfs(ctx, g.host, root); err != nil {
				return err
			}
			leave, err := f.in(root)
			if err != nil {
				return err
			}
			if err := g.ageLists(root); err != nil {
				return errors.Join(err, leave())
			}
			g.listed = true
			defer func() { err = scope.Join(err, leave()) }()
			last, err := g.running.entry(ctx)
			if last || err != nil {
				g.endRun()
			}
			if err != nil {
				return err
			}
			return g.tellDeferred(root)
		})
	})
	if err != nil {
		return err
	}
	return g.settled(ctx, g.layer, entry)
}

// tellDeferred tells what an entry wanted of a running system, and remembers it.
func (g *growing) tellDeferred(root string) error {
	calls, err := chroot.Deferred(root)
	hide := g.secrets.hider() // the store keeps them
	for _, call := range calls {
		call = hide.Replace(call)
		g.task("deferred", "%s", call)
		g.deferred = append(g.deferred, call)
	}
	return err
}

// provision is a run over as many entries from one on as can share it.
func (g *growing) provision(root string, from int, epoch time.Time, env []string) Provision {
	parts := g.parts.Layers[g.layer]
	to := from + 1
	for !parts[from].Alone && to < g.sharing(from) && !parts[to].Alone {
		to++
	}
	layer := definition.Layer{Name: g.name}
	for _, entry := range g.entries[from:to] {
		layer.Install, layer.Commands = append(layer.Install, entry.Install...), append(layer.Commands, entry.Commands...)
	}
	used := map[string]string{}
	var facts []bool
	for _, part := range parts[from:to] {
		facts = append(facts, part.Facts)
		for name := range strings.FieldsSeq(part.Secrets) {
			used[name] = g.secrets[name]
		}
	}
	if g.alone {
		env = append(slices.Clone(env), host.WithoutNetwork)
	}
	return Provision{
		Secrets: used, Vault: g.secrets[vaultPassword],
		Root: root, Chroot: g.host.Chroot(), Scratch: g.scratch("ansible"), Definition: &g.plan.Definition, Layer: layer, Facts: facts, Diff: g.diff,
		Machine: g.plan.facts(g.layer), Project: g.plan.Project, Installed: g.plan.Installed, Epoch: epoch, Env: slices.Concat(env, epochEnv(epoch), chroot.StandInsEnv(env)), Log: g.log,
		AllowLocalhost: g.plan.AllowLocalhost,
		Task:           g.told,
	}
}

// settled refuses an entry whose files changed while they were used: nobody knows which
// of them are in the tree, and its key speaks of those before.
func (w *workshop) settled(ctx context.Context, layer, entry int) error {
	part, err := w.entryPart(ctx, layer, entry)
	if err == nil && part.Exact != w.parts.Layers[layer][entry].Exact {
		return fail.New(fail.Build, "", "build again", "its files, templates or roles were changed while they were used")
	}
	return err
}

// run is a run of the provisioner over some entries, which waits before each of them. So
// the tree is stored after each, and the next one finds a new tree in its place: an entry
// that fails leaves those before it, and Ansible starts once for all.
type run struct {
	waits   chan int // the entry before which it waits, by its number
	begin   chan struct{}
	ended   chan error
	cancel  context.CancelFunc
	entries int
	at      int // the entry that is next
}

// startRun starts a run, which waits before its first entry.
func (w *workshop) startRun(p Provision) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{
		waits: make(chan int), begin: make(chan struct{}), ended: make(chan error, 1), cancel: cancel,
		entries: len(p.Layer.Install) + len(p.Layer.Commands),
	}
	p.Begin = func(ctx context.Context, entry int) error {
		select {
		case r.waits <- entry:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-r.begin:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() { r.ended <- w.provisioner.Provision(ctx, p) }()
	w.running = r
}

// errShort is a provisioner that leaves entries out.
var errShort = errors.New("the run ended before all entries were applied")

// entry lets the next entry begin, and waits until it has ended. It says whether that was
// the last one.
func (r *run) entry(ctx context.Context) (last bool, err error) {
	if r.at == 0 {
		if ended, err := r.wait(ctx); ended {
			return true, err
		}
	}
	select {
	case r.begin <- struct{}{}:
	case <-ctx.Done():
		return true, ctx.Err()
	}
	r.at++
	ended, err := r.wait(ctx)
	if ended && err == nil && r.at < r.entries {
		err = errShort
	}
	return ended, err
}

// wait waits until the run waits before its next entry, or has ended.
func (r *run) wait(ctx context.Context) (ended bool, err error) {
	select {
	case <-r.waits:
		return false, nil
	case err := <-r.ended:
		r.ended = nil
		return true, err
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// endRun ends the run, where there is one.
func (w *workshop) endRun() {
	r := w.running
	w.running = nil
	if r == nil {
		return
	}
	r.cancel()
	if r.ended != nil {
		<-r.ended
	}
}

// endProcesses ends all processes that a tree has left, but not a run that waits for the
// next one, nor an initramfs that is made meanwhile.
func (w *workshop) endProcesses() error {
	switch {
	case w.ahead != nil:
		return w.host.KillInTrees(w.ahead.root)
	case w.running != nil:
		return w.host.KillInTrees()
	}
	return w.host.KillOthers()
}
