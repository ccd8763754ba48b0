package vm

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Test is a boot test of one image on one firmware.
type Test struct {
	Image       *os.File // open for reading alone, so that QEMU cannot change it
	Format      string   // of the image, such as qcow2
	VirtualSize int64    // bytes, of the disk inside
	Confinement Confinement
	Firmware    string
	Accel       string
	Memory      int64 // bytes
	CPUs        int
	Timeout     time.Duration
	// Systemd is the version in the image, 0 where that is not known. From
	// SystemdForReport on the boot counts only with a report.
	Systemd int
	Console string // file that gets the console's text and stays
	// Scratch is the folder for what the guest writes, which may become as large
	// as its disk; "" means host.LargeTemp.
	Scratch string
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

const (
	pollInterval = 200 * time.Millisecond
	consoleTail  = 16 << 10 // bytes of the console that are searched each time
	mostReport   = 1 << 20  // bytes of the other ports that are read
	mostOutput   = 64 << 20 // bytes that a guest may write to a port; a noisy boot takes 1 MiB
	silenceKVM   = 60 * time.Second
	silenceTCG   = 3 * time.Minute
	foreignGrace = time.Minute
	tailLines    = 20
)

func (t Test) limits() limits {
	l := limits{total: t.Timeout, silence: silenceKVM, grace: foreignGrace}
	if t.Accel == AccelTCG {
		l.silence = silenceTCG
	}
	switch {
	case t.Systemd >= SystemdForReport:
		l.grace = -1
	case t.Systemd > 0:
		l.grace = 0
	}
	return l
}

// Boot boots the image and judges it. A guest that fails is a *fail.Error of
// kind Boot with the console's last lines; the result is valid then too.
func Boot(ctx context.Context, h host.Host, t Test) (Result, error) {
	result := Result{Firmware: t.Firmware, Accel: t.Accel}
	dir, err := os.MkdirTemp(cmp.Or(t.Scratch, host.LargeTemp()), "vmctl-boot-")
	if err != nil {
		return result, &fail.Error{Kind: fail.Host, Err: err, Hint: "name another folder for temporary files in TMPDIR"}
	}
	defer os.RemoveAll(dir)
	guest, err := t.prepare(ctx, h, dir)
	defer guest.close()
	if err != nil {
		return result, err
	}
	start := time.Now()
	outcome, err := guest.watch(ctx, t.Confinement, t.limits())
	result.Seconds = time.Since(start).Seconds()
	if err != nil {
		return result, err
	}
	result.Proof, result.Report, result.Passed = outcome.how, outcome.report, outcome.err == nil
	if outcome.err != nil {
		result.Problem = outcome.err.Error()
		return result, &fail.Error{
			Kind: fail.Boot, Op: t.Firmware, Err: outcome.err, Tail: lastLines(guest.console.last(consoleTail), tailLines),
		}
	}
	return result, nil
}

// guest is a machine with the files that QEMU inherits, in the order of their
// descriptors.
type guest struct {
	machine                  Machine
	files                    []*os.File
	console, report, seabios output
}

// prepare makes what the machine writes to: the overlay, the UEFI variables, and what
// it says. The guest is to be closed in any case.
func (t Test) prepare(ctx context.Context, h host.Host, dir string) (*guest, error) {
	g := &guest{machine: Machine{
		Firmware: t.Firmware, Accel: t.Accel, Memory: t.Memory, CPUs: t.CPUs, QMP: firstExtraFile,
		NoSandbox: t.Confinement.open != "", Units: reportUnits(),
	}}
	g.machine.Image = Image{File: g.inherit(t.Image), Format: t.Format}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return g, err
	}
	overlay := filepath.Join(dir, "overlay.qcow2")
	if err := h.Run(ctx, Overlay(t.VirtualSize, overlay)); err != nil {
		return g, err
	}
	if g.machine.Disk, err = g.open(overlay, os.O_RDWR); err != nil {
		return g, err
	}
	if template := VarsTemplate(t.Firmware); template != "" {
		content, err := os.ReadFile(template)
		if err != nil {
			return g, &fail.Error{Kind: fail.Host, Err: err, Hint: "run 'vmctl doctor --install-missing'"}
		}
		vars := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(vars, content, 0o600); err != nil {
			return g, err
		}
		if g.machine.Vars, err = g.open(vars, os.O_RDWR); err != nil {
			return g, err
		}
	}
	for _, out := range []struct {
		path string
		here *output
		name *string
	}{
		{t.Console, &g.console, &g.machine.Console},
		{filepath.Join(dir, "report"), &g.report, &g.machine.Report},
		{filepath.Join(dir, "seabios"), &g.seabios, &g.machine.SeaBIOS},
	} {
		if *out.name, err = g.collect(out.path, out.here); err != nil {
			return g, err
		}
	}
	return g, nil
}

