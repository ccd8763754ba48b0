package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// The programs that make images are the host's, or those of a tools tree: what the source of
// a definition gives, in the store like any other. With one, a build needs little of its host,
// and is the same on each.

// toolset is the programs that make images.
type toolset struct {
	tree     string            // that they are in; "" for the host's own
	versions map[string]string // by Debian's package; of tools from elsewhere what they say themselves
	release  func() error      // the tree may go from then on
}

const (
	toolsTitle = "Tools"
	hintTools  = "name another one with --tools, or this machine's own programs: --tools host"
)

// hostTools is the programs of this machine.
func hostTools(ctx context.Context, h host.Host) toolset {
	return toolset{versions: toolVersions(ctx, h), release: func() error { return nil }}
}

// hosted is what of the tools is the host's own in any case: what runs guests.
func hosted() []string {
	packages := []string{arch.Target.QEMU.Package, arch.Target.QEMU.Binary}
	for _, firmware := range arch.Target.Firmware {
		packages = append(packages, firmware.Package)
	}
	return packages
}

// inTree is the programs of a tree that is in the store.
func inTree(layer *store.Layer, here toolset) toolset {
	versions := of(here.versions, hosted()...)
	packages := map[string]string{}
	for _, p := range packagesIn(layer.Folder()) {
		packages[p.Name] = p.Version
	}
	for _, tool := range askedTools { // one from elsewhere is known by its tree alone
		path := host.FindIn(layer.Folder(), tool.name)
		if _, own := versions[tool.pkg]; own || path == "" || ofSystem(path) && packages[tool.pkg] != "" {
			continue
		}
		delete(packages, tool.pkg)
		versions[tool.name] = "in the tree " + string(layer.Key())
	}
	for name, version := range of(packages, hostPackages()...) {
		if _, own := versions[name]; !own {
			versions[name] = version
		}
	}
	return toolset{tree: layer.Folder(), versions: versions, release: layer.Release}
}

// takeTools gets the tools of a build, and has the host use them: it makes their tree first
// where the store lacks it, by this machine's own programs.
func (b Builder) takeTools(ctx context.Context, s *stages, h *host.Local, plan Plan, work string, log io.Writer) (t toolset, err error) {
	here := hostTools(ctx, h)
	if b.Tools == nil {
		return here, nil
	}
	if err := b.checkHidden(plan, work); err != nil {
		return here, err
	}
	t, err = stepOr(s, toolsTitle, func(ctx context.Context) (toolset, bool, error) {
		layer, stored, err := b.toolsTree(ctx, h, here, work, log)
		if err != nil {
			return here, false, fail.Wrap(fail.Build, "tools "+b.Tools.Definition.Name, err)
		}
		t := inTree(layer, here)
		return t, stored, t.checkPrograms(NeedsOf(plan.Definition, b.Boot != nil, ""))
	})
	if err == nil {
		h.Tools = t.tree
	}
	return t, err
}

// checkHidden refuses files of a build that a tools tree would hide.
func (b Builder) checkHidden(plan Plan, work string) error {
	paths := []string{b.Store, work, plan.Project}
	for _, asset := range plan.Assets {
		paths = append(paths, asset)
	}
	for _, path := range paths {
		if path == "" {
			continue
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		if hiddenByTools(path) {
			return fail.New(fail.Usage, "--tools", "move it, or use this machine's own programs: --tools host", "the tools tree lies over %s", path)
		}
	}
	return nil
}

// hiddenByTools says whether a tools tree lies over what an absolute path leads to, which need
// not be there.
func hiddenByTools(path string) bool {
	path = filepath.Clean(path)
	for there, rest := path, ""; there != "/"; there, rest = filepath.Dir(there), filepath.Join(filepath.Base(there), rest) {
		if real, err := filepath.EvalSymlinks(there); err == nil {
			path = filepath.Join(real, rest)
			break
		}
	}
	return host.HiddenByTools(path)
}

// toolsTree is the tree of the tools, and whether it was in the store. It is in use until it is
// released.
func (b Builder) toolsTree(ctx context.Context, h host.Host, here toolset, work string, log io.Writer) (layer *store.Layer, stored bool, err error) {
	plan := *b.Tools
	if err := checkTools(plan.Definition); err != nil {
		return nil, false, err
	}
	inner := b
	inner.Tools, inner.Vault = nil, PasswordSource{}
	inner.Tell = b.within(toolsTitle) // the one stage that is told of
	of, err := inner.prepare(ctx, &stages{ctx: ctx, tell: inner.Tell}, h, here, &plan, work, log)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = scope.Join(err, of.release()) }()
	order := job{Plan: plan, Parts: of.parts, Work: work, Store: b.Store, How: b.How.of(plan), Source: true}
	made, err := caller{log: log, tell: inner.Tell, supply: of.supplier.supply}.jailed(ctx, b.JailVerb, order)
	if err != nil {
		return nil, false, err
	}
	layers, err := store.Open(b.Store)
	if err != nil {
		return nil, false, err
	}
	layer, err = layers.Use(made.Tree)
	if layer == nil && err == nil {
		err = errors.New("they were removed from the store at once: build again")
	}
	return layer, made.Stored, err
}

