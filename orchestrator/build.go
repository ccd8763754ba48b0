// Package orchestrator turns a definition into an image: the visible sequence
// of stages, and the interfaces that it needs from elsewhere.
package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/budget"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/product"
	"github.com/btw-img/btw-img/orchestrator/proof"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/store"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Builder builds images into a folder.
type Builder struct {
	Folder     string          // gets one folder per build
	Store      string          // folder of the layers
	JailVerb   string          // how this binary is told to call RunInJail
	Version    string          // of vmctl
	Maker      string          // digest of vmctl's code that makes images
	Repository string          // URL of the definitions; "" for unknown
	Revision   string          // commit of the definitions; "" for unknown
	Boot       *vm.Accelerator // what the image is booted on; nil for not at all
	Accel      string          // what guests of entries run on where Boot is nil: vm.AccelAuto and its kin, which is the default
	Diff       bool            // tell what entries change in files
	Retest     bool            // boot a disk, too, that has come up before
	Budget     *budget.Budget  // of all builds of this machine
	How        How
	Images     Images         // where container images come from
	Vault      PasswordSource // of what is encrypted with ansible-vault
	Terminal   Terminal       // for a shell in the tree of a stage that fails; nil for no shell
	Tools      *Plan          // whose source's tree has the programs that make images; nil for this machine's own
	Tell       func(Event)
}

// How says what of former builds and of the network a build may use.
type How struct {
	Fresh   string `json:"fresh,omitempty"`   // what is made anew: a layer by its build's name, and what stands on it; Everything; "" for what has changed
	Offline bool   `json:"offline,omitempty"` // without network
	Alone   bool   `json:"alone,omitempty"`   // programs of layers have no network
	// Since is when it was decided so: what was made after that is fresh.
	Since time.Time `json:"since"`
}

// of is what it says of one build among others, which need not have the layer.
func (h How) of(plan Plan) How {
	if h.Fresh != Everything && !slices.ContainsFunc(plan.Definition.Layers, func(l definition.Layer) bool { return l.Name == h.Fresh }) {
		h.Fresh = ""
	}
	return h
}

// Build builds one image. Its folder appears whole or not at all; a build that
// fails leaves the one before it as it was, and its logs in NAME.failed. log is
// where its own log lies then, "" where it did not begin.
func (b Builder) Build(ctx context.Context, plan Plan) (manifest Manifest, log string, err error) {
	space, err := openWorkspace(b.Folder, plan.Definition.Name, eraser{b.JailVerb}.erase)
	if err != nil {
		return Manifest{}, "", err
	}
	defer func() {
		err = explainFull(err, resultsPlace(space.work, b.Folder))
		err = scope.Join(err, space.close(err))
		log = LogPath(b.Folder, plan.Definition.Name, err != nil)
	}()
	manifest, err = b.build(ctx, plan, space)
	return manifest, "", err
}

// build is the stages of a build, in a workspace of its own.
func (b Builder) build(ctx context.Context, plan Plan, space *workspace) (manifest Manifest, err error) {
	s := &stages{ctx: ctx, tell: b.Tell}
	started := time.Now()
	h := &host.Local{Log: space.log}
	tools, err := b.takeTools(ctx, s, h, plan, space.work, space.log)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { err = scope.Join(err, tools.release()) }()
	of, err := b.prepare(ctx, s, h, tools, &plan, space.work, space.log)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { err = scope.Join(err, of.release()) }()
	if err := b.planOnKept(ctx, s, h, &plan, &of, tools, space); err != nil {
		return Manifest{}, err
	}
	if !plan.Boot.Boots() {
		b.Boot = nil
	}
	before := b.before(space)
	order := job{Plan: plan, Secrets: of.secrets, Parts: of.parts, Work: space.work, Store: b.Store, How: b.How.of(plan), Diff: b.Diff, Before: before.Outcome, Tools: tools.tree}
	if b.Terminal != nil {
		order.Rescue = &visit{Terminal: b.Terminal.Kind()}
	}
	room := b.room(plan, space, s)
	defer func() { room.release() }()
	keeper := b.keeper(plan, space, s, h)
	defer func() { err = scope.Join(err, keeper.until.Close()) }()
	inside, err := caller{
		log: space.log, tell: b.tellAndWriteOut(plan, space), terminal: b.Terminal, reserve: room.reserve, guests: keeper.answer, supply: of.supplier.supply,
	}.jailed(ctx, b.JailVerb, order)
	if err != nil {
		return Manifest{}, err
	}
	facts := inside.Facts
	if before.Outcome != "" && facts.Outcome == before.Outcome {
		b.Tell(Event{Kind: Unchanged})
		return before, os.RemoveAll(space.failed) // which tells of a build in between
	}
	images, err := step(s, "Convert", func(ctx context.Context) ([]image.File, error) {
		return convert(ctx, h, plan, space, facts)
	})
	if err != nil {
		return Manifest{}, err
	}
	boots, err := b.bootTest(s, h, plan, facts, space, images)
	if err != nil {
		return Manifest{}, err
	}
	manifest = newManifest(ctx, plan, b, started, facts, images, boots, append(inside.Times, s.times...))
	manifest.Tools, manifest.ToolsTree, manifest.FactsRead = tools.versions, b.toolsName(), plan.factsRead(of.parts)
	if err := space.finish(ctx, plan, manifest, facts); err != nil {
		return Manifest{}, err
	}
	return manifest, nil
}

