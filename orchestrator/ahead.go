package orchestrator

import (
	"context"
	"regexp"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// ahead is an initramfs that is made of the source's tree while entries are applied, which
// are likely to have no part in it. Where they turn out to have one it is thrown away, and
// made of a later tree.
type ahead struct {
	of     store.Key // the tree's
	root   string
	begun  *store.Work
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // once it has ended
}

// beginAhead begins an initramfs of the source's tree, where it is likely to be that of the
// whole build.
func (w *workshop) beginAhead(ctx context.Context, source tree) error {
	if w.onlyOld || !w.bootstrapped() || !w.plan.Boot.Boots() || !w.likelyAside() {
		return nil
	}
	found, err := w.find(w.initramfsOf(source))
	if found != nil || err != nil {
		return err
	}
	begun, err := w.beginInitramfs(ctx, source)
	if err != nil {
		return err
	}
	a := &ahead{of: source.top().Key(), root: begun.Root(), begun: begun, ended: make(chan struct{})}
	leave, err := chroot.Enter(w.host, a.root, w.devices(), w.initramfsHostname(), func() error { return nil })
	if err != nil {
		return scope.Join(err, begun.Discard())
	}
	ctx, a.cancel = context.WithCancel(ctx)
	go func() {
		defer close(a.ended)
		a.err = scope.Join(w.runInitramfs(ctx, source, a.root), leave())
	}()
	w.ahead = a
	w.release.Push("end the initramfs", w.endAhead)
	return nil
}

// takeAhead is the tree with the initramfs that was begun, nil where that is of another
// tree, or did not succeed.
func (w *workshop) takeAhead(of tree) (*store.Work, error) {
	a := w.ahead
	if a == nil || a.of != of.top().Key() {
		return nil, w.endAhead()
	}
	<-a.ended
	if a.err != nil {
		return nil, w.endAhead()
	}
	w.ahead = nil
	a.cancel()
	return a.begun, nil
}

// endAhead throws away the initramfs that was begun, where nobody has taken it.
func (w *workshop) endAhead() error {
	a := w.ahead
	if a == nil {
		return nil
	}
	a.cancel()
	<-a.ended
	w.ahead = nil
	return a.begun.Discard()
}

// installs is what commands say that put programs, or settings of them, into a tree.
var installs = regexp.MustCompile(`\b(apt|apt-get|aptitude|dpkg|pip3?|make|useradd|adduser|usermod|groupadd)\b`)

// likelyAside says whether the entries are likely to have no part in the initramfs, and
// give the machine no other name than it is made under.
func (w *workshop) likelyAside() bool {
	d := w.plan.Definition
	for number, layer := range withoutEarly(d) {
		if hostnameIn(d, number) != w.initramfsHostname() {
			return false
		}
		for _, e := range layer.Install {
			if len(e.Packages)+len(e.Repositories)+len(e.Debconf)+len(e.Users)+len(e.Roles)+len(e.Playbooks) > 0 || hasPart(e) {
				return false
			}
		}
		for _, e := range layer.Commands {
			if installs.MatchString(e.Run + " " + strings.Join(e.Argv, " ")) {
				return false
			}
		}
	}
	return true
}

// hasPart says whether an entry writes files that have a part in the initramfs.
func hasPart(e definition.InstallEntry) bool {
	for _, file := range e.Files {
		if partInInitramfs(strings.TrimPrefix(file.Path, "/")) {
			return true
		}
	}
	for _, file := range e.Templates {
		if partInInitramfs(strings.TrimPrefix(file.Path, "/")) {
			return true
		}
	}
	return false
}
