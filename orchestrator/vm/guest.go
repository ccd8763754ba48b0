package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Setup is what a guest is to be.
type Setup struct {
	Image       *os.File // open for reading alone, so that QEMU cannot change it
	Format      string   // of the image, such as qcow2
	VirtualSize int64    // bytes, of the disk inside
	CD          bool     // the image is in the drive for CDs, raw, and there is no disk
	Firmware    string
	Accel       string // AccelKVM or AccelTCG
	Memory      int64  // bytes
	CPUs        int    // under KVM
	Units       []Unit
	Console     string // file that gets the console's text and stays
	// Direct is what a guest begins with that has no boot loader, in place of an image and
	// firmware; nil for none.
	Direct *Direct
	// Scratch is the folder for what the guest writes, which may become as large
	// as its disk; "" means host.LargeTemp.
	Scratch string
}

// Machine is the setup's machine, without the files that each guest has of its own: two
// that are equal treat a disk alike.
func (s Setup) Machine() Machine {
	return Machine{Firmware: s.Firmware, Accel: s.Accel, Memory: s.Memory, CPUs: s.CPUs, Units: s.Units, CD: s.CD}
}

// ScratchFolder is where the guest writes.
func (s Setup) ScratchFolder() string { return cmp.Or(s.Scratch, host.LargeTemp()) }

// Guest is a machine with the files that QEMU inherits, in the order of their
// descriptors, and its QEMU once it is started.
type Guest struct {
	Console, Report, SeaBIOS Output // what it says at each port

	confinement Confinement
	machine     Machine
	folder      string // of what it writes
	files       []*os.File
	own         []*os.File // of files, those that are to be closed
	qemu        process
	monitor     *Monitor
	end         context.CancelFunc
	resets      atomic.Int64
}

// Prepare makes what a guest writes to, and what it says. It is to be closed.
func (c Confinement) Prepare(ctx context.Context, h host.Host, s Setup) (*Guest, error) {
	dir, err := os.MkdirTemp(s.ScratchFolder(), "vmctl-boot-")
	if err != nil {
		return nil, &fail.Error{Kind: fail.Host, Err: err, Hint: "name another folder for temporary files in TMPDIR"}
	}
	g := &Guest{confinement: c, folder: dir, machine: s.Machine()}
	g.machine.QMP, g.machine.NoSandbox = firstExtraFile, c.open != ""
	if s.Direct != nil {
		s.Direct.prepare(g)
	} else {
		g.machine.Image = Image{File: g.inherit(s.Image), Format: s.Format}
		err = g.prepareDisks(ctx, h, s.VirtualSize)
	}
	if err == nil {
		err = g.preparePorts(s.Console)
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// prepareDisks makes the overlay and the UEFI variables.
func (g *Guest) prepareDisks(ctx context.Context, h host.Host, virtualSize int64) error {
	dir, err := filepath.Abs(g.folder)
	if err != nil {
		return err
	}
	if !g.machine.CD {
		overlay := filepath.Join(dir, "overlay."+diskformat.QCOW2)
		if err := h.Run(ctx, Overlay(virtualSize, overlay)); err != nil {
			return err
		}
		if g.machine.Disk, err = g.open(overlay, os.O_RDWR); err != nil {
			return err
		}
	}
	template := arch.Target.FirmwareNamed(g.machine.Firmware).Vars
	if template == "" {
		return nil
	}
	content, err := os.ReadFile(template)
	if err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "run 'vmctl doctor --install-missing'"}
	}
	vars := filepath.Join(dir, "vars.fd")
	if err := os.WriteFile(vars, content, 0o600); err != nil {
		return err
	}
	g.machine.Vars, err = g.open(vars, os.O_RDWR)
	return err
}

// preparePorts makes the files that get what the guest says.
func (g *Guest) preparePorts(console string) (err error) {
	for _, out := range []struct {
		path string
		here *Output
		name *string
	}{
		{console, &g.Console, &g.machine.Console},
		{filepath.Join(g.folder, "report"), &g.Report, &g.machine.Report},
		{filepath.Join(g.folder, "seabios"), &g.SeaBIOS, &g.machine.SeaBIOS},
	} {
		if *out.name, err = g.collect(out.path, out.here); err != nil {
			return err
		}
	}
	return nil
}

// Overlay is the command that makes the empty image of bytes that a guest writes to.
// It names no backing file: what lies below is said when the guest starts.
func Overlay(bytes int64, path string) host.Command {
	return host.Cmd("qemu-img", "create", "-q", "-f", diskformat.QCOW2, path, strconv.FormatInt(bytes, 10))
}

// inherit hands a file over, whose closing is not the guest's, and is QEMU's name for
// it.
func (g *Guest) inherit(file *os.File) string {
	descriptor := g.hand(file)
	g.machine.Inherited = append(g.machine.Inherited, descriptor)
	return inherited(descriptor)
}

