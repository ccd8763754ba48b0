package vm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Monitor talks with a QEMU (QEMU Machine Protocol), one question at a time.
type Monitor struct {
	conn    *net.UnixConn
	asking  chan struct{} // holds one while somebody asks
	asked   int           // questions so far: each has its number
	answers chan message  // the last answer; closed once QEMU says no more
	ending  error         // why, once answers is closed
}

// message is what QEMU says: its greeting, an answer or an event.
type message struct {
	ID     int             `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Text string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Guest bool `json:"guest"` // did it, not who runs it
	} `json:"data"`
}

// converse begins a talk. Events are told, one after the other.
func converse(conn *net.UnixConn, event func(message)) *Monitor {
	m := &Monitor{conn: conn, asking: make(chan struct{}, 1), answers: make(chan message, 1)}
	go func() {
		defer close(m.answers)
		bounded := &allowance{from: conn}
		for messages := json.NewDecoder(bounded); ; {
			bounded.left = longestMessage
			var said message
			if m.ending = messages.Decode(&said); m.ending != nil {
				return
			}
			switch {
			case said.Event != "":
				event(said)
			case said.Return != nil || said.Error != nil:
				select {
				case <-m.answers: // nobody waits for that one any more
				default:
				}
				m.answers <- said
			}
		}
	}()
	return m
}

// OpenMonitor connects to the monitor in the folder, and waits for it until ctx ends. It
// listens to one at a time.
func OpenMonitor(ctx context.Context, folder *os.File, name string) (*Monitor, error) {
	conn, err := Dial(folder, name)
	if err != nil {
		return nil, err
	}
	m := converse(conn, func(message) {})
	if err := m.Execute(ctx, greet, nil, nil); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// greet is what each talk begins with.
const greet = "qmp_capabilities"

// longestMessage is how many bytes of one are read: what runs a guest may have been taken
// over by it.
const longestMessage = 8 << 20

// allowance reads so many bytes more.
type allowance struct {
	from io.Reader
	left int
}

func (a *allowance) Read(p []byte) (int, error) {
	if a.left <= 0 {
		return 0, errors.New("QEMU's monitor says something that has no end")
	}
	n, err := a.from.Read(p[:min(len(p), a.left)])
	a.left -= n
	return n, err
}

// Close ends the talk.
func (m *Monitor) Close() error { return m.conn.Close() }

// Execute has QEMU do something and reads into what it answers, unless that is nil.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, into any) error {
	return m.send(ctx, command, arguments, nil, into)
}

func (m *Monitor) send(ctx context.Context, command string, arguments any, rights []byte, into any) error {
	select {
	case m.asking <- struct{}{}:
		defer func() { <-m.asking }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.asked++
	request := map[string]any{"execute": command, "id": m.asked}
	if arguments != nil {
		request["arguments"] = arguments
	}
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline() // zero for none: a question is short, and seldom waits
	err = m.conn.SetWriteDeadline(deadline)
	if err == nil {
		_, _, err = m.conn.WriteMsgUnix(append(line, '\n'), rights, nil)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case answer, more := <-m.answers:
			switch {
			case !more:
				return fmt.Errorf("%s: %w", command, m.ending)
			case answer.ID != m.asked: // of a question that was given up
			case answer.Error != nil:
				return errors.New(answer.Error.Text)
			case into != nil:
				return json.Unmarshal(answer.Return, into)
			default:
				return nil
			}
		}
	}
}

// Screenshot has QEMU write what the screen shows to a file, as PNG.
func (m *Monitor) Screenshot(ctx context.Context, file *os.File) error {
	// QEMU takes no descriptor that could do more than it asks for.
	writable, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer writable.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.send(ctx, "add-fd", nil, unix.UnixRights(int(writable.Fd())), &set); err != nil {
		return err
	}
	drawn := m.Execute(ctx, "screendump", map[string]any{"filename": inherited(set.ID), "format": "png"}, nil)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(drawn, m.Execute(after, "remove-fd", map[string]any{"fdset-id": set.ID}, nil))
}

// forwarded is a line of QEMU's table of connections (HMP, info usernet).
var forwarded = regexp.MustCompile(`(?m)^\s*TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s`)

// Forwards is the ports that QEMU forwards.
func (m *Monitor) Forwards(ctx context.Context) ([]Forward, error) {
	var table string
	if err := m.Execute(ctx, "human-monitor-command", map[string]any{"command-line": "info usernet"}, &table); err != nil {
		return nil, err
	}
	return parseForwards(table), nil
}

func parseForwards(table string) []Forward {
	var all []Forward
	for _, match := range forwarded.FindAllStringSubmatch(table, -1) {
		from, _ := strconv.Atoi(match[1])
		to, _ := strconv.Atoi(match[2])
		all = append(all, Forward{Host: from, Guest: to})
	}
	return all
}

// Snapshot is a saved state of a machine: disk, variables and memory.
type Snapshot struct {
	Name    string `json:"name"`
	Bytes   int64  `json:"memory_bytes"`
	Seconds int64  `json:"created"` // since 1970
}

// What can be done with a snapshot, as jobs of QEMU's are called.
const (
	SaveSnapshot    = "snapshot-save"
	RestoreSnapshot = "snapshot-load"
	DeleteSnapshot  = "snapshot-delete"
)

// Snapshots is the snapshots of the machine.
func (m *Monitor) Snapshots(ctx context.Context) ([]Snapshot, error) {
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Snapshots []struct {
				Name    string `json:"name"`
				Bytes   int64  `json:"vm-state-size"`
				Seconds int64  `json:"date-sec"`
			} `json:"snapshots"`
		} `json:"image"`
	}
	if err := m.Execute(ctx, "query-named-block-nodes", nil, &nodes); err != nil {
		return nil, err
	}
	all := []Snapshot{}
	for _, n := range nodes {
		if n.Name != "disk" {
			continue
		}
		for _, s := range n.Image.Snapshots {
			all = append(all, Snapshot(s))
		}
	}
	return all, nil
}

const (
	jobPoll = 50 * time.Millisecond
	// dismissLimit is how long QEMU may take to forget a job that nobody waits for any more. It
	// may be at that one still: what is left, the next snapshot dismisses.
	dismissLimit = 5 * time.Second
)

// job is one of QEMU's.
type job struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error"`
}

