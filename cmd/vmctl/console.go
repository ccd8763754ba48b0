package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator/machine"
)

func newConsole() *cobra.Command {
	return &cobra.Command{
		Use:   "console NAME",
		Short: "Attach to the serial console of a test machine",
		Long: `Attach to the serial console of a test machine, until Ctrl-] is typed, the input ends
or the machine does. Its last lines are shown first. The machine runs on.`,
		Example: `  vmctl console debian
  echo | vmctl console debian`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := openMachine(args[0])
			if err != nil {
				return err
			}
			return runConsole(cmd, m)
		},
	}
}

const (
	detachKey     = 0x1d    // Ctrl-]
	shownAtFirst  = 4 << 10 // bytes of what the console said before
	lastOfConsole = 3 * time.Second
)

func runConsole(cmd *cobra.Command, m machine.Machine) (err error) {
	console, release, err := m.Attach()
	if err != nil {
		return err
	}
	defer release()
	before, err := logged(m.ConsoleLog(), shownAtFirst)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "at the console of %s; Ctrl-] leaves it\n", m.Name)
	if isTerminal(os.Stdin) {
		terminalChanged.Lock()
		defer terminalChanged.Unlock()
		fd := int(os.Stdin.Fd())
		old, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, term.Restore(fd, old)); fmt.Fprintln(cmd.ErrOrStderr()) }()
	}
	if _, err := cmd.OutOrStdout().Write(before); err != nil {
		return err
	}
	return exchange(cmd.Context(), console, os.Stdin, cmd.OutOrStdout())
}

// exchange passes on what is typed and what the console says, until the one ends or is
// the key that detaches, or the other ends.
func exchange(ctx context.Context, console *net.UnixConn, in *os.File, out io.Writer) error {
	defer context.AfterFunc(ctx, func() { _ = console.Close() })()
	ended, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ended.Close()
	var typing sync.WaitGroup
	typing.Go(func() {
		keys := untilKey{to: console}
		copyKeys(&keys, in, ended)
		wait := lastOfConsole // what was typed last is answered
		if keys.found {
			wait = 0
		}
		_ = console.SetReadDeadline(time.Now().Add(wait))
	})
	_, err = io.Copy(out, console)
	end.Close()
	typing.Wait()
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return ctx.Err()
	}
	return err
}

var errDetached = errors.New("detached")

// untilKey passes on what is typed before detachKey.
type untilKey struct {
	to    io.Writer
	found bool
}

// Write implements io.Writer.
func (u *untilKey) Write(p []byte) (int, error) {
	at := bytes.IndexByte(p, detachKey)
	if at < 0 {
		return u.to.Write(p)
	}
	u.found = true
	n, err := u.to.Write(p[:at])
	if err == nil {
		err = errDetached
	}
	return n, err
}

// logged is the last n bytes at most of a file, from the beginning of a line on.
func logged(path string, n int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-n)
	content, err := io.ReadAll(io.NewSectionReader(file, from, n))
	if at := bytes.IndexByte(content, '\n'); from > 0 && at >= 0 {
		content = content[at+1:]
	}
	return content, err
}
