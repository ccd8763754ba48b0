package main

import (
	"cmp"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// lentTerminal is the terminal that vmctl was started on, as orchestrator.Terminal.
type lentTerminal struct{ in, out *os.File }

// Kind implements orchestrator.Terminal.
func (t lentTerminal) Kind() string { return cmp.Or(os.Getenv("TERM"), "dumb") }

// lastWords is how long what a shell has printed may take to be shown once it has ended.
const lastWords = time.Second

// Lend implements orchestrator.Terminal. All keys go to the other end, those that
// interrupt too.
func (t lentTerminal) Lend(master *os.File) (back func() error, err error) {
	terminalChanged.Lock()
	before, err := t.prepare(master)
	if err != nil {
		terminalChanged.Unlock()
		return nil, err
	}
	ended, end, err := os.Pipe()
	if err != nil {
		defer terminalChanged.Unlock()
		return nil, errors.Join(err, term.Restore(int(t.in.Fd()), before))
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	var moving sync.WaitGroup
	moving.Go(func() {
		for range resized {
			t.copySize(master)
		}
	})
	moving.Go(func() { copyKeys(master, t.in, ended) })
	moving.Go(func() { _, _ = io.Copy(t.out, master) }) // until the other end is closed
	return func() error {
		defer terminalChanged.Unlock()
		signal.Stop(resized)
		close(resized)
		late := master.SetDeadline(time.Now().Add(lastWords))
		err := errors.Join(late, end.Close())
		moving.Wait()
		return errors.Join(err, term.Restore(int(t.in.Fd()), before), master.Close(), ended.Close())
	}, nil
}

// prepare gives the other end the settings and size of the terminal, which then passes
// everything on.
func (t lentTerminal) prepare(master *os.File) (before *term.State, err error) {
	settings, err := unix.IoctlGetTermios(int(t.in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	if err := control(master, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, settings) }); err != nil {
		return nil, err
	}
	t.copySize(master)
	return term.MakeRaw(int(t.in.Fd()))
}

// copySize gives the other end the size of the terminal, where that has one.
func (t lentTerminal) copySize(master *os.File) {
	if size, err := unix.IoctlGetWinsize(int(t.out.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = control(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	}
}

// control calls f with the descriptor of a file, which stays one that deadlines hold for.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var called error
	return errors.Join(raw.Control(func(fd uintptr) { called = f(int(fd)) }), called)
}

// copyKeys copies what is typed until the other end of ended is closed. It takes nothing
// that is typed after that.
func copyKeys(to io.Writer, from, ended *os.File) {
	buffer := make([]byte, 4096)
	wait := []unix.PollFd{{Fd: int32(from.Fd()), Events: unix.POLLIN}, {Fd: int32(ended.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(wait, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || wait[1].Revents != 0 {
			return
		}
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
