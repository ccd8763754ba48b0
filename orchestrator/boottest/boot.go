package boottest

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// mostOutput is how many bytes a guest may write to a port; a noisy boot takes 1 MiB.
const mostOutput = 64 << 20

const (
	pollInterval = 200 * time.Millisecond
	consoleTail  = 16 << 10 // bytes of the console that are searched each time
	mostReport   = 1 << 20  // bytes of the other ports that are read
	silenceKVM   = 60 * time.Second
	silenceTCG   = 3 * time.Minute
	foreignGrace = time.Minute
	tailLines    = 20
)

func (o Options) limits(accel string) limits {
	l := limits{total: o.Timeout, silence: silenceKVM, grace: foreignGrace}
	if accel == vm.AccelTCG {
		l.silence = silenceTCG
	}
	switch {
	case o.Systemd >= SystemdForReport:
		l.grace = -1
	case o.Systemd > 0:
		l.grace = 0
	}
	return l
}

// boot boots the guest once and judges it. A guest that fails is a *fail.Error of kind
// Boot with the console's last lines; the result is valid then too.
func boot(ctx context.Context, h host.Host, confinement vm.Confinement, setup vm.Setup, l limits, screens Screens) (Result, error) {
	result := Result{Firmware: setup.Firmware, CD: setup.CD, Accel: setup.Accel}
	guest, err := confinement.Prepare(ctx, h, setup)
	if err != nil {
		return result, err
	}
	defer guest.Close()
	outcome, err := watch(ctx, guest, setup, l, screens)
	if err != nil {
		return result, err
	}
	result.Seconds, result.Proof, result.Report, result.Passed = outcome.after.Seconds(), outcome.how, outcome.report, outcome.err == nil
	if outcome.err != nil {
		result.Problem = outcome.err.Error()
		return result, &fail.Error{
			Kind: fail.Boot, Op: result.Name(), Err: outcome.err, Tail: lastLines(guest.Console.Last(consoleTail), tailLines),
		}
	}
	return result, nil
}

// watch runs the guest until its boot is judged, and keeps what its screen shows while the
// boot loader works and at the end.
func watch(ctx context.Context, guest *vm.Guest, setup vm.Setup, l limits, screens Screens) (verdict, error) {
	if err := guest.Start(ctx); err != nil {
		return verdict{}, err
	}
	defer guest.Stop()
	o := observation{firmware: setup.Firmware}
	start, changed, seen := time.Now(), time.Now(), int64(0)
	var login time.Time
	loaded := false
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return verdict{}, ctx.Err()
		case err := <-guest.Ended():
			o.gone, o.exit = true, guest.Complaint(err)
		case <-ticker.C:
		}
		if err := NoRoom(filepath.Dir(setup.Console), setup.ScratchFolder()); err != nil {
			return verdict{}, err
		}
		if size := guest.Console.Size(); size != seen {
			changed, seen = time.Now(), size
			o.console = plain(guest.Console.Last(consoleTail))
			o.booted = o.booted || userspace.MatchString(o.console)
		}
		o.report, o.seabios = string(guest.Report.First(mostReport)), string(guest.SeaBIOS.First(mostReport))
		o.flood = TooMuch(max(seen, guest.Report.Size(), guest.SeaBIOS.Size()))
		if login.IsZero() && loginPrompt.MatchString(o.console) {
			login = time.Now()
			screens.take(ctx, guest, LastScreen) // a guest that has reported switches itself off
		}
		if !login.IsZero() {
			o.login = max(time.Since(login), 1)
		}
		o.broken = guest.Broken()
		o.silent, o.elapsed, o.resets = time.Since(changed), time.Since(start), guest.Resets()
		if !loaded && loading.MatchString(o.console) {
			loaded = true
			if !o.booted && !kernel.MatchString(o.console) {
				screens.take(ctx, guest, LoaderScreen)
			}
		}
		if v := judge(o, l); v.done {
			v.after = o.elapsed
			screens.take(ctx, guest, LastScreen)
			return v, nil
		}
	}
}

// NoRoom is an error where one of the folders is full: a guest that cannot write stands
// still, and a console that is not written tells nothing. The image is not to blame.
func NoRoom(folders ...string) error {
	for _, folder := range folders {
		if host.FullForOthers(folder) { // QEMU is not root
			return fail.New(fail.Host, "", "free space in "+folder, "no space left in %s for what the guest writes", folder)
		}
	}
	return nil
}

// TooMuch is an error where a guest has written so many bytes to a port that it has no end.
func TooMuch(bytes int64) error {
	if bytes > mostOutput {
		return fmt.Errorf("endless output: the guest has written more than %d MiB to a serial port", mostOutput>>20)
	}
	return nil
}

func lastLines(console []byte, n int) string {
	lines := strings.Split(strings.TrimRight(plain(console), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
