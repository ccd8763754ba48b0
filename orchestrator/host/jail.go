package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// File descriptors that the jail inherits.
const (
	fdRequest = 3 // request; then open for as long as the parent wants the work
	fdEvents  = 4
	fdLog     = 5
)

const unwindGrace = 5 * time.Second

// RunJail runs the work that needs root in a child: this binary again, called
// with args, as PID 1 of its own PID, mount, IPC and UTS namespaces. The child
// reads request with EnterJail; each event that it sends is given to onEvent.
// When ctx ends the child has five seconds to unwind before it is killed, and
// when this process dies, the child and all of its processes die with it; the
// kernel then takes down its mounts and loop devices.
func RunJail(ctx context.Context, args []string, request any, log *os.File, onEvent func(json.RawMessage) error) error {
	requestRead, requestWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer requestWrite.Close()
	eventsRead, eventsWrite, err := os.Pipe()
	if err != nil {
		requestRead.Close()
		return err
	}
	defer eventsRead.Close()

	cmd := Tied(ctx, "/proc/self/exe", args...)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	cmd.ExtraFiles = []*os.File{requestRead, eventsWrite, log}
	cmd.Env = append(CleanEnv(), "PATH="+searchPath(os.Getenv("PATH"))) // to find tools, not for them
	cmd.Dir = "/"
	last := &tail{keep: tailLines}
	cmd.Stderr = io.MultiWriter(log, last)
	cmd.Cancel = requestWrite.Close
	cmd.WaitDelay = unwindGrace

	finished := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		finished <- OnOneThread(func() error {
			err := cmd.Start()
			requestRead.Close()
			eventsWrite.Close()
			started <- err
			if err != nil {
				return err
			}
			return cmd.Wait()
		})
	}()
	if err := <-started; err != nil {
		return &fail.Error{
			Kind: fail.Host, Op: "start the jail", Err: err,
			Hint: "building needs root and CAP_SYS_ADMIN: use sudo, or see the container settings in .gitlab-ci.yml",
		}
	}
	sending := json.NewEncoder(requestWrite).Encode(request)
	receiving := readEvents(eventsRead, onEvent)
	if receiving != nil {
		_ = cmd.Process.Kill()
	}
	waiting := <-finished
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case receiving != nil:
		return receiving
	case waiting != nil:
		return &fail.Error{Kind: fail.Build, Op: "jail", Tail: last.String(), Err: waiting}
	}
	return sending
}

func readEvents(r io.Reader, onEvent func(json.RawMessage) error) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := onEvent(line); err != nil {
			return err
		}
	}
}

// Jail is the child's side of RunJail.
type Jail struct {
	Context context.Context // ends when the parent no longer wants the work
	Log     *os.File
	events  *os.File
}

// treeUmask is the umask of all that is done to an image, whoever builds it.
const treeUmask = 0o022

// EnterJail reads the request into request and closes the jail's doors: mounts
// are private, /proc shows this PID namespace, the host name is the one given
// by hostname once the request is read, the umask is fixed, and syncing is
// suppressed.
func EnterJail(request any, hostname func() string) (*Jail, error) {
	if os.Getpid() != 1 {
		return nil, fail.New(fail.Usage, "", "use 'vmctl build'", "this command is vmctl's own and cannot be called directly")
	}
	// The parent decides when to stop. A signal that is caught has its default
	// action again in what the jail starts; one that is ignored stays so.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	unix.Umask(treeUmask)
	ctx, cancel := context.WithCancel(context.Background())
	jail := &Jail{Context: ctx, Log: os.NewFile(fdLog, "log"), events: os.NewFile(fdEvents, "events")}
	for fd := fdRequest; fd <= fdLog; fd++ {
		unix.CloseOnExec(fd)
	}
	lifeline := os.NewFile(fdRequest, "request")
	decoder := json.NewDecoder(lifeline)
	if err := decoder.Decode(request); err != nil {
		cancel()
		return nil, fmt.Errorf("read the jail's request: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		cancel()
	}()
	if err := errors.Join(
		isolateMounts(),
		unix.Sethostname([]byte(hostname())),
	); err != nil {
		return nil, fail.Wrap(fail.Host, "enter the jail", err)
	}
	if err := suppressSync(); err != nil {
		fmt.Fprintf(jail.Log, "syncing stays on, the build is slower: %v\n", err)
	}
	return jail, nil
}

func isolateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// Send gives the parent an event.
func (j *Jail) Send(event any) error {
	return json.NewEncoder(j.events).Encode(event)
}

// KillOthers implements Host. It does nothing outside a jail, where it would
// end every process of the machine.
func (l *Local) KillOthers() error {
	if os.Getpid() != 1 {
		return nil
	}
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
