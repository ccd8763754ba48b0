// Package orchestrator turns a definition into an image: the visible sequence
// of stages, and the interfaces that it needs from elsewhere.
package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Builder builds images into a folder.
type Builder struct {
	Folder     string          // gets one folder per build
	JailVerb   string          // how this binary is told to call RunInJail
	Version    string          // of vmctl
	Repository string          // URL of the definitions; "" for unknown
	Revision   string          // commit of the definitions; "" for unknown
	Boot       *vm.Accelerator // what the image is booted on; nil for not at all
	Tell       func(Event)
}

// Build builds one image. Its folder appears whole or not at all; a build that
// fails leaves the one before it as it was, and its logs in NAME.failed. log is
// where its own log lies then, "" where it did not begin.
func (b Builder) Build(ctx context.Context, plan Plan) (manifest Manifest, log string, err error) {
	space, err := openWorkspace(b.Folder, plan.Definition.Name)
	if err != nil {
		return Manifest{}, "", err
	}
	defer func() {
		err = errors.Join(err, space.close(err))
		log = LogPath(b.Folder, plan.Definition.Name, err != nil)
	}()
	manifest, err = b.build(ctx, plan, space)
	return manifest, "", err
}

// build is the stages of a build, in a workspace of its own.
func (b Builder) build(ctx context.Context, plan Plan, space *workspace) (manifest Manifest, err error) {
	s := &stages{ctx: ctx, tell: b.Tell}
	started := time.Now()
	facts, times, err := jailed(ctx, b.JailVerb, job{Plan: plan, Work: space.work, Devices: "/dev"}, space.log, b.Tell)
	if err != nil {
		return Manifest{}, err
	}
	h := &host.Local{Log: space.log}
	converted, err := step(s, "Convert", func(ctx context.Context) (conversion, error) {
		return convert(ctx, h, plan, space)
	})
	if err != nil {
		return Manifest{}, err
	}
	images := converted.images
	var boots []vm.Result
	if b.Boot != nil {
		boots, err = step(s, "Boot test", func(ctx context.Context) ([]vm.Result, error) {
			return b.boot(ctx, s, h, plan, facts, space, images)
		})
		if err != nil {
			return Manifest{}, err
		}
	}
	manifest = newManifest(ctx, plan, b, started, converted.disk, images, boots, append(times, s.times...))
	manifest.Tools = toolVersions(ctx, h)
	if err := space.deliver(ctx, manifest, facts); err != nil {
		return Manifest{}, fail.Wrap(fail.Build, "write the results", err)
	}
	return manifest, nil
}

// conversion is the disk and the images made of it.
type conversion struct {
	disk   DiskContent
	images []image.File
}

