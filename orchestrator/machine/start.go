package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Host is what machines run on: found out once for a run of vmctl.
type Host struct {
	host.Host
	Confinement vm.Confinement
	Accel       vm.Accelerator
}

// FindHost finds out how QEMU is confined here, and what it runs on where the user wants
// accel.
func FindHost(ctx context.Context, accel string) (Host, error) {
	h := Host{Host: &host.Local{}}
	uid, gid := files.Caller().IDs()
	var err error
	if h.Confinement, err = vm.Confine(ctx, uid, gid); err != nil {
		return h, err
	}
	if h.Accel, err = vm.ChooseAccelerator(ctx, accel); err != nil {
		return h, err
	}
	h.Accel = h.Accel.Confined(h.Confinement)
	return h, nil
}

// Create makes the machine of r on the image, which is open for reading alone. A guest
// that QEMU does not find whole by itself is refused.
func (n *New) Create(ctx context.Context, h Host, image *os.File, r Record) (Machine, error) {
	size, err := h.Confinement.Describe(ctx, image, r.Image.Format)
	if err != nil {
		return Machine{}, fail.Wrap(fail.Usage, image.Name(), err)
	}
	if r.Size != 0 && r.Size < size {
		return Machine{}, fail.New(fail.Usage, image.Name(), "give more, or leave it away", "a disk of %s is smaller than that of the image, %s", definition.Size(r.Size), definition.Size(size))
	}
	path := r.Image.Path
	if r.Image, err = identity(image, r.Image.Format); err != nil {
		return Machine{}, err
	}
	if r.Image.Path, err = n.keep(path, image); err != nil {
		return Machine{}, err
	}
	if err := h.Run(ctx, vm.Overlay(max(size, r.Size), filepath.Join(n.dir, diskName))); err != nil {
		return Machine{}, err
	}
	if template := arch.Target.FirmwareNamed(r.Firmware).Vars; template != "" {
		if err := h.Run(ctx, vm.Variables(template, filepath.Join(n.dir, varsName))); err != nil {
			return Machine{}, err
		}
	}
	if err := (told{name: r.Name, share: r.Share != "", passing: r.Passing}).write(n.dir, r.Guest); err != nil {
		return Machine{}, err
	}
	return n.Finish(r)
}

// keep gives the image another name in the machine's folder, where that is possible, so
// that the machine can be started again when the next build has replaced it.
func (n *New) keep(path string, image *os.File) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if relative, err := filepath.Rel(n.dir, path); err == nil && filepath.IsLocal(relative) {
		return relative, nil
	}
	kept := filepath.Join(n.dir, imageName)
	real, err := filepath.EvalSymlinks(path)
	if err != nil || os.Link(real, kept) != nil {
		return path, nil
	}
	opened, err := image.Stat()
	if err != nil {
		return "", err
	}
	if linked, err := os.Lstat(kept); err != nil || !os.SameFile(opened, linked) {
		return path, os.Remove(kept) // it has just been replaced
	}
	return imageName, nil
}

// Begin starts a machine that has just been made.
func (n *New) Begin(ctx context.Context, h Host, m Machine) (Run, error) {
	lock := n.lock
	n.lock = nil
	return m.start(ctx, h, lock)
}

// Start starts a machine that does not run.
func (m Machine) Start(ctx context.Context, h Host) (Run, error) {
	lock, err := acquire(filepath.Join(m.dir, lockName))
	if errors.Is(err, errHeld) {
		return Run{}, fail.New(fail.Usage, "", "use it with 'vmctl ssh "+m.Name+"', or stop it with 'vmctl stop "+m.Name+"'", "the machine %s runs already", m.Name)
	}
	if err != nil {
		return Run{}, err
	}
	return m.start(ctx, h, lock)
}

// startLimit is how long QEMU may take until its monitor answers.
const startLimit = time.Minute

// start runs QEMU, which gets the lock.
func (m Machine) start(ctx context.Context, h Host, lock *os.File) (Run, error) {
	defer lock.Close()
	if err := m.portsAreFree(); err != nil {
		return Run{}, err
	}
	folder, err := os.Open(m.dir)
	if err != nil {
		return Run{}, err
	}
	defer folder.Close()
	setup, closeFiles, err := m.setup(folder, lock)
	defer closeFiles()
	if err != nil {
		return Run{}, err
	}
	setup.Accel = h.Accel.For(m.Firmware)
	log, err := setup.ConsoleLog.Stat()
	if err != nil {
		return Run{}, err
	}
	here, err := numberedHere()
	if err != nil {
		return Run{}, err
	}
	pid, ended, err := h.Confinement.Detach(setup)
	if err != nil {
		return Run{}, err
	}
	closeFiles()
	run := Run{PID: pid, Numbered: here, Started: time.Now().UTC(), Accel: setup.Accel, Console: log.Size()}
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	run.Forwards, err = askForwards(limited, folder)
	if vm.Ending(err) {
		return Run{}, m.refused(<-ended, h.Confinement.UID(setup.Accel), h.Confinement.Groups(setup.Accel))
	}
	if err == nil {
		err = writeJSON(filepath.Join(m.dir, runName), run)
	}
	if err != nil {
		lock.Close()
		return Run{}, errors.Join(fail.Wrap(fail.Host, "start "+m.Name, err), m.kill(pid))
	}
	return run, nil
}

