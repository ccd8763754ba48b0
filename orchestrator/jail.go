package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
	"github.com/btw-img/btw-img/orchestrator/unpack"
)

// request is what a jail is asked to do: one of these.
type request struct {
	Job    *job    `json:"job,omitempty"`    // in a confined jail
	Verb   *verb   `json:"verb,omitempty"`   // in a confined jail
	Erase  string  `json:"erase,omitempty"`  // folder; in a confined jail
	Errand *errand `json:"errand,omitempty"` // in one that may mount
	// Install is in a confined jail.
	Install *installation `json:"install,omitempty"`
}

// job is to build the disk of a plan, or to visit its tree.
type job struct {
	Plan    Plan    `json:"plan"`
	Secrets secrets `json:"secrets,omitempty"` // their values
	Parts   parts   `json:"parts"`
	Work    string  `json:"work"`  // the build's work folder; "" for a visit
	Store   string  `json:"store"` // folder of the store
	How     How     `json:"how"`
	Diff    bool    `json:"diff,omitempty"` // tell what entries change in files
	Errands bool    `json:"errands"`        // somebody does errands
	// Tools is a tree with the programs to use; "" for the host's own.
	Tools string `json:"tools,omitempty"`
	// Source says to make the tree of the source alone; without a work folder it is only looked for.
	Source bool `json:"source,omitempty"`
	// Before is the outcome of the build before, "" where there is none that could stay.
	Before string `json:"before,omitempty"`
	Visit  *visit `json:"visit,omitempty"`  // what to do in the tree, instead of building
	Rescue *visit `json:"rescue,omitempty"` // what to do in the tree of a stage that fails
}

// errand is what the jail cannot do itself: to fill or read a file system, or to compare a disk
// with its tree, which needs real root; or to know what other builds take. The files are named as the jail that asks sees them.
type errand struct {
	Fill    *disk.Partition `json:"fill,omitempty"`
	Compare *disk.Plan      `json:"compare,omitempty"`
	Read    *disk.Volume    `json:"read,omitempty"`    // what is in it goes into the tree
	Reserve int64           `json:"reserve,omitempty"` // bytes, for the disk
	File    string          `json:"file"`              // of the file system, or the disk
	Tree    string          `json:"tree"`
	Root    string          `json:"root,omitempty"` // of the jail that asks, as others see it
}

// message is what a jail sends: an event, an errand, a guest, a terminal or files that it waits for,
// or how the work ended.
type message struct {
	Event  *Event        `json:"event,omitempty"`
	Errand *errand       `json:"errand,omitempty"`
	Guest  *guestRequest `json:"guest,omitempty"`
	TTY    *tty          `json:"tty,omitempty"`
	Supply bool          `json:"supply,omitempty"` // what the source is made of
	Ended  *ending       `json:"ended,omitempty"`
}

type ending struct {
	Times   []StageTime `json:"times,omitempty"`
	Facts   DiskFacts   `json:"facts"`
	Code    int         `json:"code,omitempty"` // exit code of what a visit ran, or of a verb
	Printed *printed    `json:"printed,omitempty"`
	Stored  bool        `json:"stored,omitempty"` // an installation, or the source's tree, was there already
	Tree    store.Key   `json:"tree,omitempty"`   // of the source alone
	Failure *failure    `json:"failure,omitempty"`
}

// failure is a fail.Error on its way through a pipe.
type failure struct {
	Kind fail.Kind `json:"kind"`
	Text string    `json:"text"`
	Hint string    `json:"hint,omitempty"`
	Tail string    `json:"tail,omitempty"`
}

func newFailure(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Kind: fail.Build, Text: err.Error(), Hint: fail.Hint(err), Tail: fail.Tail(err)}
	if e, ok := errors.AsType[*fail.Error](err); ok {
		f.Kind = e.Kind
	}
	return f
}

func (f *failure) err() error {
	if f == nil {
		return nil
	}
	return &fail.Error{Kind: f.Kind, Hint: f.Hint, Tail: f.Tail, Err: errors.New(f.Text)}
}

// RunInJail is the main function of a jail's process: it does what its parent asks for.
// verbs runs a verb of vmctl.
func RunInJail(provisioner Provisioner, verbs Verbs) error {
	var r request
	jail, err := host.EnterJail(&r)
	if err != nil {
		return err
	}
	h := &host.Local{Log: jail.Log}
	var result ending
	err = fail.Wrap(fail.Host, "enter the jail", jail.Close())
	switch {
	case err != nil:
		result.Failure = newFailure(err)
	case r.Job != nil:
		result = r.Job.run(jail, h, provisioner)
	case r.Install != nil:
		result = r.Install.run(jail.Context, h, provisioner)
	case r.Verb != nil:
		result = r.Verb.run(jail.Context, verbs)
	case r.Erase != "":
		result.Failure = newFailure(os.RemoveAll(r.Erase))
	case r.Errand != nil:
		result.Failure = newFailure(r.Errand.run(jail.Context, h))
	}
	return jail.Send(message{Ended: &result})
}

