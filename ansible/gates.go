package ansible

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A gate is a FIFO from which Ansible reads before it begins an entry: it waits there
// until somebody writes.

// gates is the folder of the gates, each by its entry's number.
func (r Run) gates() string { return filepath.Join(r.Scratch, "gates") }

func (r Run) makeGates() error {
	if err := errors.Join(os.RemoveAll(r.gates()), os.Mkdir(r.gates(), 0o700)); err != nil {
		return err
	}
	for entry := range r.Entries {
		if err := unix.Mkfifo(r.gate(entry), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (r Run) gate(entry int) string { return filepath.Join(r.gates(), strconv.Itoa(entry)) }

// openGates opens one gate after the other, when Begin says so, until ctx ends. It tells the
// origin of each entry before that begins.
func (r Run) openGates(ctx context.Context, begins func(origin string)) error {
	for entry := range r.Entries {
		gate, err := arrival(ctx, r.gate(entry))
		if err != nil {
			return err
		}
		if r.Begin != nil {
			err = r.Begin(ctx, entry)
		}
		begins(r.Entries[entry].Origin)
		if err := errors.Join(err, gate.Close()); err != nil { // its end is what the reader waits for
			return err
		}
	}
	return nil
}

// lookAgain is how often a gate is looked at.
const lookAgain = 3 * time.Millisecond

// arrival waits until somebody reads from a FIFO, and is its other end.
func arrival(ctx context.Context, gate string) (*os.File, error) {
	for {
		fd, err := unix.Open(gate, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), gate), nil
		case !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EINTR): // ENXIO: nobody reads yet
			return nil, &os.PathError{Op: "open", Path: gate, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookAgain):
		}
	}
}
