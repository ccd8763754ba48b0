package orchestrator

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/btw-img/btw-img/orchestrator/bootloader"
	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// Provisioner applies one layer to a tree; cmd/vmctl wires Ansible in.
type Provisioner interface {
	Provision(ctx context.Context, p Provision) error
}

// Provision is one layer and the tree to apply it to.
type Provision struct {
	Root       string // the tree, ready to run programs in
	Scratch    string // folder for files in passing
	Definition *definition.Definition
	Layer      definition.Layer
	Roles      string // folder of the user's roles
	Env        []string
	Log        io.Writer
	Task       func(status, text string) // is told of each task
}

// job is what the jail is asked to do.
type job struct {
	Plan    Plan   `json:"plan"`
	Work    string `json:"work"`    // the build's work folder
	Devices string `json:"devices"` // the jail's /dev
	Scratch string `json:"-"`       // folder in memory, gone with the jail, for what may be secret
}

const rawDiskName = "disk.raw"

func (j job) disk() string { return filepath.Join(j.Work, rawDiskName) }
func (j job) root() string { return filepath.Join(j.Work, "root") }

// DiskFacts is what is known of a disk once it is made.
type DiskFacts struct {
	Packages []debian.Package `json:"packages"`
}

// The states of the disk, in the order in which it takes them on.
type (
	partitionedDisk struct{ file string }
	mountedDisk     struct {
		*disk.Attached
		root    string
		unmount func() error
	}
	debianTree  struct{ mountedDisk }
	enteredTree struct {
		mountedDisk
		leave func(context.Context) error
	}
	layeredTree  struct{ enteredTree }
	settledTree  struct{ enteredTree }
	bootableTree struct{ enteredTree }
	sealedDisk   struct{ mountedDisk }
)

// buildDisk is the work in the jail: from nothing to a raw disk that boots.
func buildDisk(s *stages, h host.Host, provisioner Provisioner, j job, log io.Writer) (facts DiskFacts, err error) {
	var stack scope.Stack
	defer stack.CloseInto(&err)
	if err := prepareFolders(h, j, &stack); err != nil {
		return facts, fail.Wrap(fail.Host, "work folder", err)
	}
	partitioned, err := step(s, "Partitions", func(ctx context.Context) (partitionedDisk, error) {
		return partitionedDisk{j.disk()}, disk.Create(ctx, h, j.Plan.Disk, j.disk())
	})
	if err != nil {
		return facts, err
	}
	mounted, err := step(s, "File systems", func(ctx context.Context) (mountedDisk, error) {
		return mountDisk(ctx, h, partitioned, j, &stack)
	})
	if err != nil {
		return facts, err
	}
	debian, err := step(s, "Source", func(ctx context.Context) (debianTree, error) {
		err := source.Apply(ctx, h, j.Plan.Definition.Source, mounted.root, j.Plan.sourceOptions(filepath.Join(j.Work, "tmp")))
		return debianTree{mounted}, blame(j.Plan.Definition, err)
	})
	if err != nil {
		return facts, err
	}
	entered, err := step(s, "Enter", func(ctx context.Context) (enteredTree, error) {
		return enter(ctx, h, debian, j, &stack)
	})
	if err != nil {
		return facts, err
	}
	settled, err := applyLayers(s, provisioner, entered, j, log)
	if err != nil {
		return facts, err
	}
	bootable, err := step(s, "Boot loader", func(ctx context.Context) (bootableTree, error) {
		return makeBootable(ctx, h, settled, j)
	})
	if err != nil {
		return facts, err
	}
	facts, err = step(s, "Packages", func(ctx context.Context) (DiskFacts, error) {
		return listPackages(ctx, h, bootable.root)
	})
	if err != nil {
		return facts, err
	}
	sealed, err := step(s, "Seal", func(ctx context.Context) (sealedDisk, error) {
		return sealDisk(ctx, h, bootable)
	})
	if err != nil {
		return facts, err
	}
	_, err = step(s, "Check", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, sealed.Check(ctx, h)
	})
	return facts, err
}

// prepareFolders makes the mount point and the jail's own /dev.
func prepareFolders(h host.Host, j job, stack *scope.Stack) error {
	if err := os.MkdirAll(j.root(), 0o755); err != nil {
		return err
	}
	release, err := chroot.Devices(h, j.Devices)
	if err != nil {
		return err
	}
	stack.Push("remove the jail's devices", release)
	return nil
}

// once makes a release that later calls of no longer do anything, for what is
// released in the course of things and again by the stack.
func once(release func() error) func() error {
	done := false
	return func() error {
		if done {
			return nil
		}
		done = true
		return release()
	}
}