func (j *job) run(jail *host.Jail, h *host.Local, provisioner Provisioner) (result ending) {
	results := filepath.Dir(j.Work)
	inputs, err := j.inputs()
	if err == nil {
		err = j.stage(h)
	}
	if err == nil {
		err = h.MakeCells(filepath.Join(stageFolder, "cells"))
	}
	if err == nil && j.Tools != "" {
		err = host.UseTools(j.Tools)
	}
	if err != nil {
		result.Failure = newFailure(fail.Wrap(fail.Host, "enter the jail", err))
		return result
	}
	layers, err := store.Open(j.Store)
	if err != nil {
		result.Failure = newFailure(err)
		return result
	}
	layers.Note = func(text string) { fmt.Fprintln(jail.Log, text) }
	s := &stages{ctx: jail.Context, tell: func(e Event) { _ = jail.Send(message{Event: &e}) }}
	w := &workshop{
		plan: j.Plan, secrets: j.Secrets, project: inputs.Project, parts: j.Parts, store: layers, host: h, provisioner: provisioner, outside: j.outside(jail, h), guests: askedGuests{errands{jail}}, supply: errands{jail}.supply, told: func(status, format string, args ...any) { s.task(sourceTitle, status, format, args...) }, assembler: disk.Assemble, log: jail.Log,
		stage: stageFolder, work: j.Work, results: results, before: j.Before, fresh: j.How.Fresh, since: j.How.Since, offline: j.How.Offline, alone: j.How.Alone, diff: j.Diff,
		entryPart: func(ctx context.Context, layer, entry int) (entryPart, error) {
			return inputs.entryPart(ctx, j.Parts.Ansible, layer, entry)
		},
	}
	switch {
	case j.Source:
		w.onlyOld = j.Work == ""
		result.Tree, result.Stored, err = buildSource(s, w)
	case j.Visit != nil:
		result.Code, err = visitStored(s, w, visitor{*j.Visit, jail, h, w.devices()})
	default:
		if j.Rescue != nil {
			w.visit = visitor{*j.Rescue, jail, h, w.devices()}.after(s)
		}
		result.Facts, err = buildDisk(s, w)
	}
	result.Times, result.Failure = s.times, newFailure(err)
	return result
}

// outside is who does what the jail has no power for.
func (j *job) outside(jail *host.Jail, h host.Host) outside {
	if j.Errands {
		return errands{jail}
	}
	return nobody{errands{jail}, h, filepath.Join(stageFolder, "mnt")}
}

// inputs is the plan with the names that its files have outside the stage.
func (j *job) inputs() (plan Plan, err error) {
	plan = j.Plan
	plan.Definition, err = copied(j.Plan.Definition)
	return plan, err
}

// errands asks the parent of a jail.
type errands struct{ jail *host.Jail }

func (e errands) ask(question errand) error {
	var answer *failure
	if err := e.jail.Ask(message{Errand: &question}, &answer); err != nil {
		return err
	}
	return answer.err()
}

// Fill implements disk.Filler.
func (e errands) Fill(_ context.Context, part disk.Partition, file, from string) error {
	return e.ask(errand{Fill: &part, File: file, Tree: from})
}

// Read implements outside.
func (e errands) Read(_ context.Context, v disk.Volume, file, root string) error {
	return e.ask(errand{Read: &v, File: file, Tree: root})
}

// Reserve implements disk.Filler.
func (e errands) Reserve(_ context.Context, bytes int64) error {
	return e.ask(errand{Reserve: bytes})
}

// Compare implements outside.
func (e errands) Compare(_ context.Context, plan disk.Plan, file, root string) error {
	return e.ask(errand{Compare: &plan, File: file, Tree: root})
}

// run does the errand, in a jail that may mount.
func (e errand) run(ctx context.Context, h *host.Local) error {
	if err := memory(h, stageFolder); err != nil {
		return err
	}
	h.Devices = filepath.Join(stageFolder, "dev")
	nodes := host.Mount{Source: "tmpfs", Target: h.Devices, Type: "tmpfs", Flags: unix.MS_NOSUID, Data: "mode=0700"}
	at := filepath.Join(stageFolder, "mnt")
	if err := errors.Join(mountAt(h, nodes), os.Mkdir(at, 0o700)); err != nil {
		return err
	}
	file, err := e.open()
	if err != nil {
		return err
	}
	defer file.Close()
	self, err := os.Readlink("/proc/self") // not this PID namespace's number: the parent's /proc is mounted
	if err != nil {
		return err
	}
	name, tree := fmt.Sprintf("/proc/%s/fd/%d", self, file.Fd()), filepath.Join(e.Root, e.Tree)
	fmt.Fprintf(h.Log, "+ %s is %s\n", name, e.File)
	if e.Read != nil {
		if err := errors.Join(host.CanMount(e.Read.Filesystem), host.CanLoop()); err != nil {
			return err
		}
		return disk.Read(h, *e.Read, name, at, func(folder string) error { return unpack.Folder(ctx, folder, tree) })
	}
	if e.Fill != nil {
		return disk.Fill(ctx, h, *e.Fill, name, tree, at)
	}
	return disk.Compare(ctx, h, *e.Compare, name, tree, at, func(part disk.Partition) bool {
		err := errors.Join(host.CanMount(part.Filesystem), host.CanLoop())
		if err != nil {
			fmt.Fprintf(h.Log, "%s is not compared with the tree: %v\n", part, err)
		}
		return err == nil
	})
}