// ToolVersions is the versions of the programs that make images, by Debian's package: of this
// machine's own, and of those of the tools tree of a build, as the store has it; nil for none.
func ToolVersions(ctx context.Context, folder, build string) (here, tree map[string]string, err error) {
	own := hostTools(ctx, &host.Local{})
	if _, err := os.Stat(folder); err != nil {
		return own.versions, nil, nil //nolint:nilerr // there is no store yet
	}
	layers, err := store.Open(folder)
	if err != nil {
		return own.versions, nil, err
	}
	infos, err := layers.List()
	if err != nil {
		return own.versions, nil, err
	}
	for _, info := range slices.Backward(infos) { // the newest first
		if info.About.Build != build || info.About.Title != sourceTitle || info.Problem != "" {
			continue
		}
		layer, err := layers.Use(info.Key)
		if layer == nil || err != nil {
			return own.versions, nil, err
		}
		return own.versions, inTree(layer, own).versions, layer.Release()
	}
	return own.versions, nil, nil
}

// checkTools refuses definitions of which the source is not all, or no set of programs.
func checkTools(d definition.Definition) error {
	if d.Source.Installer != nil {
		return fail.New(fail.Usage, "", "take another source for it", "%s has an installer, whose tree is one machine's", d.Name)
	}
	for _, layer := range withoutEarly(d) {
		if len(entriesOf(layer)) > 0 {
			return fail.New(fail.Usage, "", "leave nothing but packages in its install, and no commands", "%s asks for more than its source: that is all of a tools tree", layer.Name)
		}
	}
	return nil
}

// buildSource makes the tree of the source alone, unless the store has it.
func buildSource(s *stages, w *workshop) (key store.Key, stored bool, err error) {
	defer w.release.CloseInto(&err)
	if key, _, err = w.begin(s); err != nil {
		return "", false, err
	}
	grown, err := grow(s, w, w.source(key))
	if err != nil {
		return "", false, err
	}
	return grown.source().Key(), s.times[len(s.times)-1].Stored, nil
}

// checkPrograms refuses tools that lack what a build needs of them.
func (t toolset) checkPrograms(n Needs) error {
	if t.tree == "" {
		return nil
	}
	var lacking []string
	for _, tool := range append(n.ofTools(), format.ToolsOf(n.Formats...)...) {
		one := fmt.Sprintf("%s (package %s)", tool.Name, tool.Package)
		if host.FindIn(t.tree, tool.Name) == "" && !slices.Contains(lacking, one) {
			lacking = append(lacking, one)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return fail.New(fail.Host, toolsTitle, hintTools, "the tools tree lacks %s", strings.Join(lacking, ", "))
}

// collections is where the tools' Ansible finds those that are for all users.
func (t toolset) collections() string { return filepath.Join("/", t.tree, sharedCollections) }

// toolsName is the build that the tools are of, "" for the host's own.
func (b Builder) toolsName() string {
	if b.Tools == nil {
		return ""
	}
	return b.Tools.Definition.Name
}
