package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Streams is what a command reads and writes.
type Streams struct {
	In, Out, Err *os.File
	Terminal     bool // In is a terminal that nobody controls: it becomes the command's own
}

// signalled is what a shell adds to the number of the signal that ended a command.
const signalled = 128

// Interact implements Host.
func (l *Local) Interact(ctx context.Context, c Command, s Streams) (code int, err error) {
	fmt.Fprintf(l.log(), "+ %s\n", c)
	argv := c.Argv()
	path, env := l.locate(c)
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir, cmd.Env = c.Dir, env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
	// A session of its own: the keys that interrupt reach what runs on its terminal. On
	// one that it does not control it is never stopped for being in the background.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: s.Terminal, Pdeathsig: syscall.SIGKILL}
	err = RunTied(cmd)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	exit, ended := errors.AsType[*exec.ExitError](err)
	if !ended {
		return 0, fail.Wrap(fail.Build, c.Name(), err)
	}
	if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
		return signalled + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// ptmx makes pseudoterminals, in each folder that a devpts is mounted at.
const ptmx = "ptmx"

// OpenMaster makes a pseudoterminal in the devpts at a folder, as a process sees it whose
// root is at root, and returns its master and the name of its other end in that folder
// (pty(7)). No link leads it out of that root.
func OpenMaster(root, folder string) (master *os.File, name string, err error) {
	at, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", err
	}
	defer at.Close()
	how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(int(at.Fd()), folder+"/"+ptmx, &how)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: folder + "/" + ptmx, Err: err}
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return nil, "", errors.Join(&os.PathError{Op: "make a terminal with", Path: folder + "/" + ptmx, Err: err}, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), ptmx), strconv.Itoa(number), nil
}