const concluded = "concluded"

func (m *Monitor) jobs(ctx context.Context) (all []job, err error) {
	err = m.Execute(ctx, "query-jobs", nil, &all)
	return all, err
}

func (m *Monitor) dismiss(ctx context.Context, id string) error {
	return m.Execute(ctx, "job-dismiss", map[string]any{"id": id}, nil)
}

// Snapshot does something with the snapshot of that name: SaveSnapshot and its kin.
func (m *Monitor) Snapshot(ctx context.Context, what, name string) (err error) {
	if err := m.dismissConcluded(ctx); err != nil {
		return err
	}
	devices := []string{"disk"}
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := m.Execute(ctx, "query-named-block-nodes", nil, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Name == "vars" {
			devices = append(devices, n.Name)
		}
	}
	id := "vmctl-" + rand.Text()
	arguments := map[string]any{"job-id": id, "tag": name, "devices": devices}
	if what != DeleteSnapshot {
		arguments["vmstate"] = "disk"
	}
	started := m.Execute(ctx, what, arguments, nil)
	if started != nil && ctx.Err() == nil {
		return started
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), dismissLimit)
		defer cancel()
		if dismissing := m.dismiss(after, id); ctx.Err() == nil {
			err = errors.Join(err, dismissing)
		}
	}()
	if started != nil {
		return started
	}
	return m.awaitJob(ctx, id)
}

// awaitJob waits until the job has ended.
func (m *Monitor) awaitJob(ctx context.Context, id string) error {
	for {
		all, err := m.jobs(ctx)
		if err != nil {
			return err
		}
		for _, j := range all {
			switch {
			case j.ID == id && j.Error != "":
				return errors.New(j.Error)
			case j.ID == id && j.Status == concluded:
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(jobPoll):
		}
	}
}

// dismissConcluded has QEMU forget the jobs whose vmctl was interrupted.
func (m *Monitor) dismissConcluded(ctx context.Context) error {
	all, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range all {
		if j.Status != concluded {
			continue
		}
		if err := m.dismiss(ctx, j.ID); err != nil {
			return err
		}
	}
	return nil
}

// Ending is an error of a talk with a QEMU that has ended meanwhile.
func Ending(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}