func mountDisk(ctx context.Context, h host.Host, d partitionedDisk, j job, stack *scope.Stack) (mountedDisk, error) {
	attached, err := disk.Attach(h, j.Plan.Disk, d.file)
	if err != nil {
		return mountedDisk{}, err
	}
	stack.Push("detach the disk", attached.Detach)
	if err := attached.Format(ctx, h); err != nil {
		return mountedDisk{}, err
	}
	unmount, err := attached.Mount(h, j.root())
	if err != nil {
		return mountedDisk{}, err
	}
	unmount = once(unmount)
	stack.Push("unmount the disk", unmount)
	return mountedDisk{attached, j.root(), unmount}, nil
}

func enter(ctx context.Context, h host.Host, tree debianTree, j job, stack *scope.Stack) (enteredTree, error) {
	byUUID := chroot.Disk{}
	for _, part := range j.Plan.Disk.Partitions {
		if part.UUID != "" {
			byUUID[part.UUID] = tree.Device(part)
		}
	}
	if err := j.Plan.identity().Begin(tree.root); err != nil {
		return enteredTree{}, err
	}
	leave, err := chroot.Enter(ctx, h, tree.root, j.Devices, byUUID)
	if err != nil {
		return enteredTree{}, err
	}
	left := false
	leaveOnce := func(ctx context.Context) error {
		if left {
			return nil
		}
		left = true
		return leave(ctx)
	}
	stack.Push("leave the tree", func() error { return leaveOnce(context.WithoutCancel(ctx)) })
	return enteredTree{tree.mountedDisk, leaveOnce}, nil
}

// applyLayers is one stage per layer, the farthest ancestor first, and one that merges
// what they wrote of the machine's identity.
func applyLayers(s *stages, provisioner Provisioner, tree enteredTree, j job, log io.Writer) (settledTree, error) {
	layered := layeredTree{tree}
	for _, layer := range withoutEarly(j.Plan.Definition) {
		var err error
		layered, err = step(s, "Layer "+layer.Name, func(ctx context.Context) (layeredTree, error) {
			return applyLayer(ctx, s, provisioner, layered, layer, j, log)
		})
		if err != nil {
			return settledTree{}, err
		}
	}
	return step(s, "Identity", func(context.Context) (settledTree, error) {
		return settledTree(layered), j.Plan.identity().Settle(layered.root)
	})
}

func applyLayer(ctx context.Context, s *stages, provisioner Provisioner, tree layeredTree, layer definition.Layer, j job, log io.Writer) (layeredTree, error) {
	if len(layer.Install)+len(layer.Commands) == 0 {
		return tree, nil
	}
	return tree, provisioner.Provision(ctx, Provision{
		Root: tree.root, Scratch: filepath.Join(j.Scratch, "ansible"), Definition: &j.Plan.Definition, Layer: layer,
		Roles: j.Plan.Roles, Env: host.CleanEnv(), Log: log,
		Task: func(status, text string) { s.task("Layer "+layer.Name, status, "%s", text) },
	})
}

func makeBootable(ctx context.Context, h host.Host, tree settledTree, j job) (bootableTree, error) {
	target := bootloader.Target{Root: tree.root, Disk: j.disk(), Scratch: j.Work}
	if esp := j.Plan.Disk.OfType(definition.TypeESP); esp != nil {
		target.ESP = tree.Device(*esp)
	}
	if err := chroot.RestoreInitramfs(ctx, h, tree.root); err != nil {
		return bootableTree{}, err
	}
	return bootableTree(tree), bootloader.Apply(ctx, h, j.Plan.Boot, target)
}

func sealDisk(ctx context.Context, h host.Host, tree bootableTree) (sealedDisk, error) {
	if err := seal.FirstBoot(ctx, h, tree.root); err != nil {
		return sealedDisk{}, err
	}
	if err := tree.leave(ctx); err != nil {
		return sealedDisk{}, err
	}
	if err := seal.Apply(tree.root); err != nil {
		return sealedDisk{}, err
	}
	if err := tree.unmount(); err != nil {
		return sealedDisk{}, err
	}
	return sealedDisk{tree.mountedDisk}, trim(ctx, h, tree.Attached, tree.root)
}

// trim gives the blocks that hold nothing back to the sparse file. The file
// systems are mounted once more for it: what was deleted a moment ago becomes
// free only when the journal is written, and nothing syncs in the jail.
func trim(ctx context.Context, h host.Host, disk *disk.Attached, root string) (err error) {
	unmount, err := disk.Mount(h, root)
	if err != nil {
		return err
	}
	var stack scope.Stack
	stack.Push("unmount the disk", unmount)
	defer stack.CloseInto(&err)
	mounts, err := disk.Mounted(root)
	if err != nil {
		return err
	}
	return seal.Trim(ctx, h, mounts)
}

func listPackages(ctx context.Context, h host.Host, root string) (DiskFacts, error) {
	out, err := h.Output(ctx, host.Cmd("dpkg-query", debian.QueryArgs...).In(root))
	if err != nil {
		return DiskFacts{}, err
	}
	packages, err := debian.Installed(out)
	return DiskFacts{packages}, err
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
