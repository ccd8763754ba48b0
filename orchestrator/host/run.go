package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Host is what the build's packages may do to the machine. Local does it;
// hosttest.Fake records it.
type Host interface {
	// Run runs the command; what it prints goes to the build log. The error is
	// a *fail.Error with the last lines that the tool printed.
	Run(ctx context.Context, c Command) error
	// Output is Run that also returns the standard output.
	Output(ctx context.Context, c Command) ([]byte, error)
	// Interact is Run with streams of the caller's in place of the log, in a session of
	// the command's own. It returns the command's exit code, 128+N where signal N ended
	// it; all that remains of the session is then up to KillOthers.
	Interact(ctx context.Context, c Command, s Streams) (code int, err error)
	// Chroot is the program that runs others in a tree, as chroot(8) does.
	Chroot() string
	// AttachLoop makes size bytes of file, from offset on, a block device and
	// returns its node. The device is gone once released and unmounted.
	AttachLoop(file string, offset, size int64) (device string, release func() error, err error)
	// Mount mounts m and returns its unmounter.
	Mount(m Mount) (release func() error, err error)
	// Sethostname names the jail.
	Sethostname(name string) error
	// KillOthers ends every process of the jail but the caller, so that no
	// daemon keeps a file system busy.
	KillOthers() error
	// KillInTrees ends every process of the jail whose root is not the jail's own: what
	// still runs in a tree, but for those whose root is one of some.
	KillInTrees(but ...string) error
}

// Local is the Host that acts on this machine.
type Local struct {
	Log     io.Writer // gets each command and all it prints; nil for none
	Devices string    // folder for the loop devices' nodes; "" means /dev
	Cells   string    // that MakeCells has made; "" runs the programs of trees by chroot(8)
	Tools   string    // tree with programs that are used in place of the machine's; "" for none
}

const (
	tailLines = 15
	killGrace = 3 * time.Second
)

// Run implements Host.
func (l *Local) Run(ctx context.Context, c Command) error {
	return l.run(ctx, c, nil)
}

// Output implements Host.
func (l *Local) Output(ctx context.Context, c Command) ([]byte, error) {
	var out bytes.Buffer
	err := l.run(ctx, c, &out)
	return out.Bytes(), err
}

func (l *Local) run(ctx context.Context, c Command, stdout io.Writer) error {
	log := l.log()
	fmt.Fprintf(log, "+ %s\n", c)
	last := &tail{keep: tailLines}
	both := &lockedWriter{w: io.MultiWriter(log, last)}

	argv := c.Argv()
	path, env := l.locate(c)
	if path == "" {
		return &fail.Error{
			Kind: fail.Host, Op: c.Name(), Hint: "run 'vmctl doctor --install-missing'",
			Err: fmt.Errorf("%w: %s", exec.ErrNotFound, argv[0]),
		}
	}
	cmd, err := l.command(ctx, c, path)
	if err != nil {
		return fail.Wrap(fail.Host, c.Name(), err)
	}
	cmd.Dir = c.Dir
	cmd.Env = env
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	if c.Input != nil {
		cmd.Stdin = c.Input
	}
	cmd.Stdout, cmd.Stderr = both, both
	if c.Output != nil {
		cmd.Stdout = c.Output
	}
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if err := RunTied(cmd); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", c.Name(), ctx.Err())
		}
		return &fail.Error{Kind: fail.Build, Op: c.Name(), Tail: last.String(), Err: err}
	}
	return nil
}

func (l *Local) log() io.Writer {
	if l.Log == nil {
		return io.Discard
	}
	return l.Log
}

// Tied is a Grouped process that also dies with its parent, however that one ends.
// It must be started with RunTied.
func Tied(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := Grouped(ctx, path, args...)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd
}

// Grouped prepares a process in its own process group, which is killed as a whole
// when ctx ends. It has no standard input.
func Grouped(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return err
	}
	cmd.WaitDelay = killGrace
	return cmd
}

// RunTied runs a process made with Tied to its end.
func RunTied(cmd *exec.Cmd) error {
	return OnOneThread(cmd.Run)
}

// OnOneThread calls f on an OS thread that lives until f returns: the kernel
// sends the parent-death signal when the thread that forked is gone, not the
// process (prctl(2), PR_SET_PDEATHSIG).
func OnOneThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- f()
	}()
	return <-done
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// tail keeps the last lines that were written to it.
type tail struct {
	keep  int
	lines []string
	part  []byte
}

const longestLine = 4096

func (t *tail) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case b == '\n':
			t.lines = append(t.lines, string(t.part))
			t.part = t.part[:0]
			if len(t.lines) > t.keep {
				t.lines = t.lines[1:]
			}
		case b == '\r':
			t.part = t.part[:0]
		case len(t.part) < longestLine:
			t.part = append(t.part, b)
		}
	}
	return len(p), nil
}

func (t *tail) String() string {
	lines := t.lines
	if len(t.part) > 0 {
		lines = append(lines[:len(lines):len(lines)], string(t.part))
	}
	return strings.Join(lines, "\n")
}

// Quietly runs a program of the caller's with its own environment, and returns what it
// prints; nothing of that is in an error.
func Quietly(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := Grouped(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, cmp.Or(ctx.Err(), err))
	}
	return out, nil
}