// Overlay is the command that makes the empty image of bytes that a guest writes to.
// It names no backing file: what lies below is said when the guest starts.
func Overlay(bytes int64, path string) host.Command {
	return host.Cmd("qemu-img", "create", "-q", "-f", "qcow2", path, strconv.FormatInt(bytes, 10))
}

// inherit hands a file over, whose closing is not the guest's, and is QEMU's name for
// it.
func (g *guest) inherit(file *os.File) string {
	g.files = append(g.files, file)
	descriptor := firstExtraFile + len(g.files) // the monitor comes first
	g.machine.Inherited = append(g.machine.Inherited, descriptor)
	return inherited(descriptor)
}

// open opens a file for QEMU.
func (g *guest) open(path string, flags int) (name string, err error) {
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return "", err
	}
	return g.inherit(file), nil
}

// output is what QEMU writes to a file, read through a descriptor of our own: by name it
// might be another file by now.
type output struct{ file *os.File }

// collect makes a new file for QEMU to write to, in place of what was there.
func (g *guest) collect(path string, here *output) (name string, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if here.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return "", err
	}
	return g.open(fmt.Sprintf("/proc/self/fd/%d", here.file.Fd()), os.O_WRONLY)
}

// size is how many bytes were written so far.
func (o output) size() int64 {
	info, err := o.file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// last is the last n bytes at most of what was written so far, first the first ones.
func (o output) last(n int64) []byte  { return o.read(max(0, o.size()-n), n) }
func (o output) first(n int64) []byte { return o.read(0, n) }

func (o output) read(from, n int64) []byte {
	content, _ := io.ReadAll(io.NewSectionReader(o.file, from, n)) // what can be read tells enough
	return content
}

// close closes all files but the image, which is the caller's.
func (g *guest) close() {
	for _, file := range g.files[1:] {
		file.Close()
	}
	for _, out := range []output{g.console, g.report, g.seabios} {
		out.file.Close()
	}
}

// watch runs the machine until its boot is judged.
func (g *guest) watch(ctx context.Context, c Confinement, l limits) (verdict, error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	qemu, err := c.start(running, g.machine.Command(), c.as(g.machine.Accel), g.files)
	if err != nil {
		return verdict{}, err
	}
	var resets atomic.Int64
	go countResets(running, qemu.monitor, &resets)

	o := observation{firmware: g.machine.Firmware}
	start, changed, seen := time.Now(), time.Now(), int64(0)
	var login time.Time
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			stop()
			<-qemu.ended
			return verdict{}, ctx.Err()
		case err := <-qemu.ended:
			o.gone, o.exit = true, qemu.said.explain(err)
		case <-ticker.C:
		}
		if size := g.console.size(); size != seen {
			changed, seen = time.Now(), size
			o.console = plain(g.console.last(consoleTail))
			o.booted = o.booted || userspace.MatchString(o.console)
		}
		o.report, o.seabios = string(g.report.first(mostReport)), string(g.seabios.first(mostReport))
		o.flood = max(seen, g.report.size(), g.seabios.size()) > mostOutput
		if login.IsZero() && loginPrompt.MatchString(o.console) {
			login = time.Now()
		}
		if !login.IsZero() {
			o.login = max(time.Since(login), 1)
		}
		o.broken = qemu.said.broken()
		o.silent, o.elapsed, o.resets = time.Since(changed), time.Since(start), int(resets.Load())
		if v := judge(o, l); v.done {
			stop()
			if !o.gone {
				<-qemu.ended
			}
			return v, nil
		}
	}
}

func lastLines(console []byte, n int) string {
	lines := strings.Split(strings.TrimRight(plain(console), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// firstExtraFile is the descriptor that QEMU sees of exec.Cmd's first extra file.
const firstExtraFile = 3

// socketPair is a connection for QEMU's monitor: ours, and QEMU's end of it.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket for the monitor: %w", err)
	}
	own := os.NewFile(uintptr(pair[0]), "monitor")
	defer own.Close()
	theirs = os.NewFile(uintptr(pair[1]), "monitor")
	if ours, err = net.FileConn(own); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// countResets counts the resets that the guest asks for, as QEMU's monitor
// tells them (QMP, event RESET).
func countResets(ctx context.Context, monitor net.Conn, resets *atomic.Int64) {
	defer context.AfterFunc(ctx, func() { monitor.Close() })()
	defer monitor.Close()
	if _, err := io.WriteString(monitor, `{"execute":"qmp_capabilities"}`+"\n"); err != nil {
		return
	}
	lines := bufio.NewScanner(monitor)
	for lines.Scan() {
		var event struct {
			Event string `json:"event"`
			Data  struct {
				Guest bool `json:"guest"`
			} `json:"data"`
		}
		if json.Unmarshal(lines.Bytes(), &event) == nil && event.Event == "RESET" && event.Data.Guest {
			resets.Add(1)
		}
	}
}