// hand hands a file over, whose closing is not the guest's, and is QEMU's descriptor of it.
func (g *Guest) hand(file *os.File) int {
	g.files = append(g.files, file)
	return firstExtraFile + len(g.files) // the monitor comes first
}

// open opens a file for QEMU.
func (g *Guest) open(path string, flags int) (name string, err error) {
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return "", err
	}
	g.own = append(g.own, file)
	return g.inherit(file), nil
}

// Output is what QEMU writes to a file, read through a descriptor of our own: by name it
// might be another file by now.
type Output struct{ file *os.File }

// collect makes a new file for QEMU to write to, in place of what was there.
func (g *Guest) collect(path string, here *Output) (name string, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if here.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return "", err
	}
	return g.open(fmt.Sprintf("/proc/self/fd/%d", here.file.Fd()), os.O_WRONLY)
}

// Size is how many bytes were written so far.
func (o Output) Size() int64 {
	info, err := o.file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// Last is the last n bytes at most of what was written so far.
func (o Output) Last(n int64) []byte { return o.read(max(0, o.Size()-n), n) }

// First is the first n bytes at most.
func (o Output) First(n int64) []byte { return o.read(0, n) }

func (o Output) read(from, n int64) []byte {
	content, _ := io.ReadAll(io.NewSectionReader(o.file, from, n)) // what can be read tells enough
	return content
}

// Start runs QEMU until the guest switches itself off, ctx ends or Stop is called.
func (g *Guest) Start(ctx context.Context) error {
	ctx, g.end = context.WithCancel(ctx)
	qemu, err := g.confinement.start(ctx, g.machine.Command(), g.confinement.as(g.machine.Accel), g.files)
	if err != nil {
		return err
	}
	g.qemu = qemu
	g.monitor = converse(qemu.monitor, func(m message) {
		if m.Event == "RESET" && m.Data.Guest {
			g.resets.Add(1)
		}
	})
	context.AfterFunc(ctx, func() { _ = g.monitor.Close() })
	go func() { _ = g.monitor.Execute(ctx, greet, nil, nil) }() // QEMU answers once it runs
	return nil
}

// How a screen is asked for.
const (
	screenLimit   = 5 * time.Second
	largestScreen = 4 << 20 // bytes
	widestScreen  = 4096    // pixels, and the highest
)

// Screen is what the guest's screen shows, as PNG.
func (g *Guest) Screen(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, screenLimit)
	defer cancel()
	fd, err := unix.MemfdCreate("screen", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "screen")
	defer file.Close()
	if err := g.monitor.Screenshot(ctx, file); err != nil {
		return nil, err
	}
	content, err := redrawn(Output{file}.First(largestScreen))
	if err != nil {
		return nil, fmt.Errorf("screen of the guest: %w", err)
	}
	return content, nil
}

// redrawn is a picture as we draw it: what drew it may have been taken over by its guest.
func redrawn(content []byte) ([]byte, error) {
	size, err := png.DecodeConfig(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	if max(size.Width, size.Height) > widestScreen {
		return nil, fmt.Errorf("it has %d × %d pixels", size.Width, size.Height)
	}
	picture, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	var drawn bytes.Buffer
	err = png.Encode(&drawn, picture)
	return drawn.Bytes(), err
}

// Ended gives how QEMU ended, nil for well, as soon as it has.
func (g *Guest) Ended() <-chan error { return g.qemu.ended }

// Complaint adds to how QEMU ended what it said.
func (g *Guest) Complaint(ending error) error { return g.qemu.said.explain(ending) }

// Broken says whether KVM has had an internal error. The guest stands still then.
func (g *Guest) Broken() bool { return g.qemu.said.broken() }

// Resets is how often the guest has reset itself since it started.
func (g *Guest) Resets() int { return int(g.resets.Load()) }

// Stop ends QEMU, if it still runs, and waits for it.
func (g *Guest) Stop() {
	if g.end != nil {
		g.end()
	}
	if g.qemu.ended != nil {
		<-g.qemu.ended
	}
}

// Close stops the guest and removes what it wrote, all but the console and a disk of the
// caller's. It closes all files but those of the setup, which are the caller's.
func (g *Guest) Close() {
	g.Stop()
	for _, file := range g.own {
		file.Close()
	}
	for _, out := range []Output{g.Console, g.Report, g.SeaBIOS} {
		out.file.Close()
	}
	os.RemoveAll(g.folder)
}

// firstExtraFile is the descriptor that QEMU sees of exec.Cmd's first extra file.
const firstExtraFile = 3

// socketPair is a connection for QEMU's monitor: ours, and QEMU's end of it.
func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket for the monitor: %w", err)
	}
	own := os.NewFile(uintptr(pair[0]), "monitor")
	defer own.Close()
	theirs = os.NewFile(uintptr(pair[1]), "monitor")
	conn, err := net.FileConn(own)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}