// finish writes what tells of a build beside its images, and delivers all of it.
func (w *workspace) finish(ctx context.Context, plan Plan, m Manifest, facts DiskFacts) error {
	err := writeReport(w, plan, m, facts)
	if err == nil {
		err = w.deliver(ctx, m, facts)
	}
	return fail.Wrap(fail.Build, "write the results", err)
}

// prepared is what a build was found to be made of before its jail begins.
type prepared struct {
	secrets  secrets
	supplier *supplier
	parts    parts
	release  func() error // what of it is in use
}

// prepare finds out what the plan is made of, and gets what no jail may: the caller's secrets,
// and what lies elsewhere.
func (b Builder) prepare(ctx context.Context, s *stages, h host.Host, tools toolset, plan *Plan, work string, log io.Writer) (of prepared, err error) {
	if of.secrets, err = plan.takeSecrets(ctx, b.Store); err != nil {
		return of, err
	}
	if of.supplier, err = b.supplier(*plan, h, work, log); err != nil {
		return of, err
	}
	if plan.Pinned, err = of.supplier.pin(s); err != nil {
		return of, err
	}
	if of.release, err = b.requirements(s, plan, tools, log); err != nil {
		return of, err
	}
	if of.secrets, err = b.Vault.take(ctx, *plan, of.secrets); err == nil {
		of.parts, err = plan.keyParts(ctx, b.Maker, tools)
	}
	if err != nil {
		err = scope.Join(err, of.release())
	}
	return of, err
}

// before is the manifest of the build before, empty where it cannot stay: because
// somebody changed its images, or because they were not tested and now are to be.
func (b Builder) before(space *workspace) Manifest {
	built, err := ReadBuilt(space.final)
	if err != nil || b.Boot != nil && (b.Retest || !built.Tested) {
		return Manifest{}
	}
	written, err := os.Stat(filepath.Join(space.final, ManifestName))
	if err != nil {
		return Manifest{}
	}
	for _, output := range built.Outputs {
		info, err := os.Lstat(filepath.Join(space.final, output.Name))
		if err != nil || !info.Mode().IsRegular() || info.Size() != output.Size || info.ModTime().After(written.ModTime()) {
			return Manifest{}
		}
	}
	return built.Manifest
}

// convert writes every output. The raw disk itself is one of them, or goes, unless nothing else
// can be booted.
func convert(ctx context.Context, h host.Host, plan Plan, space *workspace, facts DiskFacts) (images []image.File, err error) {
	raw, kept := filepath.Join(space.work, rawDiskName), ""
	subject := plan.subject(raw, facts)
	for _, name := range outputs(plan.Definition) {
		if name == diskformat.Raw {
			kept = filepath.Join(space.out, plan.ImageName(name))
			images = append(images, image.File{Name: filepath.Base(kept), Format: name, Size: facts.Disk.Size, VirtualSize: facts.Disk.Size, SHA256: facts.Disk.SHA256})
			continue
		}
		made, err := product.Make(ctx, h, name, subject, space.out)
		if err != nil {
			return images, err
		}
		images = append(images, made...)
	}
	switch {
	case kept != "":
		return images, os.Rename(raw, kept)
	case slices.ContainsFunc(plan.media(), func(m medium) bool { return m.file == "" }):
		return images, nil // it is what is booted
	}
	return images, os.Remove(raw)
}

