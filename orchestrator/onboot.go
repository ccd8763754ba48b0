package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/guest"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/store"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Entries that need a running system are applied in a guest. Its disk is a copy of the tree
// so far, and it starts with that tree's own kernel and an initramfs of it, so that it needs
// no boot loader. What has changed on its disk between the moment that it was up and the one
// that it was off is done to the tree. Entries of that kind that follow each
// other share a guest and are one stored layer: one may count on what another has started.

// onBoot says whether an entry needs a running system.
func (g *growing) onBoot(entry int) bool { return g.entries[entry].OnBoot() }

// within says whether so many entries end amid those that share a guest.
func (g *growing) within(done int) bool {
	return done > 0 && done < len(g.entries) && g.onBoot(done-1) && g.onBoot(done)
}

// sharing is the end of the entries that are applied like the one at from.
func (g *growing) sharing(from int) (to int) {
	for to = from + 1; to < len(g.entries) && g.onBoot(to) == g.onBoot(from); to++ {
	}
	return to
}

// nextInGuest is the tree with the entries after those done that share a guest.
func (g *growing) nextInGuest(ctx context.Context, grown tree, done int) (tree, int, error) {
	to := g.sharing(done)
	r := g.guestRecipe(grown, tree{}, done, to)
	found, err := g.find(r)
	if err != nil || found != nil {
		return found.orNone(), to, err
	}
	if !g.onlyOld {
		bootable, err := g.withOwnInitramfs(ctx, grown)
		if err != nil {
			return tree{}, done, fail.Wrap(fail.Build, g.origin(done), err)
		}
		r = g.guestRecipe(grown, bootable, done, to)
	}
	grown, _, err = g.obtain(ctx, r)
	return grown, to, err
}

// origin is the file and line of an entry.
func (g *growing) origin(entry int) string { return originOf(g.entries[entry]) }

// withOwnInitramfs is the tree with an initramfs on top.
func (w *workshop) withOwnInitramfs(ctx context.Context, t tree) (tree, error) {
	parts, err := w.withInitramfs(layeredTree{t})
	if err != nil {
		return tree{}, err
	}
	if parts == 0 {
		parts = len(t.layers)
	}
	r := w.initramfsOf(tree{t.layers[:parts:parts]})
	piece, err := w.find(r)
	if piece == nil && err == nil {
		var made tree
		made, _, err = w.obtain(ctx, r)
		piece = &made
	}
	if err != nil {
		return tree{}, err
	}
	return tree{append(t.layers[:len(t.layers):len(t.layers)], piece.top())}, nil
}

// guestRecipe applies some of the entries to a guest of a tree with all those before, which
// is bootable.
func (g *growing) guestRecipe(below, bootable tree, from, to int) recipe {
	return recipe{
		title: layerTitle + g.name, layer: g.name, below: below, key: g.keys[to],
		work: func(ctx context.Context, root string) error {
			epoch, err := below.epoch()
			if err != nil {
				return err
			}
			g.deferred = nil
			err = g.fetch(ctx, layerTitle+g.name, g.layerScope(g.name), func(f *fetching) error {
				return g.inGuest(ctx, root, f, bootable, from, to, epoch)
			})
			if err != nil {
				return err
			}
			return cmp.Or(seal.DropCaches(root), seal.ClampChanged(root, g.changed, epoch))
		},
		finished: func(string) (store.Key, any, error) { return g.keys[to], layerFacts{g.deferred, to - from}, nil },
	}
}

// Names in the folder of work, which the jail and whoever runs its guest share.
const (
	guestDisk      = "guest.raw"
	guestKernel    = "guest.kernel"
	guestInitramfs = "guest.initramfs"
	guestConsole   = "guest.console"
	guestSocket    = "guest.socket"
	guestCD        = "guest.iso"
)

// guests starts and ends the one guest that a jail has at a time.
type guests interface {
	Start(guestOrder) error
	// End says how the guest has ended, or ends it.
	End() (guestEnd, error)
}

// guestOrder is a guest that a jail asks for, with its files in the folder of work.
type guestOrder struct {
	Cmdline string `json:"cmdline"`
	Online  bool   `json:"online"`
	Memory  int64  `json:"memory,omitempty"` // bytes; 0 for what boot tests have
	CD      bool   `json:"cd,omitempty"`     // guestCD is in the drive
	Title   string `json:"title,omitempty"`  // of the stage that it is for; "" for the build's layer
	// Answers is served to the guest, nil for nothing. answersMark in the command line
	// becomes the address.
	Answers []byte `json:"answers,omitempty"`
}

