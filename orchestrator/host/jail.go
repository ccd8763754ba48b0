package host

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

const unwindGrace = 5 * time.Second

// Privilege is what a jail may do.
type Privilege int

// The jails.
const (
	// Confined has a user namespace of its own: it is root of the files that it is given,
	// and of nothing else. It can make no device, open no disk, load no module, set no
	// clock. Root's ids stand for themselves in it; an ordinary user's are subordinate
	// ones. Where root may have no user namespace, it does without, and lacks the
	// capabilities for those instead.
	Confined Privilege = iota
	// Mounting has real root's power to attach and mount disks. No program of an image
	// runs in it.
	Mounting
)

// JailOptions says what RunJail runs.
type JailOptions struct {
	Args      []string // of this binary, which then calls EnterJail
	Privilege Privilege
	Offline   bool              // without network
	Request   any               // what EnterJail reads
	Log       io.Writer         // gets what the jail logs
	Event     func(Event) error // is told each event
	Files     []*os.File        // become Jail.Files
}

// Event is what a jail sends.
type Event struct {
	Content json.RawMessage
	Context context.Context // ends when the work is no longer wanted, or the jail is gone
	Root    string          // the jail's root as this process sees it, while the event is told
	// Answer sends an answer, for which the jail waits where it has called Ask. One
	// that is gone gets none, and how it ended is what RunJail returns.
	Answer func(any) error
}

// RunJail runs work in a child: this binary again, as PID 1 of its own PID, mount, IPC
// and UTS namespaces, without a terminal and with keys of its own. The two speak JSON
// over the child's standard input and output; its standard error is the log. When ctx
// ends the child has five seconds to unwind before it is killed, and when this process
// dies, the child and all of its processes die with it; the kernel then takes down its
// mounts and loop devices.
func RunJail(ctx context.Context, o JailOptions) error {
	cmd, entry, mapIDs, err := jailCommand(ctx, o)
	if err != nil {
		return err
	}
	last := &tail{keep: tailLines}
	cmd.Stderr = io.MultiWriter(unfailing{o.Log}, last)
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer input.Close()
	cmd.Cancel = input.Close
	output, theirs, err := os.Pipe() // not StdoutPipe, which is closed before all is read
	if err != nil {
		return err
	}
	defer output.Close()
	cmd.Stdout = theirs

	alive, end := context.WithCancel(ctx)
	defer end()
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- OnOneThread(func() error {
			runtime.LockOSThread() // and never unlocks it: the thread ends with its keyring
			_, _ = unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
			err := cmd.Start()
			theirs.Close()
			if err == nil {
				err = mapIDs(cmd.Process.Pid)
				if err != nil {
					err = errors.Join(err, cmd.Process.Kill())
					_ = cmd.Wait()
				}
			}
			started <- err
			if err != nil {
				return err
			}
			defer end()
			return cmd.Wait()
		})
	}()
	if err := <-started; err != nil {
		return errors.Join(ctx.Err(), &fail.Error{
			Kind: fail.Host, Op: "start the jail", Err: err,
			Hint: cmp.Or(fail.Hint(err), "see 'vmctl doctor', and the container settings in .gitlab-ci.yml"),
		})
	}
	sending, receiving := converse(alive, cmd, entry, o, input, output)
	running := <-ended
	if _, exited := errors.AsType[*exec.ExitError](running); exited {
		running = &fail.Error{Kind: fail.Build, Op: "jail", Tail: last.String(), Err: running}
	}
	return cmp.Or(ctx.Err(), receiving, running, sending)
}