// refused is the error for a QEMU of that user that has ended at once.
func (m Machine) refused(ending error, uid int, groups []int) error {
	said, _ := os.ReadFile(filepath.Join(m.dir, complaintsName))
	if ending == nil {
		ending = errors.New("it ended at once")
	}
	hint := ""
	if may := m.forbidden(uid, groups); may != "" {
		hint = fmt.Sprintf("QEMU runs as user %d, who may not %s", uid, may)
	}
	return &fail.Error{Kind: fail.Host, Op: "start " + m.Name + ": QEMU", Err: ending, Tail: lastLines(said, tailLines), Hint: hint}
}

// forbidden is what the machine needs and a user of these groups may not do, as far as rights of
// files tell; "" for nothing.
func (m Machine) forbidden(uid int, groups []int) string {
	if uid == 0 {
		return ""
	}
	for _, f := range m.Ports {
		if f.Host < privilegedPorts() {
			return fmt.Sprintf("listen on port %d: give one from %d on", f.Host, privilegedPorts())
		}
	}
	if m.Share == "" {
		return ""
	}
	share, err := filepath.EvalSymlinks(m.Share)
	if err != nil {
		return ""
	}
	for folder := share; ; folder = filepath.Dir(folder) {
		if info, err := os.Stat(folder); err == nil && !mayEnter(info, uid, groups) {
			return "enter " + folder + ": share another folder, or let others enter that one"
		}
		if folder == filepath.Dir(folder) {
			return ""
		}
	}
}

// privilegedPorts is the first port that everybody may listen on (ip(7)).
func privilegedPorts() int {
	content, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 1024
	}
	return first
}

// mayEnter says whether the rights of a folder let a user of these groups enter it (path_resolution(7)).
func mayEnter(folder fs.FileInfo, uid int, groups []int) bool {
	owner, ok := folder.Sys().(*syscall.Stat_t)
	shift := 0
	switch {
	case !ok:
		return true
	case int(owner.Uid) == uid:
		shift = 6
	case slices.Contains(groups, int(owner.Gid)):
		shift = 3
	}
	return folder.Mode().Perm()>>shift&1 != 0
}

const tailLines = 20

// askForwards waits for the monitor, and asks it for the ports.
func askForwards(ctx context.Context, folder *os.File) ([]vm.Forward, error) {
	monitor, err := vm.OpenMonitor(ctx, folder, monitorName)
	if err != nil {
		return nil, err
	}
	defer func() { _ = monitor.Close() }()
	return monitor.Forwards(ctx)
}

// forwards is the ports that QEMU is told of; the kernel chooses the one for ssh.
func (m Machine) forwards() []vm.Forward {
	return append([]vm.Forward{{Guest: sshPort}}, m.Ports...)
}

// portsAreFree tells people which port is not, as QEMU would in words of its own.
func (m Machine) portsAreFree() error {
	var problems []error
	for _, f := range m.Ports {
		listener, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(f.Host)))
		if err != nil {
			problems = append(problems, &fail.Error{Kind: fail.Host, Op: fmt.Sprintf("port %s", f), Err: err, Hint: "stop what listens there, or give the machine another port"})
			continue
		}
		_ = listener.Close()
	}
	return errors.Join(problems...)
}

const loopback = "127.0.0.1"

// setup opens all that QEMU gets. closeFiles is never nil and can be called twice.
func (m Machine) setup(folder, lock *os.File) (s vm.DetachedSetup, closeFiles func(), err error) {
	var opened []*os.File
	closeFiles = func() {
		for _, file := range opened {
			file.Close()
		}
	}
	open := func(into **os.File, name string, flags int) {
		if err != nil {
			return
		}
		if *into, err = os.OpenFile(filepath.Join(m.dir, name), flags, 0o600); err == nil {
			opened = append(opened, *into)
		}
	}
	listen := func(into **os.File, name string) {
		if removing := os.Remove(filepath.Join(m.dir, name)); removing != nil && !errors.Is(removing, fs.ErrNotExist) {
			err = errors.Join(err, removing)
		}
		if err != nil {
			return
		}
		if *into, err = vm.Listen(folder, name); err == nil {
			opened = append(opened, *into)
		}
	}
	s = vm.DetachedSetup{
		Format: m.Image.Format, Firmware: m.Firmware, Memory: m.Memory, CPUs: m.CPUs, Alive: lock,
		Isolated: m.Network == NetworkIsolated, Forwards: m.forwards(), Share: m.Share,
	}
	if err = os.Remove(filepath.Join(m.dir, runName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, closeFiles, err
	}
	if s.Image, err = m.openImage(); err != nil {
		return s, closeFiles, err
	}
	opened = append(opened, s.Image)
	open(&s.Disk, diskName, os.O_RDWR)
	if arch.Target.FirmwareNamed(m.Firmware).Vars != "" {
		open(&s.Vars, varsName, os.O_RDWR)
	}
	open(&s.ConsoleLog, consoleName, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	open(&s.Complaints, complaintsName, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND)
	if m.Guest.NeedsSeedDisk() {
		open(&s.Seed, seedDiskName, os.O_RDONLY)
	}
	texts, reading := os.ReadDir(filepath.Join(m.dir, stringsName))
	err = errors.Join(err, reading)
	for _, entry := range texts {
		var file *os.File
		open(&file, filepath.Join(stringsName, entry.Name()), os.O_RDONLY)
		s.Strings = append(s.Strings, file)
	}
	listen(&s.Monitor, monitorName)
	listen(&s.Terminal, terminalName)
	return s, closeFiles, err
}
