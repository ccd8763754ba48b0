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
	Firmware []string
	Accel    vm.Accelerator
	Memory   int64 // bytes
	CPUs     int   // under KVM; emulation has one
	Timeout  time.Duration
	// Systemd is the version in the image, 0 where that is not known. From
	// SystemdForReport on the boot counts only with a report.
	Systemd int
	Logs    string // folder that gets boot-FIRMWARE.log
	Scratch string // folder for what the guests write; "" for host.LargeTemp
	Task    func(status, text string)
}

// Result is how a boot test ended.
type Result struct {
	Firmware string  `json:"firmware"`
	Passed   bool    `json:"passed"`
	Proof    string  `json:"proof,omitempty"` // report or login prompt
	Problem  string  `json:"problem,omitempty"`
	Accel    string  `json:"accel"`
	Seconds  float64 `json:"seconds"` // until the verdict
	Report   *Report `json:"report,omitempty"`
}

// Run boots the image on every firmware, at the same time where memory allows. The
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
	free := make(chan struct{}, o.atOnce())
	var tell sync.Mutex
	var running sync.WaitGroup
	for i, firmware := range o.Firmware {
		running.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			results[i], failures[i] = bootOn(ctx, h, o, confinement, size, firmware)
			tell.Lock()
			defer tell.Unlock()
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

// atOnce is how many guests run at the same time.
func (o Options) atOnce() int {
	n := min(guestsAtOnce(o.Memory), len(o.Firmware))
	if o.Accel.String() == vm.AccelTCG {
		// A guest that is emulated on a part of a processor runs into the time limits
		// that its own systemd has for devices.
		n = min(n, runtime.NumCPU())
	}
	return n
}

// guestsAtOnce is how many guests of so many bytes the free memory holds, at
// least one.
func guestsAtOnce(memory int64) int {
	free := host.AvailableMemory()
	const overhead = 256 << 20 // QEMU's own, roughly
	return int(max(1, min(free/(memory+overhead), 8)))
}

// bootOn boots the image, whose disk has so many bytes, on one firmware, once more where
// the accelerator and not the image is to blame.
func bootOn(ctx context.Context, h host.Host, o Options, confinement vm.Confinement, size int64, firmware string) (Result, error) {
	accel := o.Accel
	for {
		setup := vm.Setup{
			Image: o.Image, Format: o.Format, VirtualSize: size, Firmware: firmware, Accel: accel.For(firmware),
			Memory: o.Memory, CPUs: o.CPUs, Units: reportUnits(),
			Console: filepath.Join(o.Logs, "boot-"+firmware+".log"), Scratch: o.Scratch,
		}
		result, err := boot(ctx, h, confinement, setup, o.limits(setup.Accel))
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
		return "failed", r.Firmware + ": " + r.Problem
	case err != nil:
		return "failed", fmt.Sprintf("%s: %v", r.Firmware, err)
	case r.Report != nil:
		return "ok", fmt.Sprintf("%s: up after %.0f s, systemd %d is %s, Secure Boot %s", r.Firmware, r.Seconds, r.Report.Systemd, r.Report.State, r.Report.SecureBoot)
	default:
		return "ok", fmt.Sprintf("%s: login prompt after %.0f s (this guest's systemd gives no report)", r.Firmware, r.Seconds)
	}
}