// convert writes every output. The raw disk itself is one of them or goes.
func convert(ctx context.Context, h host.Host, plan Plan, space *workspace) (conversion, error) {
	raw := filepath.Join(space.work, rawDiskName)
	group, together := errgroup.WithContext(ctx)
	var c conversion
	group.Go(func() (err error) {
		c.disk.SHA256, c.disk.Size, err = image.Digest(together, raw)
		return err
	})
	group.Go(func() error {
		for _, format := range outputs(plan.Definition) {
			if format == image.Raw {
				continue
			}
			if err := image.Write(together, h, raw, format, filepath.Join(space.out, plan.ImageName(format))); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return c, err
	}
	for _, format := range outputs(plan.Definition) {
		path := filepath.Join(space.out, plan.ImageName(format))
		if format == image.Raw {
			if err := os.Rename(raw, path); err != nil {
				return c, err
			}
			c.images = append(c.images, image.File{Name: filepath.Base(path), Format: format, Size: c.disk.Size, VirtualSize: c.disk.Size, SHA256: c.disk.SHA256})
			continue
		}
		file, err := image.Measure(ctx, h, path, format)
		if err != nil {
			return c, err
		}
		c.images = append(c.images, file)
	}
	if err := os.Remove(raw); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	return c, nil
}

// boot tests the image on every firmware and makes sure that it did not change.
func (b Builder) boot(ctx context.Context, s *stages, h host.Host, plan Plan, facts DiskFacts, space *workspace, images []image.File) ([]vm.Result, error) {
	d := plan.Definition
	format := outputs(d)[0]
	path := filepath.Join(space.out, plan.ImageName(format))
	results, err := BootTest(ctx, h, BootOptions{
		Image: path, Format: format, Firmware: d.Firmware, Accel: *b.Boot,
		Memory: int64(d.Test.Memory), CPUs: d.Test.CPUs, Timeout: time.Duration(d.Test.Timeout),
		Systemd: facts.systemd(), Logs: space.out, Scratch: space.work,
		Task: func(status, text string) { s.task("Boot test", status, "%s", text) },
	})
	if failed, ok := errors.AsType[*fail.Error](err); ok && failed.Kind != fail.Boot {
		return results, err // of the host, say; there may be no console
	}
	if err != nil {
		return results, &fail.Error{Kind: fail.Boot, Err: err, Hint: "the consoles are in " + filepath.Join(space.failed, "boot-FIRMWARE.log")}
	}
	sum, _, err := image.Digest(ctx, path)
	if err != nil {
		return results, err
	}
	for _, file := range images {
		if file.Format == format && file.SHA256 != sum {
			return results, fmt.Errorf("the boot test changed %s", file.Name)
		}
	}
	return results, nil
}

// BootOptions is what a boot test needs to know.
type BootOptions struct {
	Image    string
	Format   string // "" for what its first bytes tell
	Firmware []string
	Accel    vm.Accelerator
	Memory   int64 // bytes
	CPUs     int   // under KVM; emulation has one
	Timeout  time.Duration
	Systemd  int    // version in the image; 0 for unknown
	Logs     string // folder that gets boot-FIRMWARE.log
	Scratch  string // folder for what the guests write; "" for host.LargeTemp
	Task     func(status, text string)
}

// BootTest boots the image on every firmware, at the same time where memory
// allows. The error is that of the first firmware that failed; the results are
// those of all.
func BootTest(ctx context.Context, h host.Host, o BootOptions) ([]vm.Result, error) {
	uid, gid := files.Caller().IDs()
	confinement, err := vm.Confine(ctx, uid, gid)
	if err != nil {
		return nil, err
	}
	o.Accel = o.Accel.Confined(confinement)
	o.Task("ok", fmt.Sprintf("accelerator %s: %s", o.Accel, o.Accel.Reason))
	for _, note := range confinement.Notes(o.Accel.String()) {
		o.Task("ok", note)
	}
	disk, err := openImage(ctx, confinement, o.Image, o.Format)
	if err != nil {
		return nil, fail.Wrap(fail.Usage, o.Image, err)
	}
	defer disk.Close()
	results := make([]vm.Result, len(o.Firmware))
	failures := make([]error, len(o.Firmware))
	atOnce := min(guestsAtOnce(o.Memory), len(o.Firmware))
	if o.Accel.String() == vm.AccelTCG {
		// A guest that is emulated on a part of a processor runs into the time limits
		// that its own systemd has for devices.
		atOnce = min(atOnce, runtime.NumCPU())
	}
	free := make(chan struct{}, atOnce)
	var tell sync.Mutex
	var running sync.WaitGroup
	for i, firmware := range o.Firmware {
		running.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			results[i], failures[i] = bootOn(ctx, h, o, confinement, disk, firmware)
			tell.Lock()
			defer tell.Unlock()
			o.Task(bootLine(results[i], failures[i]))
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		return results, ctx.Err()
	}
	for _, err := range failures {
		if err != nil {
			return results, fail.Wrap(fail.Boot, "boot test", err)
		}
	}
	return results, nil
}

// bootOn boots the image on one firmware, once more where the accelerator and not
// the image is to blame.
func bootOn(ctx context.Context, h host.Host, o BootOptions, confinement vm.Confinement, disk openedImage, firmware string) (vm.Result, error) {
	accel := o.Accel
	for {
		result, err := vm.Boot(ctx, h, vm.Test{
			Image: disk.File, Format: disk.format, VirtualSize: disk.size, Confinement: confinement, Firmware: firmware, Accel: accel.For(firmware),
			Memory: o.Memory, CPUs: o.CPUs, Timeout: o.Timeout, Systemd: o.Systemd,
			Console: filepath.Join(o.Logs, "boot-"+firmware+".log"), Scratch: o.Scratch,
		})
		next, again := accel.After(err)
		if !again {
			return result, err
		}
		accel = next
	}
}

func bootLine(r vm.Result, err error) (status, text string) {
	switch {
	case r.Problem != "":
		return "failed", r.Firmware + ": " + r.Problem
	case err != nil:
		return "failed", fmt.Sprintf("%s: %v", r.Firmware, err)
	case r.Report != nil:
		return "ok", fmt.Sprintf("%s: up after %.0f s, systemd %d is %s, Secure Boot %s", r.Firmware, r.Seconds, r.Report.Systemd, r.Report.State, r.Report.SecureBoot)
	default:
		return "ok", fmt.Sprintf("%s: login prompt after %.0f s (this guest's systemd gives no report)", r.Firmware, r.Seconds)
	}
}

// guestsAtOnce is how many guests of so many bytes the free memory holds, at
// least one.
func guestsAtOnce(memory int64) int {
	free := host.AvailableMemory()
	const overhead = 256 << 20 // QEMU's own, roughly
	return int(max(1, min(free/(memory+overhead), 8)))
}