// guestEnd is how a guest has ended.
type guestEnd struct {
	Problem string `json:"problem,omitempty"` // of QEMU's
	Again   bool   `json:"again,omitempty"`   // the next one does not run on what this one could not
}

// inGuest applies entries in a guest, and does to the tree at root what they have changed.
func (g *growing) inGuest(ctx context.Context, root string, f *fetching, bootable tree, from, to int, epoch time.Time) (err error) {
	run := &guestRun{growing: g, fetching: f, hostname: hostnameIn(g.plan.Definition, g.layer), first: g.origin(from)}
	defer func() { err = errors.Join(err, run.remove()) }()
	ctx, unwatch := run.watched(ctx)
	defer unwatch()
	if err := run.start(ctx, bootable, g.keys[to]); err != nil {
		return fail.Wrap(fail.Build, run.first, err)
	}
	listener, err := net.Listen("unix", g.scratch(guestSocket))
	if err != nil {
		return errors.Join(err, run.end())
	}
	go run.agent.Serve(listener)
	for entry := from; entry < to && err == nil; entry++ {
		err = g.applyInGuest(ctx, root, entry, epoch, listener.Addr().String())
	}
	g.endRun()
	err = errors.Join(err, listener.Close())
	if err != nil {
		return run.explain(ctx, err)
	}
	if err := run.off(ctx); err != nil {
		return fail.Wrap(fail.Build, run.first, err)
	}
	return run.take(ctx, root)
}

// take does to the tree at root what has changed on the disk of a guest that is off.
func (g *guestRun) take(ctx context.Context, root string) (err error) {
	disk, err := os.Open(g.file(guestDisk))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	after, clean, err := guest.Look(disk)
	if err == nil && !clean {
		err = fail.New(fail.Build, "", "see its console in build.log", "the guest for on: boot was off before all was written to its disk")
	}
	if err != nil {
		return fail.Wrap(fail.Build, g.first, err)
	}
	if err := g.fetching.gather(ctx, after, g.diskSize()); err != nil {
		g.notKept(err)
	}
	changes := guest.SinceUp(g.pristine, g.isUp, after, func(name string) bool { return g.fetching.isOwn(name) || seal.IsVolatile(name) })
	for _, change := range changes {
		fmt.Fprintf(g.log, "changed in the guest: %s\n", change.Path)
	}
	return guest.Apply(ctx, changes, after, root)
}

// applyInGuest applies an entry in the guest whose agent has the socket.
func (g *growing) applyInGuest(ctx context.Context, root string, entry int, epoch time.Time, socket string) error {
	if g.running == nil {
		p := g.provision(root, entry, epoch, host.CleanEnv())
		p.Guest, p.Machine = socket, runningFacts(p.Machine, g.plan.Definition.Facts)
		g.startRun(p)
	}
	last, err := g.running.entry(ctx)
	if last || err != nil {
		g.endRun()
	}
	if err != nil {
		return err
	}
	return g.settled(ctx, g.layer, entry)
}

// foundInGuests is the facts that a guest tells of itself, as the machine will.
var foundInGuests = []string{"is_chroot", "service_mgr", "apparmor", "selinux", "fips", "cmdline", "proc_cmdline", "uptime_seconds", "env", "dns"}

// runningFacts is what Ansible is told of a machine that runs: of those of the machine
// that is built what a guest does not find itself, and what the definition says.
func runningFacts(machine, chosen map[string]any) map[string]any {
	facts := maps.Clone(machine)
	for _, name := range foundInGuests {
		delete(facts, name)
	}
	maps.Copy(facts, chosen)
	return facts
}

// guestRun is a guest while it is used.
type guestRun struct {
	*growing
	fetching *fetching // nil for none
	hostname string
	first    string // file and line of the first entry
	agent    *guest.Agent
	pristine guest.Snapshot // the disk before the guest has started
	isUp     guest.Snapshot // the disk when it was up
	stop     context.CancelFunc
	ended    bool // whoever runs the guest was told so
}

func (r *guestRun) file(name string) string { return filepath.Join(r.work, name) }