// medium is what a boot test boots: the disk, or a CD.
type medium struct {
	file   string // among the outputs; "" for the raw disk, which is none
	format string
	cd     bool
}

// media is what the boot test boots: of the disk's images the first, and each CD. A build
// without either has its raw disk booted.
func (p Plan) media() (all []medium) {
	formats := outputs(p.Definition)
	if first := formats[0]; format.Named(first).Disk {
		all = append(all, medium{p.ImageName(first), first, false})
	}
	for _, name := range formats {
		if format.Named(name).CD {
			all = append(all, medium{p.ImageName(name), diskformat.Raw, true})
		}
	}
	if all == nil {
		all = append(all, medium{"", diskformat.Raw, false})
	}
	return all
}

// bootTest is the stage that boots, where that is asked for.
func (b Builder) bootTest(s *stages, h host.Host, plan Plan, facts DiskFacts, space *workspace, images []image.File) ([]boottest.Result, error) {
	if b.Boot == nil {
		return nil, nil
	}
	return step(s, "Boot test", func(ctx context.Context) ([]boottest.Result, error) {
		return b.boot(ctx, s, h, plan, facts, space, images)
	})
}

// boot tests what is to be booted on every firmware and makes sure that it did not change.
func (b Builder) boot(ctx context.Context, s *stages, h host.Host, plan Plan, facts DiskFacts, space *workspace, images []image.File) (all []boottest.Result, err error) {
	for _, m := range plan.media() {
		path, sum := filepath.Join(space.work, rawDiskName), facts.Disk.SHA256
		if i := slices.IndexFunc(images, func(made image.File) bool { return made.Name == m.file }); i >= 0 {
			path, sum = filepath.Join(space.out, m.file), images[i].SHA256
		}
		content := facts.Disk.SHA256
		if m.cd {
			content = sum
		}
		proofs, err := b.proofs(h, content)
		if err != nil {
			return nil, err
		}
		d := plan.Definition
		results, err := BootTest(ctx, h, path, m.format, boottest.Options{
			CD: m.cd, Firmware: d.Firmware, Accel: *b.Boot,
			Memory: int64(d.Test.Memory), CPUs: d.Test.CPUs, Timeout: time.Duration(d.Test.Timeout),
			Systemd: facts.systemd(), Logs: space.out, Scratch: space.work, Proofs: proofs, Budget: b.Budget,
			Task: func(status, text string) { s.task("Boot test", status, "%s", text) },
		})
		all = append(all, results...)
		if failed, ok := errors.AsType[*fail.Error](err); ok && failed.Kind != fail.Boot {
			return all, err // of the host, say; there may be no console
		}
		if err != nil {
			return all, &fail.Error{Kind: fail.Boot, Err: err, Hint: "the consoles are in " + filepath.Join(space.failed, boottest.ConsoleName(boottest.Result{Firmware: "FIRMWARE", CD: m.cd}.Name())) + ", and what the screens showed is beside them"}
		}
		switch now, _, err := image.Digest(ctx, path); {
		case err != nil:
			return all, err
		case now != sum:
			return all, fmt.Errorf("the boot test changed %s", filepath.Base(path))
		}
	}
	return all, nil
}

// proofs is what the store knows of how a disk or CD came up that has this SHA-256.
func (b Builder) proofs(h host.Host, content string) (boottest.Proofs, error) {
	layers, err := store.Open(b.Store)
	if err != nil {
		return nil, err
	}
	folder, err := layers.Own(proof.FolderName)
	if err != nil {
		return nil, err
	}
	return proof.In(folder).Of(h, content, b.Retest), nil
}

// BootTest boots the image at path, of the format that it is said to be ("" for what its
// first bytes tell). One that depends on another file is refused as wrong usage.
func BootTest(ctx context.Context, h host.Host, path, format string, o boottest.Options) (results []boottest.Result, err error) {
	if o.Image, o.Format, err = image.Open(path, format); err != nil {
		return nil, err
	}
	defer o.Image.Close()
	if o.CD && o.Format != diskformat.Raw {
		return nil, fail.New(fail.Usage, path, "", "it is an image of a disk (%s), not of a CD", o.Format)
	}
	return boottest.Run(ctx, h, o)
}
