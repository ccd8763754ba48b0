package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Terminal is the caller's, which a shell in a tree uses.
type Terminal interface {
	// Kind is the value of TERM.
	Kind() string
	// Lend connects it with the master of a pseudoterminal until it is given back, which
	// also closes the master.
	Lend(master *os.File) (back func() error, err error)
}

// Shell opens a shell in the tree of a build.
type Shell struct {
	Store    string // folder of the layers
	JailVerb string // how this binary is told to call RunInJail
	Maker    string // digest of vmctl's code that makes images
	Tools    *Plan  // as Builder has it
	Command  []string
	Terminal Terminal    // nil for none
	Files    [3]*os.File // what the command reads and writes, nil for the terminal
	Tell     func(Event)
}

// Open runs the command, or else root's shell, in the tree of a build as far as the store
// has it, and returns its exit code. What it does to the tree is thrown away. The error
// is wrong usage where the store has nothing of the build.
func (s Shell) Open(ctx context.Context, plan Plan) (code int, err error) {
	secret, err := plan.takeSecrets(ctx, s.Store)
	if err != nil {
		return 0, err
	}
	builder := Builder{Store: s.Store, JailVerb: s.JailVerb, Maker: s.Maker, Tools: s.Tools, How: How{Offline: true}, Tell: func(Event) {}}
	supplier, err := builder.supplier(plan, nil, "", io.Discard)
	if err != nil {
		return 0, err
	}
	if plan.Pinned, err = supplier.pin(nil); err != nil {
		return 0, neverBuilt(plan.Definition.Name)
	}
	tools, err := builder.takeTools(ctx, &stages{ctx: ctx, tell: builder.Tell}, &host.Local{}, plan, "", io.Discard)
	if err != nil {
		return 0, err
	}
	defer func() { err = scope.Join(err, tools.release()) }()
	release, err := plan.takeStored(ctx, s.Store, tools)
	defer func() { err = scope.Join(err, release()) }()
	if err != nil {
		return 0, err
	}
	parts, err := plan.keyParts(ctx, s.Maker, tools)
	if err != nil {
		return 0, err
	}
	if plan.Definition.KeepsDisk() {
		order := job{Plan: plan, Secrets: secret, Parts: parts, Store: s.Store, How: How{Offline: true}, Source: true}
		made, err := caller{log: io.Discard, tell: builder.Tell}.jailed(ctx, s.JailVerb, order)
		if err != nil {
			return 0, neverBuilt(plan.Definition.Name)
		}
		kept, err := builder.keptDisk(made.Tree)
		if err != nil {
			return 0, err
		}
		if parts, err = plan.adopt(ctx, kept, parts, s.Maker, tools); err != nil {
			return 0, err
		}
	}
	v := visit{Command: s.Command, Terminal: kind(s.Terminal)}
	c := caller{log: io.Discard, tell: s.Tell, terminal: s.Terminal}
	input, err := throughPipe(s.Files[0])
	if err != nil {
		return 0, err
	}
	s.Files[0] = input
	for i, file := range s.Files {
		if file != nil {
			v.Files, c.files = append(v.Files, i), append(c.files, file)
		}
	}
	// The tree is what a build has made, whatever has become of the archive since.
	result, err := c.jailed(ctx, s.JailVerb, job{Plan: plan, Secrets: secret, Parts: parts, Store: s.Store, How: How{Offline: true}, Visit: &v})
	return result.Code, err
}

// throughPipe is what reads a file of the caller's, or a disk: one that programs of the tree
// had themselves could be opened again, for writing. Other inputs are what they are.
func throughPipe(file *os.File) (*os.File, error) {
	if file == nil {
		return nil, nil
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() && info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		return file, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(w, file) // who no longer reads wants no more
		w.Close()
	}()
	return r, nil
}

func kind(t Terminal) string {
	if t == nil {
		return ""
	}
	return t.Kind()
}

// visit is a shell, or another command, in a tree.
type visit struct {
	Command  []string `json:"command,omitempty"`  // none for root's shell
	Terminal string   `json:"terminal,omitempty"` // the kind of the caller's; "" for none
	Files    []int    `json:"files,omitempty"`    // which descriptors the jail's files are for; the others are for the terminal
}

// tty is what a jail asks for: the caller's terminal at a new pseudoterminal of a devpts
// in the jail, or that it is given back.
type tty struct {
	Devpts string `json:"devpts,omitempty"` // folder; "" to give back
}

// lent is the answer.
type lent struct {
	Name    string   `json:"name,omitempty"` // in the devpts
	Failure *failure `json:"failure,omitempty"`
}

// visitor makes visits from the inside of a jail.
type visitor struct {
	visit
	jail    *host.Jail
	host    host.Host
	devices string // that the trees have
}

// open visits the tree at root, which is ready to run programs in. All processes of the
// jail end with the visit.
func (v visitor) open(ctx context.Context, root string) (code int, err error) {
	streams, back, err := v.streams()
	if err != nil {
		return 0, err
	}
	shell := rootsShell(host.Tree(root))
	argv := v.Command
	if len(argv) == 0 {
		argv = []string{shell}
	}
	command := host.Cmd(argv[0], argv[1:]...).In(root)
	command.Env = []string{"SHELL=" + shell}
	if v.Terminal != "" {
		command.Env = append(command.Env, "TERM="+v.Terminal)
	}
	code, err = v.host.Interact(ctx, command, streams)
	return code, scope.Join(err, v.host.KillOthers(), back())
}

