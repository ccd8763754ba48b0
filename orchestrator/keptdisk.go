package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// The disk of an installer may be kept (keep_disk): its size and partitions are those of the
// image's. They are known once the installer has run, so its tree is made first, or looked for
// in the store, and the rest of the build is planned then. The disk itself is assembled of the
// tree, as each is.

// keptDisk is what is kept of an installer's disk.
type keptDisk struct {
	Size       definition.Size        `json:"size"`
	Partitions []definition.Partition `json:"partitions"`
}

const mbrESP = "ef" // type of an ESP in an MBR

// keptOf is what is kept of a disk of so many bytes.
func keptOf(system *rawdisk.System, size int64) (keptDisk, error) {
	const mib = int64(definition.MiB)
	kept := keptDisk{Size: definition.Size(size / mib * mib)}
	uses := slices.SortedFunc(slices.Values(system.Uses), func(a, b rawdisk.Use) int { return cmp.Compare(a.Start, b.Start) })
	need := 2 * definition.MiB // for the tables, and what lies before the first partition
	for _, use := range uses {
		part, err := keptPartition(use, kept.Partitions)
		if err != nil {
			return keptDisk{}, err
		}
		part.Size = max(definition.Size(use.Size/mib*mib), definition.MiB)
		need += part.Size
		kept.Partitions = append(kept.Partitions, part)
	}
	has := func(kind string) bool {
		return slices.ContainsFunc(kept.Partitions, func(p definition.Partition) bool { return p.Type == kind })
	}
	if !has(definition.TypeBIOS) && (system.Table.Kind != rawdisk.GPT || !has(definition.TypeESP)) {
		// A BIOS starts what lies in front of the partitions of an MBR; a GPT has one for it.
		kept.Partitions = slices.Insert(kept.Partitions, 0, definition.Partition{Label: definition.TypeBIOS, Type: definition.TypeBIOS, Size: definition.MiB})
		need += definition.MiB
	}
	const tail = 8 * definition.MiB
	last := &kept.Partitions[len(kept.Partitions)-1]
	if end := uses[len(uses)-1].Start + uses[len(uses)-1].Size; end > size-int64(tail) && last.Size > 2*tail {
		last.Size = 0 // it ends with the disk
	} else {
		kept.Size = max(kept.Size, need)
	}
	return kept, nil
}

// keptPartition is a partition with that use, beside others.
func keptPartition(use rawdisk.Use, others []definition.Partition) (p definition.Partition, err error) {
	refuse := func(format string, args ...any) (definition.Partition, error) {
		args = append([]any{use.Number}, args...)
		return p, fail.New(fail.Build, "keep_disk", "have the installer part its disk otherwise, or remove keep_disk and write disk.layout", "partition %d "+format, args...)
	}
	kind := disk.TypeOf(use.Type)
	if use.Type == mbrESP {
		kind = definition.TypeESP
	}
	fs := filesystem.Named(use.Filesystem)
	switch {
	case kind == definition.TypeBIOS:
		return definition.Partition{Label: kind, Type: kind}, nil
	case use.Filesystem == "":
		return refuse("has nothing in it that vmctl could make anew")
	case fs == nil:
		return refuse("has %s in it, which vmctl does not make", use.Filesystem)
	case !fs.Mountable():
		kind = definition.TypeSwap
	case kind != definition.TypeESP:
		kind = definition.TypeLinux
		if use.Mount == "" {
			return refuse("is mounted nowhere, and the files of its %s would be lost", use.Filesystem)
		}
	}
	p = definition.Partition{Type: kind, Filesystem: use.Filesystem, Mount: use.Mount, Options: keptOptions(use.Options)}
	for _, label := range []string{use.FilesystemLabel, use.Label, impliedLabel(p)} {
		taken := slices.ContainsFunc(others, func(o definition.Partition) bool { return o.Label == label })
		if label != "" && !taken && len(label) <= fs.LongestLabel && definition.IsLabel(label) {
			p.Label = label
			break
		}
	}
	return p, nil
}

// impliedLabel is what a partition is called that its installer has given no name.
func impliedLabel(p definition.Partition) string {
	switch {
	case p.Mount == "/":
		return "root"
	case p.Mount == "":
		return p.Type
	case p.Type == definition.TypeESP:
		return definition.TypeESP
	}
	return strings.ReplaceAll(path.Clean(p.Mount)[1:], "/", "-")
}