// jailCommand is the jail's process, and what it is told first.
func jailCommand(ctx context.Context, o JailOptions) (cmd *exec.Cmd, entry entrance, mapIDs func(pid int) error, err error) {
	cmd = Tied(ctx, "/proc/self/exe", o.Args...)
	// A session of its own: nothing in it can open the caller's terminal, or wait for it.
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid = false, true
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if o.Offline {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	cmd.Env = append(CleanEnv(), "PATH="+searchPath(os.Getenv("PATH"))) // to find tools, not for them
	cmd.Dir = "/"
	cmd.WaitDelay = unwindGrace
	cmd.ExtraFiles = o.Files
	entry = entrance{Privilege: o.Privilege, Files: len(o.Files), Kind: FewerCapabilities}
	if o.Privilege == Confined {
		if entry.Kind, err = BestJail(); entry.Kind == NoJail {
			return nil, entry, nil, err
		}
	}
	mapIDs, err = entry.Kind.namespace(cmd.SysProcAttr)
	return cmd, entry, mapIDs, err
}

// converse sends the request and tells the events, until the jail closes its output.
func converse(alive context.Context, cmd *exec.Cmd, entry entrance, o JailOptions, input io.Writer, output io.Reader) (sending, receiving error) {
	encoder := json.NewEncoder(input)
	answer := func(content any) error {
		err := encoder.Encode(content)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, fs.ErrClosed) {
			return nil
		}
		return err
	}
	sending = errors.Join(encoder.Encode(entry), encoder.Encode(o.Request))
	receiving = readEvents(output, func(line json.RawMessage) error {
		if taken, err := takeBinds(line, cmd.Process.Pid, answer); taken {
			return err
		}
		return o.Event(Event{Content: line, Context: alive, Root: fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), Answer: answer})
	})
	if receiving != nil {
		_ = cmd.Process.Kill()
	}
	return sending, receiving
}

// unfailing is a log that may be lost: a jail whose log cannot be written, on a disk
// that is full for instance, goes on until it can say so itself.
type unfailing struct{ w io.Writer }

func (u unfailing) Write(p []byte) (int, error) {
	_, _ = u.w.Write(p)
	return len(p), nil
}

func readEvents(r io.Reader, onEvent func(json.RawMessage) error) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what is cut short was written by one that was killed
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
	Log     io.Writer
	Files   []*os.File // of the parent; nothing that the jail starts inherits them unasked
	entry   entrance
	sending sync.Mutex
	events  *json.Encoder
	asking  sync.Mutex // answers come in the order of the questions
	answers chan json.RawMessage
}

// entrance is the first thing that a jail reads.
type entrance struct {
	Privilege Privilege `json:"privilege"`
	Kind      JailKind  `json:"kind"`
	Files     int       `json:"files,omitempty"` // descriptors from firstFile on that it gets
}

// userNamespace says whether the jail is in one.
func (e entrance) userNamespace() bool { return e.Kind == OwnIDs || e.Kind == SubordinateIDs }

const firstFile = 3 // after standard input, output and error

