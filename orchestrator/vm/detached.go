package vm

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Detached is what a machine has that outlives vmctl: sockets that listen, a network with
// ports of the host's, and what tells the guest who may log in.
type Detached struct {
	Monitor    int    // descriptor of a socket that listens
	Terminal   int    // the same, for the first serial port
	ConsoleLog string // file that gets what the first serial port says
	Isolated   bool   // the network leads nowhere but to the forwarded ports
	Forwards   []Forward
	Share      string // folder that the guest can mount; "" for none
	Seed       string // raw image of a disk that is only read; "" for none
	Strings    []int  // descriptors of files, each with a string for the guest's SMBIOS
}

// Forward is a TCP port of the host's loopback address that leads to one of the guest.
// The kernel chooses where Host is 0.
type Forward struct {
	Host  int `json:"host"`
	Guest int `json:"guest"`
}

func (f Forward) String() string { return fmt.Sprintf("%d:%d", f.Host, f.Guest) }

// ShareTag is the name that a guest mounts the shared folder by, with the 9P protocol.
const ShareTag = "share"

func (d Detached) args() []string {
	var options []string
	if d.Isolated {
		options = append(options, "restrict=on")
	}
	for _, f := range d.Forwards {
		options = append(options, fmt.Sprintf("hostfwd=tcp:127.0.0.1:%d-:%d", f.Host, f.Guest))
	}
	args := append(network(options...),
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d,server=on,wait=off,logfile=%s,logappend=on", d.Terminal, escape(d.ConsoleLog)),
		"-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", d.Monitor), "-mon", "chardev=monitor,mode=control",
	)
	if d.Share != "" {
		args = append(args, "-fsdev", "local,id=share,security_model=none,path="+escape(d.Share), "-device", "virtio-9p-pci,fsdev=share,mount_tag="+ShareTag)
	}
	if d.Seed != "" {
		args = append(args, blockdevs(node{
			"node-name": "seed", "driver": diskformat.Raw, "read-only": true,
			"file": node{"driver": "file", "filename": d.Seed, "read-only": true},
		})...)
		args = append(args, "-device", "virtio-blk-pci,drive=seed")
	}
	for _, descriptor := range d.Strings {
		// QEMU reads them before it knows of the descriptors that it inherits.
		args = append(args, "-smbios", fmt.Sprintf("type=11,path=/proc/self/fd/%d", descriptor))
	}
	return args
}

// DetachedSetup is what a machine that outlives vmctl is to be. Its files are QEMU's
// from the start on, and the caller's to close.
type DetachedSetup struct {
	Image      *os.File // open for reading alone
	Format     string   // of the image
	Disk       *os.File // what the guest writes to, qcow2
	Vars       *os.File // UEFI variables, qcow2; nil on BIOS
	Firmware   string
	Accel      string // AccelKVM or AccelTCG
	Memory     int64  // bytes
	CPUs       int    // under KVM
	Monitor    *os.File
	Terminal   *os.File
	ConsoleLog *os.File
	Complaints *os.File   // gets what QEMU prints
	Alive      *os.File   // stays open as long as QEMU lives
	Seed       *os.File   // may be nil
	Strings    []*os.File // which whoever runs QEMU may read
	Isolated   bool
	Forwards   []Forward
	Share      string
}

// machine is the machine, and the files that its QEMU inherits from firstExtraFile on.
func (s DetachedSetup) machine(noSandbox bool) (Machine, []*os.File) {
	m := Machine{Firmware: s.Firmware, Accel: s.Accel, Memory: s.Memory, CPUs: s.CPUs, NoSandbox: noSandbox}
	var files []*os.File
	hand := func(file *os.File) int {
		files = append(files, file)
		return firstExtraFile + len(files) - 1
	}
	name := func(file *os.File) string {
		if file == nil {
			return ""
		}
		m.Inherited = append(m.Inherited, hand(file))
		return inherited(m.Inherited[len(m.Inherited)-1])
	}
	d := &Detached{Monitor: hand(s.Monitor), Terminal: hand(s.Terminal), Isolated: s.Isolated, Forwards: s.Forwards, Share: s.Share}
	hand(s.Alive)
	m.Image = Image{File: name(s.Image), Format: s.Format}
	m.Disk, m.Vars = name(s.Disk), name(s.Vars)
	d.ConsoleLog, d.Seed = name(s.ConsoleLog), name(s.Seed)
	for _, file := range s.Strings {
		d.Strings = append(d.Strings, hand(file))
	}
	m.Detached = d
	return m, files
}

// Detach starts a QEMU that outlives vmctl, and its terminal, in a session of its own. It
// gives the process's number, and how QEMU ended, if it does so while vmctl runs.
func (c Confinement) Detach(s DetachedSetup) (pid int, ended <-chan error, err error) {
	machine, files := s.machine(c.open != "")
	cmd := exec.Command(c.qemu, machine.Command().Args...)
	cmd.Dir, cmd.Env, cmd.Stderr, cmd.ExtraFiles = "/", quietEnv, s.Complaints, files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: c.as(s.Accel)}
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	end := make(chan error, 1)
	go func() {
		end <- cmd.Wait()
		close(end)
	}()
	return cmd.Process.Pid, end, nil
}

// Listen makes a socket in a folder, which may have a long name, for QEMU to listen on.
func Listen(folder *os.File, name string) (*os.File, error) {
	listener, err := net.ListenUnix("unix", socketIn(folder, name))
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	defer func() { _ = listener.Close() }()
	return listener.File()
}

// Dial connects to such a socket.
func Dial(folder *os.File, name string) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, socketIn(folder, name))
}

// socketIn is the address of a socket in a folder. Addresses of sockets are shorter than
// paths (unix(7)).
func socketIn(folder *os.File, name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), name)}
}

// Variables is the command that makes the UEFI variables of a machine whose state can be
// saved.
func Variables(template, path string) host.Command {
	return host.Cmd("qemu-img", "convert", "-q", "-f", diskformat.Raw, "-O", diskformat.QCOW2, template, path)
}

// Process is a process that cannot be taken for another one which got its number later.
type Process int // a descriptor of pidfd_open(2)

// OpenProcess is the process of that number.
func OpenProcess(pid int) (Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	return Process(fd), err
}

// Kill ends it at once.
func (p Process) Kill() error { return unix.PidfdSendSignal(int(p), unix.SIGKILL, nil, 0) }

// Close lets go of it.
func (p Process) Close() error { return unix.Close(int(p)) }