// keptOptions is mount options that a new file system can have, too.
func keptOptions(options string) string {
	kept := slices.DeleteFunc(strings.Split(options, ","), func(option string) bool {
		name, _, _ := strings.Cut(option, "=")
		return name == "" || name == "defaults" || name == "sw" || name == "subvol" || name == "subvolid" || name == "x-systemd.growfs"
	})
	return strings.Join(kept, ",")
}

// withDisk is the plan with that disk.
func (p Plan) withDisk(kept keptDisk) (Plan, error) {
	d, err := p.Definition.WithDisk(kept.Size, kept.Partitions)
	if err != nil {
		return p, err
	}
	with, err := NewPlan(d, nil)
	p.Definition, p.Disk, p.Boot, p.FSTab = d, with.Disk, with.Boot, with.FSTab
	return p, err
}

// keepDisk plans with the disk that the installer has left, of so many bytes.
func (w *workshop) keepDisk(system *rawdisk.System, size int64) error {
	kept, err := keptOf(system, size)
	if err != nil {
		return err
	}
	w.onDisk = &kept
	if before := w.plan.Definition; !before.KeepsDisk() { // it was known, and is made once more
		if !reflect.DeepEqual(before.Disk.Layout.Partitions, kept.Partitions) || before.Disk.Size != kept.Size {
			return fail.New(fail.Build, "keep_disk", "build again", "the installer has parted its disk otherwise than before")
		}
		return nil
	}
	w.plan, err = w.plan.withDisk(kept)
	return err
}

const installerTitle = "Installer"

// planOnKept plans with the disk of the installer, if that is to be kept: it has the tree made of
// which the store knows the disk.
func (b Builder) planOnKept(ctx context.Context, s *stages, h host.Host, plan *Plan, of *prepared, tools toolset, space *workspace) error {
	if !plan.Definition.KeepsDisk() {
		return nil
	}
	kept, err := stepOr(s, installerTitle, func(ctx context.Context) (_ keptDisk, stored bool, err error) {
		tell := b.within(installerTitle)
		keeper := b.keeper(*plan, space, s, h)
		keeper.tell = func(_, status, format string, args ...any) { s.task(installerTitle, status, format, args...) }
		defer func() { err = scope.Join(err, keeper.until.Close()) }()
		order := job{Plan: *plan, Secrets: of.secrets, Parts: of.parts, Work: space.work, Store: b.Store, How: b.How.of(*plan), Tools: tools.tree, Source: true}
		made, err := caller{log: space.log, tell: tell, guests: keeper.answer, supply: of.supplier.supply}.jailed(ctx, b.JailVerb, order)
		if err != nil {
			return keptDisk{}, false, err
		}
		kept, err := b.keptDisk(made.Tree)
		return kept, made.Stored, err
	})
	if err == nil {
		of.parts, err = plan.adopt(ctx, kept, of.parts, b.Maker, tools)
	}
	if err != nil {
		return err
	}
	needs := NeedsOf(plan.Definition, b.Boot != nil, "")
	needs.Tools = tools.tree != ""
	return cmp.Or(tools.checkPrograms(needs), Refusal(Preflight(needs)))
}

// adopt plans with that disk, and returns the parts of a build whose source has left it.
func (p *Plan) adopt(ctx context.Context, kept keptDisk, of parts, maker string, tools toolset) (parts, error) {
	var err error
	if *p, err = p.withDisk(kept); err != nil {
		return of, err
	}
	with, err := p.keyParts(ctx, maker, tools)
	with.Source = of.Source
	return with, err
}

// keptDisk is what the store remembers with the tree of an installer.
func (b Builder) keptDisk(key store.Key) (kept keptDisk, err error) {
	layers, err := store.Open(b.Store)
	if err != nil {
		return kept, err
	}
	layer, err := layers.Use(key)
	if err == nil && layer == nil {
		err = errors.New("its tree was removed from the store at once: build again")
	}
	if err != nil {
		return kept, err
	}
	var facts sourceFacts
	err = json.Unmarshal(layer.About().Data, &facts)
	if err == nil && facts.Disk == nil {
		err = fail.New(fail.Build, "keep_disk", "build with --no-cache", "the store does not know the disk that the installer has left")
	}
	if err = errors.Join(err, layer.Release()); err != nil {
		return kept, err
	}
	return *facts.Disk, nil
}

// within tells of what happens as of a part of the stage.
func (b Builder) within(title string) func(Event) {
	return func(e Event) {
		if e.Kind == TaskSeen || e.Kind == Transferred {
			e.Stage = title
			b.Tell(e)
		}
	}
}