// open opens the file for reading and writing, by a name that no link leads away from:
// what the jail asks for must lie in it, and be no disk of the host's.
func (e errand) open() (*os.File, error) {
	root, err := os.OpenFile(e.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fd, err := files.Openat2(int(root.Fd()), e.File, &unix.OpenHow{
		Flags: unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: e.File, Err: err}
	}
	file := os.NewFile(uintptr(fd), e.File)
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", e.File)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// caller is whom a jail works for.
type caller struct {
	log      io.Writer
	tell     func(Event)
	terminal Terminal   // nil for none
	files    []*os.File // for the jail
	reserve  func(ctx context.Context, bytes int64) error
	guests   func(ctx context.Context, r guestRequest) guestAnswer
	supply   func(ctx context.Context) supplied
}

// jailed does the job in a jail and returns how it ended.
func (c caller) jailed(ctx context.Context, verb string, j job) (result ending, err error) {
	var back func() error // gives the terminal back that is lent
	lend := func(question tty, root string) (name string, err error) {
		if giving := back; giving != nil {
			back = nil
			return "", giving()
		}
		master, name, err := host.OpenMaster(root, question.Devpts)
		if err != nil {
			return "", err
		}
		if back, err = c.terminal.Lend(master); err != nil {
			return "", errors.Join(err, master.Close())
		}
		return name, nil
	}
	if j.Store, err = filepath.Abs(j.Store); err != nil { // the jail works in another folder
		return result, err
	}
	j.Errands = host.CanMountDisks() == nil
	hide := j.Secrets.hider()
	log := &hidingWriter{to: c.log, hide: hide}
	defer func() { err = errors.Join(hiding(err, hide), log.Close()) }()
	result, err = converse(ctx, host.JailOptions{Args: []string{verb}, Offline: j.How.Offline && j.Visit == nil, Request: request{Job: &j}, Log: log, Files: c.files}, func(m message, jail host.Event) error {
		m = m.hidden(hide)
		switch {
		case m.Event != nil:
			c.tell(*m.Event)
		case m.Errand != nil && m.Errand.Reserve > 0:
			return jail.Answer(newFailure(c.reserve(jail.Context, m.Errand.Reserve)))
		case m.Guest != nil:
			return jail.Answer(c.guests(jail.Context, *m.Guest))
		case m.Supply:
			return jail.Answer(c.supply(jail.Context))
		case m.Errand != nil:
			m.Errand.Root = jail.Root
			_, err := converse(jail.Context, host.JailOptions{
				Args: []string{verb}, Privilege: host.Mounting, Request: request{Errand: m.Errand}, Log: c.log,
			}, nil)
			return jail.Answer(newFailure(err))
		case m.TTY != nil:
			name, err := lend(*m.TTY, jail.Root)
			return jail.Answer(lent{name, newFailure(err)})
		}
		return nil
	})
	if back != nil { // the jail has ended without
		err = errors.Join(err, back())
	}
	return result, err
}

// converse runs a jail to its end; what it sends before is told.
func converse(ctx context.Context, o host.JailOptions, told func(message, host.Event) error) (result ending, err error) {
	ended := false
	o.Event = func(e host.Event) error {
		var m message
		if err := json.Unmarshal(e.Content, &m); err != nil {
			return err
		}
		if m.Ended != nil {
			result, ended = *m.Ended, true
		}
		if told == nil {
			return nil
		}
		return told(m, e)
	}
	running := host.RunJail(ctx, o)
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case result.Failure != nil:
		return result, result.Failure.err()
	case running != nil:
		return result, running
	case !ended:
		return result, fail.New(fail.Build, "", "see the log", "the build's process ended without a result")
	}
	return result, nil
}

// memory mounts a file system in memory.
func memory(h host.Host, folder string) error {
	return mountAt(h, host.Mount{Source: "tmpfs", Target: folder, Type: "tmpfs", Flags: noSuid, Data: "mode=0755"})
}

// ownDevices gives the jail a /dev of its own.
func ownDevices(h host.Host, folder string) error {
	if _, err := chroot.Devices(h, folder); err != nil {
		return err
	}
	return mountAt(h, host.Mount{Source: folder, Target: "/dev", Flags: bindAll})
}
