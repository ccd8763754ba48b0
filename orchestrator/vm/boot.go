package vm

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Test is a boot test of one image on one firmware.
type Test struct {
	Image    string // never changed
	Format   string // of the image, such as qcow2
	Firmware string
	Accel    string
	Memory   int64 // bytes
	CPUs     int
	Timeout  time.Duration
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
	machine, err := t.prepare(ctx, h, dir)
	if err != nil {
		return result, err
	}
	start := time.Now()
	outcome, err := watch(ctx, machine, t.limits())
	result.Seconds = time.Since(start).Seconds()
	if err != nil {
		return result, err
	}
	result.Proof, result.Report, result.Passed = outcome.how, outcome.report, outcome.err == nil
	if outcome.err != nil {
		result.Problem = outcome.err.Error()
		return result, &fail.Error{
			Kind: fail.Boot, Op: t.Firmware, Err: outcome.err, Tail: lastLines(read(machine.Console), tailLines),
		}
	}
	return result, nil
}

// prepare makes what the machine writes to: the overlay, the UEFI variables.
func (t Test) prepare(ctx context.Context, h host.Host, dir string) (Machine, error) {
	image, err := filepath.Abs(t.Image)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{
		Firmware: t.Firmware, Accel: t.Accel, Memory: t.Memory, CPUs: t.CPUs,
		Disk: filepath.Join(dir, "overlay.qcow2"), Vars: filepath.Join(dir, "vars.fd"),
		Console: t.Console, Report: filepath.Join(dir, "report"), SeaBIOS: filepath.Join(dir, "seabios"), QMP: firstExtraFile,
		Units: reportUnits(),
	}
	if err := os.WriteFile(m.Console, nil, 0o644); err != nil {
		return m, err
	}
	if template := VarsTemplate(t.Firmware); template != "" {
		content, err := os.ReadFile(template)
		if err != nil {
			return m, &fail.Error{Kind: fail.Host, Err: err, Hint: "run 'vmctl doctor --install-missing'"}
		}
		if err := os.WriteFile(m.Vars, content, 0o600); err != nil {
			return m, err
		}
	}
	return m, h.Run(ctx, Overlay(image, t.Format, m.Disk))
}

// Overlay is the command that makes a copy-on-write image on top of another.
func Overlay(image, format, overlay string) host.Command {
	return host.Cmd("qemu-img", "create", "-q", "-f", "qcow2", "-F", format, "-b", image, overlay)
}

// watch runs the machine until its boot is judged.
func watch(ctx context.Context, m Machine, l limits) (verdict, error) {
	command := m.Command()
	path := host.Find(command.Path)
	if path == "" {
		return verdict{}, fail.New(fail.Host, "", "run 'vmctl doctor --install-missing'", "%s is not installed", command.Path)
	}
	monitor, theirs, err := socketPair()
	if err != nil {
		return verdict{}, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	said := &complaints{}
	cmd := host.Tied(running, path, command.Args...)
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = host.CleanEnv(), said, []*os.File{theirs}
	ended := make(chan error, 1)
	go func() {
		err := host.RunTied(cmd)
		theirs.Close()
		ended <- err
	}()

	var resets atomic.Int64
	go countResets(running, monitor, &resets)

	o := observation{firmware: m.Firmware}
	start, changed, size := time.Now(), time.Now(), 0
	var login time.Time
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			stop()
			<-ended
			return verdict{}, ctx.Err()
		case err := <-ended:
			o.gone, o.exit = true, err
			if text := said.String(); err != nil && text != "" {
				o.exit = fmt.Errorf("%w: %s", err, text)
			}
		case <-ticker.C:
		}
		console := read(m.Console)
		if len(console) != size {
			changed, size = time.Now(), len(console)
			o.console = plain(console[max(0, size-consoleTail):])
			o.booted = o.booted || userspace.MatchString(o.console)
		}
		o.report, o.seabios = string(read(m.Report)), string(read(m.SeaBIOS))
		if login.IsZero() && loginPrompt.MatchString(o.console) {
			login = time.Now()
		}
		if !login.IsZero() {
			o.login = max(time.Since(login), 1)
		}
		o.broken = said.broken()
		o.silent, o.elapsed, o.resets = time.Since(changed), time.Since(start), int(resets.Load())
		if v := judge(o, l); v.done {
			stop()
			if !o.gone {
				<-ended
			}
			return v, nil
		}
	}
}

func read(file string) []byte {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil // not there yet
	}
	return content
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