// start starts a guest of the tree, and waits until it is up.
func (r *guestRun) start(ctx context.Context, bootable tree, key store.Key) error {
	for {
		if err := r.prepare(ctx, bootable, key); err != nil {
			return err
		}
		r.ended = false
		if err := r.guests.Start(guestOrder{Cmdline: guest.Cmdline(vm.RootDevice, r.hostname), Online: !r.alone && !r.offline}); err != nil {
			return err
		}
		err := r.up(ctx)
		if err == nil {
			return nil
		}
		again, err := r.fallen(ctx, err)
		if !again {
			return err
		}
		r.task("ok", "guest: started again: %v", err)
	}
}

// prepare makes the disk of a tree, and what it starts with.
func (r *guestRun) prepare(ctx context.Context, bootable tree, key store.Key) (err error) {
	started := time.Now()
	begun, err := r.store.Begin(ctx, r.host, bootable.layers, r.scratch("guest"))
	if err != nil {
		return err
	}
	defer func() { err = scope.Join(err, begun.Discard()) }()
	err = cmp.Or(guest.Furnish(begun.Root(), string(key)[:32]), seal.FreeResolver(begun.Root()), r.fetching.furnish(begun.Root()), r.ageLists(begun.Root()))
	if err != nil {
		return err
	}
	kernel, err := guest.NewestKernel(begun.Root())
	if err != nil {
		return err
	}
	if err := errors.Join(guest.Copy(ctx, r.host, kernel.Image, r.file(guestKernel)), guest.Copy(ctx, r.host, kernel.Initramfs, r.file(guestInitramfs))); err != nil {
		return err
	}
	err = r.host.Run(ctx, guest.MakeDisk(begun.Root(), r.file(guestDisk), r.diskSize()))
	if err == nil {
		r.pristine, err = r.snapshot()
	}
	fmt.Fprintf(r.log, "the guest's disk took %.1f s\n", time.Since(started).Seconds())
	return err
}

// diskSize is that of the guest's disk, in bytes.
func (r *guestRun) diskSize() int64 {
	const spare = 1 << 30 // for packages twice; what does not fit on the image's disk fails when that is made
	return r.plan.Disk.Size + spare
}

// up waits until the guest is up, and looks at its disk.
func (r *guestRun) up(ctx context.Context) error {
	started := time.Now()
	ctx, r.stop = context.WithCancel(ctx)
	port, err := net.Dial("unix", r.file(guestSocket))
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, time.Duration(r.plan.Definition.Test.Timeout))
	defer cancel()
	r.agent = guest.Connect(ctx, port, r.kept())
	type answer struct {
		guest.State
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		state, err := r.agent.Up()
		answered <- answer{state, err}
	}()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	said, since := 0, started
	for {
		select {
		case a := <-answered:
			if a.err != nil {
				return a.err
			}
			r.task("ok", "guest: up after %.0f s, systemd is %s", time.Since(started).Seconds(), strings.Join(append([]string{a.State.State}, a.Failed...), ", failed "))
			return r.look()
		case <-ticker.C:
			console := r.console()
			if len(console) != said {
				said, since = len(console), time.Now()
			}
			if _, problem := boottest.Signs(console); problem != nil {
				return problem
			}
			if time.Since(since) > boottest.LongestSilence && !boottest.Begun(console) {
				return fmt.Errorf("silence: its console stopped for %s", boottest.LongestSilence)
			}
		case <-limited.Done():
			return cmp.Or(context.Cause(ctx), fmt.Errorf("it was not up within %s", r.plan.Definition.Test.Timeout))
		}
	}
}

// look remembers the disk as it is, with all that the start has changed.
func (r *guestRun) look() (err error) {
	if err := r.agent.Freeze(); err != nil {
		return fmt.Errorf("freeze its disk: %w", err)
	}
	r.isUp, err = r.snapshot()
	return errors.Join(err, r.agent.Thaw())
}

// snapshot is the disk as it is.
func (r *guestRun) snapshot() (guest.Snapshot, error) {
	disk, err := os.Open(r.file(guestDisk))
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	taken, _, err := guest.Look(disk)
	return taken, err
}

// watched is a context that ends with a reason once the guest cannot go on for the host's
// sake, or writes without end: it would stand still, or fill the disk.
func (w *workshop) watched(ctx context.Context) (context.Context, func()) {
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
			problem := boottest.NoRoom(w.work)
			if info, err := os.Stat(filepath.Join(w.work, guestConsole)); err == nil && problem == nil {
				problem = boottest.TooMuch(info.Size())
			}
			if problem != nil {
				end(problem)
			}
		}
	}()
	return ctx, func() { end(nil) }
}

