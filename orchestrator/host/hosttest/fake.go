// Package hosttest is a host.Host that records what is asked of it, for tests.
package hosttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// Fake records every call as one line, in order; of calls that come side by side that
// order is theirs, not the caller's. The zero value is ready. Calls is to be read when all
// of them are done.
type Fake struct {
	Calls []string
	// Outputs is what commands print, by the start of their line.
	Outputs map[string]string
	// Failures is the calls that fail, by the start of their line.
	Failures map[string]error
	loops    int
	mutex    sync.Mutex
}

func (f *Fake) call(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.Calls = append(f.Calls, line)
	for start, err := range f.Failures {
		if strings.HasPrefix(line, start) {
			return err
		}
	}
	return nil
}

// Run implements host.Host.
func (f *Fake) Run(ctx context.Context, c host.Command) error {
	return errors.Join(f.call("%s", c), ctx.Err())
}

// Output implements host.Host.
func (f *Fake) Output(ctx context.Context, c host.Command) ([]byte, error) {
	line := c.String()
	for start, out := range f.Outputs {
		if strings.HasPrefix(line, start) {
			return []byte(out), errors.Join(f.call("%s", line), ctx.Err())
		}
	}
	return nil, errors.Join(f.call("%s", line), ctx.Err())
}

// Interact implements host.Host.
func (f *Fake) Interact(ctx context.Context, c host.Command, _ host.Streams) (int, error) {
	return 0, errors.Join(f.call("interact %s", c), ctx.Err())
}

// Chroot implements host.Host.
func (f *Fake) Chroot() string { return "chroot" }

// AttachLoop implements host.Host.
func (f *Fake) AttachLoop(file string, offset, size int64) (string, func() error, error) {
	f.mutex.Lock()
	device := fmt.Sprintf("/dev/loop%03d", f.loops)
	f.loops++
	f.mutex.Unlock()
	err := f.call("attach %s at %d+%d of %s", device, offset, size, file)
	return device, func() error { return f.call("detach %s", device) }, err
}

// Mount implements host.Host.
func (f *Fake) Mount(m host.Mount) (func() error, error) {
	if err := f.call("%s", m); err != nil {
		return nil, err
	}
	return func() error { return f.call("unmount %s", m.Target) }, nil
}

// Sethostname implements host.Host.
func (f *Fake) Sethostname(name string) error { return f.call("hostname %s", name) }

// KillOthers implements host.Host.
func (f *Fake) KillOthers() error { return f.call("kill others") }

// KillInTrees implements host.Host.
func (f *Fake) KillInTrees(but ...string) error {
	return f.call("%s", strings.Join(append([]string{"kill in trees"}, but...), " but "))
}
