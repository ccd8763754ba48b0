package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/golden"
)

func TestCommandsOfDetachedMachines(t *testing.T) {
	file := func() *os.File { return new(os.File) }
	plain := func() DetachedSetup {
		return DetachedSetup{
			Image: file(), Format: "qcow2", Disk: file(), Firmware: "bios", Accel: AccelTCG, Memory: 1 << 30, CPUs: 2,
			Monitor: file(), Terminal: file(), ConsoleLog: file(), Complaints: file(), Alive: file(), Forwards: []Forward{{0, 22}},
		}
	}
	full := plain()
	full.Firmware, full.Vars, full.Accel = "secureboot", file(), AccelKVM
	full.Seed, full.Strings = file(), []*os.File{file(), file()}
	full.Isolated, full.Share = true, "/home/a,b"
	full.Forwards = append(full.Forwards, Forward{8080, 80})
	for name, s := range map[string]DetachedSetup{"detached": plain(), "detached-full": full} {
		m, files := s.machine(false)
		if want := []*os.File{s.Monitor, s.Terminal, s.Alive, s.Image, s.Disk}; !slices.Equal(files[:len(want)], want) || slices.Contains(files, nil) {
			t.Errorf("%s: files are in another order", name)
		}
		golden.Equal(t, name+".golden", strings.ReplaceAll(m.Command().String(), " -", " \\\n  -")+"\n")
	}
}

func TestForwardsAreReadFromQEMUsTable(t *testing.T) {
	got := parseForwards("Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[ESTABLISHED]   9       127.0.0.1    22       10.0.2.15    22     0     0\r\n" +
		"  TCP[HOST_FORWARD]  11       127.0.0.1 34881       10.0.2.15    22     0     0\r\n" +
		"  TCP[HOST_FORWARD]   3       127.0.0.1  8080       10.0.2.15    80     0     0\r\n")
	if want := []Forward{{34881, 22}, {8080, 80}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// numbered has the answers tell the question that they are of.
func numbered(answers string, question int) string {
	return regexp.MustCompile(`\{"(return|error)"`).ReplaceAllString(answers, fmt.Sprintf(`{"id": %d, "$1"`, question))
}

// fakeMonitor answers each line that it is sent with the next answers, in a folder whose
// name is longer than an address may be.
func fakeMonitor(t *testing.T, answers ...string) *Monitor {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { folder.Close() })
	socket, err := Listen(folder, "qmp")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	socket.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buffer := make([]byte, 4096)
		for i, answer := range append([]string{`{"QMP": {}}{"return": {}}`}, answers...) {
			if n, err := conn.Read(buffer); err != nil || !strings.HasSuffix(string(buffer[:n]), "}\n") {
				return
			}
			if _, err := conn.Write([]byte(numbered(answer, i+1))); err != nil {
				return
			}
		}
		if answers == nil {
			_, _ = conn.Read(buffer)
			time.Sleep(time.Minute)
		}
	}()
	t.Cleanup(func() { _ = listener.Close() })
	m, err := OpenMonitor(t.Context(), folder, "qmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestAMonitorAnswersPastEvents(t *testing.T) {
	m := fakeMonitor(t, `{"event": "RESUME"}{"return": {"status": "running"}}`, `{"error": {"desc": "no such device"}}`)
	var status struct{ Status string }
	if err := m.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("%+v, %v", status, err)
	}
	if err := m.Execute(t.Context(), "eject", nil, nil); err == nil || err.Error() != "no such device" {
		t.Errorf("%v", err)
	}
	if err := m.Execute(t.Context(), "quit", nil, nil); !Ending(err) {
		t.Errorf("QEMU has ended: %v", err)
	}
}

