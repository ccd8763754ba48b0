// Package boottest boots an image on each firmware and judges from what the guest shows
// whether it came up: a report unit asks its systemd, and the console tells how a boot
// failed. How a guest is run is vm's.
package boottest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Options is what a boot test needs to know.
type Options struct {
	Image    *os.File // open for reading alone, so that QEMU cannot change it
	Format   string   // of the image, such as qcow2
	CD       bool     // the image is in the drive for CDs, raw, and there is no disk
	Firmware []string
	Accel    vm.Accelerator
	Memory   int64 // bytes
	CPUs     int   // under KVM; emulation has one
	Timeout  time.Duration
	// Systemd is the version in the image, 0 where that is not known. From
	// SystemdForReport on the boot counts only with a report.
	Systemd int
	Logs    string // folder that gets ConsoleName, and Screens by ScreenName
	Scratch string // folder for what the guests write; "" for host.LargeTemp
	Proofs  Proofs // of the image's disk; nil for none
	Budget  Budget // nil for no limit
	Task    func(status, text string)
}

// Proofs remembers how a disk came up.
type Proofs interface {
	// Find is how the disk came up on such a machine, and what that left; nil where it is
	// not known.
	Find(ctx context.Context, m vm.Machine) (*Result, Traces)
	// Keep remembers that the disk came up on a machine.
	Keep(ctx context.Context, m vm.Machine, r Result, left Traces) error
}

// Traces is what a boot leaves beside its result.
type Traces struct {
	Console []byte
	Screens Screens
}

// Budget admits guests to this machine.
type Budget interface {
	// Guest waits until a guest of so many bytes of memory may run, besides less than most
	// others; waits is told where that takes time.
	Guest(ctx context.Context, memory int64, most int, waits func()) (release func(), err error)
}

// Result is how a boot test ended.
type Result struct {
	Firmware string  `json:"firmware"`
	CD       bool    `json:"cd,omitempty"` // it started from a CD
	Passed   bool    `json:"passed"`
	Proof    string  `json:"proof,omitempty"` // report or login prompt
	Problem  string  `json:"problem,omitempty"`
	Accel    string  `json:"accel"`
	Seconds  float64 `json:"seconds"` // until the verdict
	Report   *Report `json:"report,omitempty"`
	// Earlier is which boot it is of, where the disk was not booted once more.
	Earlier *Earlier `json:"earlier,omitempty"`
}

// Name is what the boot is called among those of an image: its firmware, or cd-FIRMWARE.
func (r Result) Name() string { return bootName(r.Firmware, r.CD) }

func bootName(firmware string, cd bool) string {
	if cd {
		return "cd-" + firmware
	}
	return firmware
}

// ConsoleName is the name of the file with the console of a boot of that name.
func ConsoleName(boot string) string { return "boot-" + boot + ".log" }

// Earlier is a boot of the same disk on a machine like this one.
type Earlier struct {
	Booted time.Time         `json:"booted"`
	QEMU   string            `json:"qemu"`  // its version
	Files  map[string]string `json:"files"` // SHA-256 of QEMU and of the firmware, by their names
}

// Run boots the image on every firmware, at the same time where the budget allows. The
// error is that of the first firmware that failed; the results are those of all. An
// image that QEMU does not find whole by itself is refused as wrong usage.
func Run(ctx context.Context, h host.Host, o Options) ([]Result, error) {
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
	size, err := confinement.Describe(ctx, o.Image, o.Format)
	if err != nil {
		return nil, fail.Wrap(fail.Usage, o.Image.Name(), err)
	}
	results := make([]Result, len(o.Firmware))
	failures := make([]error, len(o.Firmware))
	var tell sync.Mutex
	task := o.Task
	o.Task = func(status, text string) {
		tell.Lock()
		defer tell.Unlock()
		task(status, text)
	}
	var running sync.WaitGroup
	for i, firmware := range o.Firmware {
		running.Go(func() {
			results[i], failures[i] = bootOn(ctx, h, o, confinement, size, firmware)
			o.Task(line(results[i], failures[i]))
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

// Admit waits until a guest may run, where there is a budget; waits is told where that takes
// time.
func Admit(ctx context.Context, budget Budget, setup vm.Setup, waits func()) (release func(), err error) {
	if budget == nil {
		return func() {}, nil
	}
	const overhead = 256 << 20 // bytes that QEMU takes for itself, roughly
	most := 8
	if setup.Accel == vm.AccelTCG {
		// A guest that is emulated on a part of a processor runs into the time limits
		// that its own systemd has for devices.
		most = min(most, runtime.NumCPU())
	}
	return budget.Guest(ctx, setup.Memory+overhead, most, waits)
}

// bootOn boots the image, whose disk has so many bytes, on one firmware, once more where
// the accelerator and not the image is to blame.
func bootOn(ctx context.Context, h host.Host, o Options, confinement vm.Confinement, size int64, firmware string) (Result, error) {
	accel := o.Accel
	for {
		setup := vm.Setup{
			Image: o.Image, Format: o.Format, CD: o.CD, VirtualSize: size, Firmware: firmware, Accel: accel.For(firmware),
			Memory: o.Memory, CPUs: o.CPUs, Units: reportUnits(),
			Console: filepath.Join(o.Logs, ConsoleName(bootName(firmware, o.CD))), Scratch: o.Scratch,
		}
		if result, found, err := o.proved(ctx, setup); found || err != nil {
			return result, err
		}
		release, err := Admit(ctx, o.Budget, setup, func() { o.Task("started", bootName(firmware, o.CD)+" waits for other guests to end") })
		if err != nil {
			return Result{Firmware: firmware, CD: o.CD}, err
		}
		screens := Screens{}
		result, err := boot(ctx, h, confinement, setup, o.limits(setup.Accel), screens)
		release()
		if problem := screens.write(setup.Console, result.Name()); problem != nil {
			o.Task("note", result.Name()+": "+problem.Error())
		}
		if err == nil {
			o.prove(ctx, setup, result, screens)
		}
		next, again := accel.After(err)
		if !again {
			return result, err
		}
		accel = next
	}
}

// line is a result for people.
func line(r Result, err error) (status, text string) {
	switch {
	case r.Problem != "":
		return "failed", r.Name() + ": " + r.Problem
	case err != nil:
		return "failed", fmt.Sprintf("%s: %v", r.Name(), err)
	case r.Earlier != nil:
		return "ok", fmt.Sprintf("%s: this disk came up on %s, with the same QEMU and firmware (--retest boots it again)", r.Name(), r.Earlier.Booted.Format(time.DateOnly))
	case r.Report != nil:
		return "ok", fmt.Sprintf("%s: up after %.0f s, systemd %d is %s, Secure Boot %s", r.Name(), r.Seconds, r.Report.Systemd, r.Report.State, r.Report.SecureBoot)
	default:
		return "ok", fmt.Sprintf("%s: login prompt after %.0f s (this guest's systemd gives no report)", r.Name(), r.Seconds)
	}
}