// visitAfter visits the tree that a failure has left.
type visitAfter func(ctx context.Context, root string, failure error) error

// after is its visitor, which tells of the failure before.
func (v visitor) after(s *stages) visitAfter {
	return func(ctx context.Context, root string, failure error) error {
		s.tell(Event{Kind: ShellOpened, Failed: true, Text: strings.TrimSpace(failure.Error() + "\n" + fail.Tail(failure))})
		_, err := v.open(ctx, root)
		return err
	}
}

// streams is what a visit reads and writes, until it is given back.
func (v visitor) streams() (s host.Streams, back func() error, err error) {
	var three [3]*os.File
	back = func() error { return nil }
	if v.Terminal != "" {
		terminal, give, err := v.borrow()
		if err != nil {
			return s, nil, fail.Wrap(fail.Host, "terminal", err)
		}
		three, back = [3]*os.File{terminal, terminal, terminal}, give
	}
	for i, descriptor := range v.Files {
		three[descriptor] = v.jail.Files[i]
	}
	return host.Streams{In: three[0], Out: three[1], Err: three[2], Terminal: v.Terminal != ""}, back, nil
}

// borrow is a terminal in the jail that the caller's is connected with. The caller's own
// never comes here, or programs of the tree could type on it.
func (v visitor) borrow() (terminal *os.File, back func() error, err error) {
	devpts := filepath.Join(v.devices, "pts")
	name, err := v.ask(tty{Devpts: devpts})
	if err != nil {
		return nil, nil, err
	}
	giveBack := func() error {
		_, err := v.ask(tty{})
		return err
	}
	terminal, err = os.OpenFile(filepath.Join(devpts, name), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, errors.Join(err, giveBack())
	}
	return terminal, func() error { return errors.Join(terminal.Close(), giveBack()) }, nil
}

func (v visitor) ask(question tty) (name string, err error) {
	var answer lent
	if err := v.jail.Ask(message{TTY: &question}, &answer); err != nil {
		return "", err
	}
	return answer.Name, answer.Failure.err()
}

const plainShell = "/bin/sh"

// rootsShell is what root has for a shell in the tree, where that is one.
func rootsShell(tree host.Tree) string {
	content, _ := tree.Read("/etc/passwd")
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSpace(line), ":") // passwd(5)
		if len(fields) != 7 || fields[0] != "root" {
			continue
		}
		shell := fields[6]
		if refuses := path.Base(shell) == "nologin" || path.Base(shell) == "false"; path.IsAbs(shell) && tree.Exists(shell) && !refuses {
			return shell
		}
	}
	return plainShell
}

// notStored is how a build ends that makes nothing: at a tree that the store lacks.
type notStored struct{ below tree }

func (notStored) Error() string { return "the store does not have it" }

// stored is the tree of the build, as far as the store has it.
func (w *workshop) stored(s *stages) (tree, error) {
	w.onlyOld = true
	key, _, err := w.begin(s)
	if err != nil {
		return tree{}, err
	}
	sealed, _, err := growTree(s, w, key)
	missing, ends := errors.AsType[notStored](err)
	switch {
	case !ends:
		return sealed.tree, err
	case len(missing.below.layers) == 0:
		return tree{}, neverBuilt(w.plan.Definition.Name)
	}
	return missing.below, nil
}

func neverBuilt(name string) error {
	return fail.New(fail.Usage, "", "run 'vmctl build "+name+"' first", "the store has no tree of %s, by this vmctl and as it is defined now", name)
}

// visitStored visits the tree of the build, as far as the store has it, and throws away
// what the visit did to it.
func visitStored(s *stages, w *workshop, v visitor) (code int, err error) {
	defer w.release.CloseInto(&err)
	found, err := w.stored(s)
	if err != nil {
		return 0, err
	}
	begun, err := w.store.Begin(s.ctx, w.host, found.layers, w.root())
	if err != nil {
		return 0, err
	}
	defer func() { err = scope.Join(err, begun.Discard()) }()
	err = w.entered(s.ctx, begun.Root(), w.plan.Definition.Hostname, func() error {
		s.tell(Event{Kind: ShellOpened, Stage: found.top().About().Title})
		code, err = v.open(s.ctx, begun.Root())
		return err
	})
	return code, err
}

// rescue visits the tree at root, which is ready to run programs in, where what was done
// to it failed and that is asked for: once, since the failure passes on through what is
// around it. It returns the failure.
func (w *workshop) rescue(ctx context.Context, root string, failure error) error {
	visit := w.visit
	if failure == nil || visit == nil || ctx.Err() != nil {
		return failure
	}
	w.visit = nil
	if err := visit(ctx, root, failure); err != nil {
		return errors.Join(failure, fmt.Errorf("a shell in the tree: %w", err))
	}
	return failure
}

// rescueAsIs is rescue for a tree that may not be ready to run programs in.
func (w *workshop) rescueAsIs(ctx context.Context, root string, failure error) error {
	if failure == nil || w.visit == nil || ctx.Err() != nil {
		return failure
	}
	err := w.entered(ctx, root, w.plan.Definition.Hostname, func() error { return failure })
	if !errors.Is(err, failure) {
		return errors.Join(failure, fmt.Errorf("no shell can run in the tree: %w", err))
	}
	return err
}