func TestAQuestionThatWasGivenUpIsForgotten(t *testing.T) {
	asked := make(chan struct{})
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	go func() {
		buffer := make([]byte, 4096)
		_, _ = theirs.Read(buffer)
		close(asked)
		_, _ = theirs.Read(buffer)
		_, _ = theirs.WriteString(`{"id": 1, "return": "late"}{"id": 2, "return": "right"}`)
	}()
	m := converse(ours, func(message) {})
	defer func() { _ = m.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if err := m.Execute(ctx, "screendump", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	var answer string
	if err := m.Execute(t.Context(), "query-status", nil, &answer); err != nil || answer != "right" {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestAMonitorThatNeverEnds(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	m := converse(ours, func(message) {})
	defer func() { _ = m.Close() }()
	go func() {
		_, err := theirs.WriteString(`{"return": "`)
		for endless := bytes.Repeat([]byte("x"), 1<<20); err == nil; {
			_, err = theirs.Write(endless)
		}
	}()
	if err := m.Execute(t.Context(), greet, nil, nil); err == nil || !strings.Contains(err.Error(), "no end") {
		t.Errorf("%v", err)
	}
}

// jobsOfQEMU is QEMU as far as it has jobs, which end at once.
type jobsOfQEMU struct {
	left    []job
	problem string // that a job ends with
	began   func() // called before QEMU says that one has begun; nil for nothing
}

// answer is what QEMU says to a question.
func (q *jobsOfQEMU) answer(command string, arguments map[string]any) (any, error) {
	id, _ := arguments["job-id"].(string)
	at := func(id any) int { return slices.IndexFunc(q.left, func(j job) bool { return j.ID == id }) }
	switch command {
	case "query-named-block-nodes":
		return []map[string]string{{"node-name": "disk"}, {"node-name": "vars"}}, nil
	case "query-jobs":
		return append([]job{}, q.left...), nil
	case "job-dismiss":
		i := at(arguments["id"])
		if i < 0 || q.left[i].Status != concluded {
			return nil, errors.New("no job that can be dismissed")
		}
		q.left = slices.Delete(q.left, i, i+1)
		return struct{}{}, nil
	}
	if at(id) >= 0 {
		return nil, errors.New("Job ID '" + id + "' already in use")
	}
	q.left = append(q.left, job{id, concluded, q.problem})
	if q.began != nil {
		q.began()
	}
	return struct{}{}, nil
}

// monitor is that of the QEMU.
func (q *jobsOfQEMU) monitor(t *testing.T) *Monitor {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer theirs.Close()
		for questions := json.NewDecoder(theirs); ; {
			var question struct {
				Execute   string         `json:"execute"`
				Arguments map[string]any `json:"arguments"`
				ID        int            `json:"id"`
			}
			if questions.Decode(&question) != nil {
				return
			}
			answer := map[string]any{"id": question.ID}
			if result, err := q.answer(question.Execute, question.Arguments); err != nil {
				answer["error"] = map[string]string{"desc": err.Error()}
			} else {
				answer["return"] = result
			}
			if json.NewEncoder(theirs).Encode(answer) != nil {
				return
			}
		}
	}()
	m := converse(ours, func(message) {})
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestASnapshotIsAJobThatEnds(t *testing.T) {
	q := &jobsOfQEMU{problem: "no room"}
	m := q.monitor(t)
	if err := m.Snapshot(t.Context(), SaveSnapshot, "a"); err == nil || err.Error() != "no room" {
		t.Errorf("%v", err)
	}
	if all, err := m.jobs(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestASnapshotThatWasInterruptedBlocksNoOther(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	q := &jobsOfQEMU{left: []job{{ID: SaveSnapshot, Status: concluded}, {ID: "other", Status: "running"}}}
	m := q.monitor(t)
	q.began = func() { interrupt(); time.Sleep(10 * time.Millisecond) }
	if err := m.Snapshot(ctx, SaveSnapshot, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	all, err := m.jobs(t.Context())
	if err != nil || !slices.Equal(all, []job{{ID: "other", Status: "running"}}) {
		t.Errorf("left: %v, %v", all, err)
	}
	// What an older vmctl has left, or one that was killed, neither.
	for range 2 {
		q.began = func() { q.left = append(q.left, job{ID: SaveSnapshot, Status: concluded}); q.began = nil }
		if err := m.Snapshot(t.Context(), SaveSnapshot, "b"); err != nil {
			t.Error(err)
		}
	}
}

func TestSnapshotsAreThoseOfTheDisk(t *testing.T) {
	const one = `"image": {"snapshots": [{"name": "a", "vm-state-size": 7, "date-sec": 9}]}`
	m := fakeMonitor(t, `{"return": [{"node-name": "vars", `+one+`}, {"node-name": "disk", `+one+`}, {"node-name": "image", "image": {}}]}`)
	got, err := m.Snapshots(t.Context())
	if err != nil || !slices.Equal(got, []Snapshot{{"a", 7, 9}}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestADetachedQEMUTellsHowItEnds(t *testing.T) {
	fakeQEMU(t, `case " $* " in *' -device help '*) exit ;; esac; [ "$(ps -o pid= -o sid= -p $$ | awk '{print $1 == $2}')" = 1 ] && echo own session >&2; exit 3`)
	c, err := Confine(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	pid, ended, err := c.Detach(DetachedSetup{
		Image: null, Format: "raw", Disk: null, Firmware: "bios", Accel: AccelTCG, Memory: 64 << 20,
		Monitor: null, Terminal: null, ConsoleLog: null, Complaints: said, Alive: null,
	})
	if err != nil || pid <= 0 {
		t.Fatal(pid, err)
	}
	ending := <-ended
	content, err := os.ReadFile(said.Name())
	if ending == nil || err != nil || string(content) != "own session\n" {
		t.Errorf("%v; %q, %v", ending, content, err)
	}
}

func TestAProcessThatIsGoneCannotBeKilled(t *testing.T) {
	fakeQEMU(t, `case " $* " in *' -device help '*) exit ;; esac; exec sleep 60`)
	c, err := Confine(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pid, ended, err := c.Detach(DetachedSetup{
		Image: null, Format: "raw", Disk: null, Firmware: "bios", Accel: AccelTCG, Memory: 64 << 20,
		Monitor: null, Terminal: null, ConsoleLog: null, Complaints: null, Alive: null,
	})
	if err != nil {
		t.Fatal(err)
	}
	process, err := OpenProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = process.Close() }()
	first := process.Kill()
	<-ended
	if second := process.Kill(); first != nil || second == nil {
		t.Error(errors.Join(first, second))
	}
}