// fallen is why a guest did not come up or has ended, and whether another one may do better.
func (r *guestRun) fallen(ctx context.Context, err error) (again bool, _ error) {
	if r.ended {
		return false, err
	}
	r.stop()
	r.ended = true
	end, problem := r.guests.End()
	console := r.console()
	if _, sign := boottest.Signs(console); sign != nil {
		err = sign
	} else if end.Problem != "" {
		err = errors.New(end.Problem)
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it switched itself off, or restarted")
	}
	fmt.Fprintf(r.log, "the guest's console:\n%s\n", boottest.Plain(console))
	if ctx.Err() != nil {
		return false, errors.Join(context.Cause(ctx), problem)
	}
	const lines = 20
	return end.Again, errors.Join(&fail.Error{
		Kind: fail.Build, Op: "the guest for on: boot", Err: err, Tail: boottest.LastLines(console, lines), Hint: "its console is in build.log",
	}, problem)
}

const mostConsole = 256 << 10 // bytes of a console that are shown

func (w *workshop) console() []byte {
	file, err := os.Open(filepath.Join(w.work, guestConsole))
	if err != nil {
		return nil
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > mostConsole {
		_, _ = file.Seek(-mostConsole, io.SeekEnd)
	}
	content, _ := io.ReadAll(io.LimitReader(file, mostConsole)) // what can be read tells enough
	return content
}

// journalCommand is what is asked of a guest in which an entry has failed.
const journalCommand = "journalctl --boot --no-pager --output=short-monotonic --lines=500"

// explain is the failure of an entry, after what the guest says of it is in the log. Where
// the guest itself is gone, that is the failure.
func (r *guestRun) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), r.end())
	}
	fmt.Fprintln(r.log, "the guest's journal:")
	if _, gone := r.agent.Run(journalCommand, r.log); gone != nil {
		_, gone = r.fallen(ctx, gone)
		return fail.Wrap(fail.Build, r.first, gone)
	}
	if problem := r.save(ctx); problem != nil {
		r.notKept(problem)
	}
	return errors.Join(err, r.end())
}

func (r *guestRun) notKept(problem error) {
	fmt.Fprintf(r.log, "what the guest has downloaded is not kept: %v\n", problem)
}

// save keeps what was downloaded in a guest that is to be ended as it is.
func (r *guestRun) save(ctx context.Context) (err error) {
	if r.fetching == nil {
		return nil
	}
	limit := time.AfterFunc(offLimit, r.stop) // which ends the agent's connection
	defer limit.Stop()
	if err := r.agent.Freeze(); err != nil {
		return err
	}
	disk, err := os.Open(r.file(guestDisk))
	if err != nil {
		return err
	}
	defer disk.Close()
	now, _, err := guest.Look(disk)
	if err != nil {
		return err
	}
	return r.fetching.gather(ctx, now, r.diskSize())
}

// offLimit is how long a guest may take to switch itself off.
const offLimit = 3 * time.Minute

// off switches the guest off.
func (r *guestRun) off(ctx context.Context) error {
	started := time.Now()
	if err := r.agent.Off(); err != nil {
		_, err = r.fallen(ctx, err)
		return err
	}
	gone := make(chan struct{})
	go func() {
		_, _ = r.agent.Up() // which it never says: the connection ends with it
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(offLimit):
		_, err := r.fallen(ctx, fmt.Errorf("it did not switch itself off within %s", offLimit))
		return err
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), r.end())
	}
	err := r.end()
	r.task("ok", "guest: off after %.0f s", time.Since(started).Seconds())
	return err
}

// end ends the guest where it has not ended.
func (r *guestRun) end() error {
	if r.ended || r.stop == nil {
		return nil
	}
	r.ended = true
	r.stop()
	end, err := r.guests.End()
	if end.Problem != "" {
		fmt.Fprintf(r.log, "the guest: %s\n", end.Problem)
	}
	return err
}

// remove removes the guest's files, which are large.
func (r *guestRun) remove() (err error) {
	err = r.end()
	return errors.Join(err, r.removeGuestFiles(), os.RemoveAll(r.scratch(guestSocket)))
}

func (w *workshop) removeGuestFiles() (err error) {
	for _, name := range []string{guestDisk, guestKernel, guestInitramfs, guestConsole, guestSocket, guestCD} {
		if removing := os.Remove(filepath.Join(w.work, name)); !errors.Is(removing, os.ErrNotExist) {
			err = errors.Join(err, removing)
		}
	}
	return err
}