// KeepDescriptors keeps what this process was started with, but for standard input,
// output and error, from all that it starts.
func KeepDescriptors() error {
	const own = "/proc/self/fd"
	entries, err := os.ReadDir(own)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= firstFile {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// treeUmask is the umask of all that is done to an image, whoever builds it.
const treeUmask = 0o022

// EnterJail reads the request into request. The doors are still open then: see Close.
func EnterJail(request any) (*Jail, error) {
	if os.Getpid() != 1 {
		return nil, fail.New(fail.Usage, "", "use 'vmctl build'", "this command is vmctl's own and cannot be called directly")
	}
	// The parent decides when to stop. A signal that is caught has its default
	// action again in what the jail starts; one that is ignored stays so.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	jail := &Jail{Context: ctx, Log: os.Stderr, events: json.NewEncoder(os.Stdout), answers: make(chan json.RawMessage, 1)}
	decoder := json.NewDecoder(os.Stdin)
	if err := errors.Join(decoder.Decode(&jail.entry), decoder.Decode(request)); err != nil {
		cancel()
		return nil, fmt.Errorf("read the jail's request: %w", err)
	}
	err := KeepDescriptors()
	if err == nil && jail.entry.Kind == SubordinateIDs {
		err = becomeRoot()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	for fd := firstFile; fd < firstFile+jail.entry.Files; fd++ {
		jail.Files = append(jail.Files, os.NewFile(uintptr(fd), fmt.Sprintf("/dev/fd/%d", fd)))
	}
	go func() {
		defer cancel()
		for {
			var answer json.RawMessage
			if err := decoder.Decode(&answer); err != nil {
				return
			}
			jail.answers <- answer
		}
	}()
	return jail, nil
}

// Close closes the jail's doors: mounts are private, the umask is fixed, syncing is
// suppressed, and in a confined jail /proc shows its own processes, the kernel's
// settings cannot be changed, and capabilities over the machine are gone.
func (j *Jail) Close() error {
	unix.Umask(treeUmask)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	// A jail that mounts for another one keeps its parent's /proc, through which it sees
	// the other one's files.
	if j.entry.Privilege == Confined {
		if err := j.shieldKernel(); err != nil {
			return err
		}
		if !j.entry.userNamespace() {
			if err := dropCapabilities(); err != nil {
				return err
			}
		}
	}
	if err := suppressSync(); err != nil {
		fmt.Fprintf(j.Log, "syncing stays on, the build is slower: %v\n", err)
	}
	if !j.entry.userNamespace() {
		return nil
	}
	if err := j.shareBinds(); err != nil {
		fmt.Fprintf(j.Log, "nothing can listen on ports below %d: %v\n", firstFreePort, err)
	}
	return nil
}

// bindsMessage tells the parent from which descriptor of the jail it reads the
// questions about bind(2).
type bindsMessage struct {
	Listener int `json:"binds_listener"`
}

func (j *Jail) shareBinds() error {
	listener, err := askForBinds()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(listener) }()
	var problem string
	if err := j.Ask(bindsMessage{listener}, &problem); err != nil {
		return err
	}
	if problem != "" {
		return errors.New(problem)
	}
	return nil
}

// takeBinds answers a jail's questions about bind(2) from now on, where the line is the
// message that asks for it.
func takeBinds(line json.RawMessage, pid int, answer func(any) error) (taken bool, err error) {
	var m bindsMessage
	if !bytes.HasPrefix(line, []byte(`{"binds_listener":`)) || json.Unmarshal(line, &m) != nil {
		return false, nil
	}
	listener, err := takeDescriptor(pid, m.Listener)
	if err != nil {
		return true, answer(err.Error())
	}
	go answerBinds(listener)
	return true, answer("")
}

// Send gives the parent an event.
func (j *Jail) Send(event any) error {
	j.sending.Lock()
	defer j.sending.Unlock()
	return j.events.Encode(event)
}

// Ask sends an event and waits for the parent's answer.
func (j *Jail) Ask(event, answer any) error {
	j.asking.Lock()
	defer j.asking.Unlock()
	if err := j.Send(event); err != nil {
		return err
	}
	select {
	case content := <-j.answers:
		return json.Unmarshal(content, answer)
	case <-j.Context.Done():
		return j.Context.Err()
	}
}

// settings is what of /proc and /sys changes the machine for all. Many of its files ask for no
// capability, but for the user that owns them, who is root of a jail, too.
var settings = []string{
	"/sys", "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/driver", "/proc/dynamic_debug", "/proc/fs", "/proc/irq",
	"/proc/mtrr", "/proc/scsi", "/proc/sys", "/proc/sysrq-trigger",
}

// secrets is what of /proc tells of the machine's memory, keys and timers.
var secrets = []string{"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats"}

// shieldKernel gives the jail a /proc of its own and makes the kernel's settings, there
// and in /sys, read-only, and hides what it tells of the machine. Where parts of /proc are masked, a user namespace may have no
// other one: then the jail sees the processes around it, over which it has no power.
func (j *Jail) shieldKernel() error {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if errors.Is(err, unix.EPERM) && j.entry.userNamespace() {
		fmt.Fprintf(j.Log, "the jail sees the processes around it: no /proc of its own can be mounted: %v\n", err)
	} else if err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	h := &Local{}
	for _, path := range settings {
		if _, err := os.Stat(path); err != nil {
			continue // not every kernel has all
		}
		if _, err := h.Mount(BindAll(path, path)); err != nil {
			return err
		}
	}
	for _, path := range secrets {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if _, err := h.Mount(Bind(os.DevNull, path, true)); err != nil {
			return err
		}
	}
	return nil
}

// Sethostname implements Host. It does nothing outside a jail, where it would rename
// the machine.
func (l *Local) Sethostname(name string) error {
	if os.Getpid() != 1 {
		return nil
	}
	return unix.Sethostname([]byte(name))
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

// KillInTrees implements Host. It does nothing outside a jail.
func (l *Local) KillInTrees(but ...string) error {
	if os.Getpid() != 1 {
		return nil
	}
	spared := []os.FileInfo{}
	for _, root := range append(but, "/") {
		info, err := os.Stat(root)
		if err != nil {
			return err
		}
		spared = append(spared, info)
	}
	for {
		found, err := killAllBut(spared)
		if !found || err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // what is killed keeps its mounts busy until it is gone
	}
}

// killAllBut kills the processes that have none of these roots, and says whether there
// were any.
func killAllBut(spared []os.FileInfo) (found bool, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		root, err := os.Stat(fmt.Sprintf("/proc/%d/root/", pid))
		if err != nil || slices.ContainsFunc(spared, func(its os.FileInfo) bool { return os.SameFile(root, its) }) {
			continue // one that has ended has no root
		}
		found = true
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return true, err
		}
	}
	return found, nil
}
