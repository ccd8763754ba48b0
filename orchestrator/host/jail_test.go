package host_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// What this binary is called as, other than as a test: a jail, or what starts one.
const (
	asJail   = "as-jail"
	asParent = "as-parent"
)

// task is what a jail of the tests is asked to do.
type task struct {
	Do        string
	Privilege host.Privilege
	Mark      string // by which a process is found
}

func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !slices.Contains([]string{asJail, asParent}, os.Args[1]) {
		os.Exit(m.Run())
	}
	var err error
	switch os.Args[1] {
	case asJail:
		err = inJail()
	case asParent:
		var t task
		if err = json.Unmarshal([]byte(os.Args[2]), &t); err == nil {
			err = host.RunJail(context.Background(), host.JailOptions{
				Args: []string{asJail}, Privilege: t.Privilege, Request: t, Log: os.Stderr,
				Event: func(e host.Event) error { fmt.Println(string(e.Content)); return nil },
			})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func inJail() error {
	var t task
	jail, err := host.EnterJail(&t)
	if err != nil {
		return err
	}
	if err := jail.Close(); err != nil {
		return err
	}
	switch t.Do {
	case "report":
		return jail.Send(look())
	case "ask":
		return askAll(jail)
	case "unwind":
		err := jail.Send("ready")
		<-jail.Context.Done()
		fmt.Fprintln(jail.Log, "unwound")
		return err
	case "hang":
		// A process of the jail that has left its group and its session.
		err := exec.Command("setsid", "sleep", t.Mark).Start()
		if err = errors.Join(err, jail.Send("ready")); err != nil {
			return err
		}
		select {}
	case "crash":
		panic("out of paper")
	case "die asking":
		if err := jail.Send("question"); err != nil {
			return err
		}
		fmt.Fprintln(jail.Log, "dying")
		os.Exit(7)
	case "listen":
		return jail.Send(listenAround())
	case "talk":
		for range 10_000 {
			fmt.Fprintln(jail.Log, strings.Repeat("words ", 10))
		}
	}
	return nil
}

// listenAround listens here and there, and tells what became of it.
func listenAround() map[string]string {
	told := map[string]string{}
	for _, place := range [][2]string{{"tcp", "127.0.0.1:919"}, {"tcp", "127.0.0.1:919"}, {"tcp", "[::1]:919"}, {"tcp", "127.0.0.1:0"}, {"unix", "@vmctl-test-" + strconv.Itoa(os.Getppid())}, {"tcp", "192.0.2.1:80"}} {
		listener, err := net.Listen(place[0], place[1])
		if err == nil {
			defer func() { _ = listener.Close() }()
		}
		told[place[1]] += fmt.Sprintf("%v;", errors.Unwrap(err))
	}
	perl, err := exec.Command("perl", "-MSocket", "-e", `socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(918, INADDR_LOOPBACK)) or die "$!\n"`).CombinedOutput()
	told["perl"] = fmt.Sprintf("%s%v", perl, err)
	return told
}

// askAll asks many questions at once; each is to be answered with itself.
func askAll(jail *host.Jail) error {
	problems := make([]error, 50)
	var all sync.WaitGroup
	for i := range problems {
		all.Go(func() {
			answer := -1
			if err := jail.Ask(i, &answer); err != nil || answer != i {
				problems[i] = fmt.Errorf("question %d is answered %d: %w", i, answer, err)
			}
		})
	}
	all.Wait()
	return errors.Join(problems...)
}

// sight is what a process of a jail sees and can do.
type sight struct {
	PID, Session int
	Users        string // /proc/self/uid_map
	Bounds       uint64 // capabilities that what it starts can have
	Terminal     bool
	Keys         int // the session's keyring
	Can          []string
}

func look() sight {
	s := sight{PID: os.Getpid()}
	s.Session, _ = unix.Getsid(0)
	users, _ := os.ReadFile("/proc/self/uid_map")
	s.Users = strings.Join(strings.Fields(string(users)), " ")
	status, _ := exec.Command("sed", "-n", "s/^CapEff:[[:space:]]*//p", "/proc/self/status").Output()
	s.Bounds, _ = strconv.ParseUint(strings.TrimSpace(string(status)), 16, 64)
	s.Keys, _ = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if s.Terminal = !errors.Is(err, unix.ENXIO); err == nil {
		tty.Close()
	}
	for name, try := range map[string]func() error{
		"set the kernel's settings":  writable("/proc/sys/kernel/core_pattern"),
		"restart by SysRq":           writable("/proc/sysrq-trigger"),
		"steer interrupts":           writable("/proc/irq/default_smp_affinity"),
		"change settings of modules": writable("/sys/module/kernel/parameters/panic"),
		"change settings of memory":  writable("/sys/kernel/mm/transparent_hugepage/enabled"),
		"read the machine's memory":  func() error { _, err := os.Open("/proc/kcore"); return err },
		"read the kernel's log":      func() error { return inChild("dmesg", "--syslog") },
		"make a device":              func() error { return inChild("mknod", filepath.Join(os.TempDir(), "vmctl-test-disk"), "b", "7", "0") },
		"set the clock":              func() error { return inChild("date", "-s", "now") },
	} {
		if try() == nil {
			s.Can = append(s.Can, name)
		}
	}
	slices.Sort(s.Can)
	return s
}

func writable(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
}

// inChild is what a program of a package could do.
func inChild(name string, args ...string) error { return exec.Command(name, args...).Run() }

// needJail is for what ordinary users can, too, who have subordinate ids.
func needJail(t *testing.T) {
	t.Helper()
	if kind, err := host.BestJail(); kind == host.NoJail {
		t.Skipf("needs root, or else subordinate ids: %v", err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
}

// run runs a jail; what it sends is given to told.
func run(ctx context.Context, do string, log io.Writer, told func(host.Event) error) error {
	return host.RunJail(ctx, host.JailOptions{Args: []string{asJail}, Request: task{Do: do}, Log: log, Event: told})
}

func TestAJailIsAnsweredWhatItAsks(t *testing.T) {
	needJail(t)
	if err := run(t.Context(), "ask", t.Output(), func(e host.Event) error { return e.Answer(e.Content) }); err != nil {
		t.Error(err, fail.Tail(err))
	}
}

func TestACancelledJailUnwinds(t *testing.T) {
	needJail(t)
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	err := run(ctx, "unwind", &log, func(host.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || log.String() != "unwound\n" {
		t.Errorf("error %v, log %q", err, log.String())
	}
}

func TestWhatAJailLeavesUndoneEndsWithIt(t *testing.T) {
	needJail(t)
	ctx, cancel := context.WithCancel(t.Context())
	mark := strconv.Itoa(1_000_000 + os.Getpid())
	begun := time.Now()
	err := host.RunJail(ctx, host.JailOptions{Args: []string{asJail}, Request: task{Do: "hang", Mark: mark}, Log: t.Output(), Event: func(host.Event) error {
		cancel()
		return nil
	}})
	if !errors.Is(err, context.Canceled) || time.Since(begun) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	awaitEnd(t, "sleep", mark)
}

func TestAJailDiesWithItsParent(t *testing.T) {
	needJail(t)
	privileges := map[string]host.Privilege{"confined": host.Confined, "mounting": host.Mounting}
	if host.CanMountDisks() != nil {
		delete(privileges, "mounting")
	}
	for name, privilege := range privileges {
		t.Run(name, func(t *testing.T) {
			mark := strconv.Itoa(2_000_000 + 2*os.Getpid() + int(privilege))
			request, err := json.Marshal(task{Do: "hang", Privilege: privilege, Mark: mark})
			if err != nil {
				t.Fatal(err)
			}
			parent := exec.Command("/proc/self/exe", asParent, string(request))
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 16)); err != nil {
				t.Error(err)
			}
			for begun := time.Now(); len(processes(t, "sleep", mark)) == 0; time.Sleep(10 * time.Millisecond) {
				if time.Since(begun) > 10*time.Second {
					t.Fatal("nothing runs in the jail")
				}
			}
			_ = parent.Process.Signal(syscall.SIGKILL)
			_ = parent.Wait()
			awaitEnd(t, "sleep", mark)
		})
	}
}

func TestTheLastWordsOfACrashAreInTheError(t *testing.T) {
	needJail(t)
	err := run(t.Context(), "crash", io.Discard, func(host.Event) error { return nil })
	if fail.ExitCode(err) != fail.Build.ExitCode() || !strings.Contains(fail.Tail(err), "goroutine 1") {
		t.Errorf("error %v, tail %q", err, fail.Tail(err))
	}
}

func TestAJailThatDiesWhileItAsks(t *testing.T) {
	needJail(t)
	noticed := false
	err := run(t.Context(), "die asking", io.Discard, func(e host.Event) error {
		select {
		case <-e.Context.Done():
			noticed = true
		case <-time.After(20 * time.Second):
		}
		return e.Answer("too late")
	})
	if !noticed || !strings.Contains(fmt.Sprint(err), "exit status 7") || fail.Tail(err) != "dying" {
		t.Errorf("noticed: %v, error %v, tail %q", noticed, err, fail.Tail(err))
	}
}

func TestALogThatIsFullDoesNotEndAJail(t *testing.T) {
	needJail(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := run(t.Context(), "talk", full, func(host.Event) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestAConfinedJailHasNoPowerOverTheMachine(t *testing.T) {
	needJail(t)
	own, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	var s sight
	err = run(t.Context(), "report", t.Output(), func(e host.Event) error { return json.Unmarshal(e.Content, &s) })
	if err != nil {
		t.Fatal(err, fail.Tail(err))
	}
	s.check(t)
	want := strings.Join(strings.Fields(string(own)), " ")
	if os.Geteuid() != 0 { // itself, and the first of its subordinate ids, whichever these are
		var first int
		if _, err := fmt.Sscanf(s.Users, fmt.Sprintf("0 %d 1 1 %%d 65535", os.Geteuid()), &first); err != nil || first == 0 {
			t.Errorf("ids %q: %v", s.Users, err)
		}
	} else if s.Users != want {
		t.Errorf("ids %q, want %q", s.Users, want)
	}
}

// A jail shares the network with the machine without owning it.
func TestAConfinedJailListensOnLowPorts(t *testing.T) {
	needJail(t)
	var told map[string]string
	if err := run(t.Context(), "listen", t.Output(), func(e host.Event) error { return json.Unmarshal(e.Content, &told) }); err != nil {
		t.Fatal(err, fail.Tail(err))
	}
	again := "<nil>;bind: address already in use;"
	if os.Geteuid() != 0 {
		again = "<nil>;<nil>;" // two others
	}
	for place, want := range map[string]string{
		"127.0.0.1:919": again, "[::1]:919": "<nil>;", "127.0.0.1:0": "<nil>;",
		"192.0.2.1:80": "bind: cannot assign requested address;", "perl": "<nil>",
	} {
		if told[place] != want {
			t.Errorf("%s: %q, want %q", place, told[place], want)
		}
	}
}

// In a container whose /proc is masked, the jail sees the processes around it.
func TestAJailInAContainerWhoseProcIsMasked(t *testing.T) {
	needRoot(t)
	s := reportUnder(t, "mount --bind /dev/null /proc/version")
	s.check(t)
	if !strings.HasPrefix(s.Users, "0 0 ") {
		t.Errorf("it has no user namespace: ids %q", s.Users)
	}
}

// Where user namespaces are forbidden, the jail does without.
func TestAJailWithoutAUserNamespaceLacksTheCapabilities(t *testing.T) {
	needRoot(t)
	s := reportUnder(t, "echo 0 >/proc/sys/user/max_user_namespaces", "--user", "--map-root-user")
	s.check(t)
	if s.Bounds == 0 {
		t.Error("capabilities are not known")
	}
	for _, capability := range []int{unix.CAP_MKNOD, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_TIME, unix.CAP_SYS_BOOT, unix.CAP_NET_ADMIN, unix.CAP_BPF} {
		if s.Bounds&(1<<capability) != 0 {
			t.Errorf("what the jail starts has capability %d", capability)
		}
	}
	for _, capability := range []int{unix.CAP_CHOWN, unix.CAP_SETFCAP, unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT} {
		if s.Bounds&(1<<capability) == 0 {
			t.Errorf("what the jail starts lacks capability %d", capability)
		}
	}
}

// reportUnder is what a jail sees and can do whose parent has run a command before, in
// namespaces of its own.
func reportUnder(t *testing.T, before string, namespaces ...string) (s sight) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var problems bytes.Buffer
	args := slices.Concat(namespaces, []string{"--mount", "sh", "-c", before + ` && exec "$@"`, "sh", self, asParent, `{"Do": "report"}`})
	parent := exec.Command("unshare", args...)
	parent.Stderr = &problems
	out, err := parent.Output()
	if strings.Contains(problems.String(), "built with cgo") {
		t.Skip("it needs CGO_ENABLED=0, as make test has it")
	}
	if err != nil {
		t.Fatalf("%v: %s", err, problems.String())
	}
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s sight) check(t *testing.T) {
	t.Helper()
	if s.PID != 1 || s.Session != 1 || s.Terminal || len(s.Can) > 0 {
		t.Errorf("PID %d, session %d, terminal %v; it can %q", s.PID, s.Session, s.Terminal, s.Can)
	}
	if own, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); err == nil && s.Keys == own {
		t.Error("the jail has the caller's keys")
	}
}

// processes is those of that command line.
func processes(t *testing.T, argv ...string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if line, err := os.ReadFile(path); err == nil && string(line) == strings.Join(argv, "\x00")+"\x00" {
			found = append(found, path)
		}
	}
	return found
}

func awaitEnd(t *testing.T, argv ...string) {
	t.Helper()
	for range 200 {
		if len(processes(t, argv...)) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%q outlives its jail", argv)
}
