package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Ways in which a machine shows that it is up.
const (
	UpBySSH    = "ssh answers"
	UpByPrompt = "its console shows a prompt"
)

const (
	pollInterval = 100 * time.Millisecond
	consoleTail  = 16 << 10 // bytes of the console that are searched each time
	// promptGrace is how long after a prompt at the console ssh may still answer, in a
	// guest of which it is not known whether it has any.
	promptGrace = 30 * time.Second
)

// sighting is what is seen of a guest at one moment.
type sighting struct {
	ssh     bool          // its server has greeted
	prompt  time.Duration // since it was seen on the console; 0 for not yet
	problem error         // that the console shows
	gone    bool          // QEMU has ended
	elapsed time.Duration
}

// expectation is what counts, and for how long it is waited for.
type expectation struct {
	ssh   bool // nothing but that
	grace time.Duration
	limit time.Duration
}

// expect is what a guest must show.
func (g Guest) expect(limit time.Duration) expectation {
	e := expectation{ssh: g.Known && g.SSH, grace: promptGrace, limit: limit}
	if g.Known && !g.SSH {
		e.grace = 0
	}
	return e
}

// judge is how a guest is up, "" for not yet, or why it never will be.
func (e expectation) judge(s sighting) (how string, err error) {
	switch {
	case s.ssh:
		return UpBySSH, nil
	case s.gone:
		return "", errors.New("it switched itself off, or QEMU ended, before it was up")
	case s.problem != nil:
		return "", s.problem
	case !e.ssh && s.prompt > 0 && s.prompt >= e.grace:
		return UpByPrompt, nil
	case s.elapsed >= e.limit && s.prompt > 0:
		return "", fmt.Errorf("its console shows a prompt, but ssh does not answer within %s", e.limit)
	case s.elapsed >= e.limit:
		return "", fmt.Errorf("it is not up within %s", e.limit)
	}
	return "", nil
}

// Wait waits until the machine of that run is up, and says how it shows that. A guest
// that does not come up is a failure of kind Boot, with the console's last lines.
func (m Machine) Wait(ctx context.Context, run Run, limit time.Duration) (how string, err error) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	return m.await(ctx, run, m.Guest.expect(limit), greetings(waiting, run.SSHPort()))
}

// WaitPrompt waits until the machine's console shows a prompt, whatever else shows before.
func (m Machine) WaitPrompt(ctx context.Context, run Run, limit time.Duration) error {
	_, err := m.await(ctx, run, Guest{Known: true}.expect(limit), nil)
	return err
}

// WaitSSH waits until the machine's ssh server answers, whatever its console shows.
func (m Machine) WaitSSH(ctx context.Context, run Run, limit time.Duration) error {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	_, err := m.await(ctx, run, Guest{Known: true, SSH: true}.expect(limit), greetings(waiting, run.SSHPort()))
	return err
}

func (m Machine) await(ctx context.Context, run Run, expected expectation, greeted <-chan struct{}) (how string, err error) {
	console, err := os.Open(filepath.Join(m.dir, consoleName))
	if err != nil {
		return "", err
	}
	defer console.Close()
	var seen sighting
	var prompted time.Time
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-greeted:
			seen.ssh = true
		case <-time.After(pollInterval):
		}
		var prompt bool
		prompt, seen.problem = boottest.Signs(tailOf(console, run.Console))
		if prompt && prompted.IsZero() {
			prompted = time.Now()
		}
		if !prompted.IsZero() {
			seen.prompt = max(time.Since(prompted), 1)
		}
		seen.gone, seen.elapsed = !m.Running(), time.Since(start)
		if how, err = expected.judge(seen); err != nil {
			return "", &fail.Error{Kind: fail.Boot, Op: m.Name, Err: err, Tail: lastLines(tailOf(console, run.Console), tailLines)}
		}
		if how != "" {
			return how, nil
		}
	}
}

func lastLines(console []byte, n int) string { return boottest.LastLines(console, n) }

// tailOf is the end of what was written to a file after begun.
func tailOf(file *os.File, begun int64) []byte {
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	from := max(begun, info.Size()-consoleTail)
	tail := make([]byte, max(0, info.Size()-from))
	n, _ := file.ReadAt(tail, from)
	return tail[:n]
}

// A guest that has no network yet keeps nobody from connecting, since QEMU takes the
// connection: each try has its own, so that none waits for a packet to be sent again. All
// that are open reach the server once it listens, which adds up who does not log in: with
// 15 of them sshd(8) refuses us for a while (PerSourcePenalties).
const (
	greetingEvery = 500 * time.Millisecond
	greetingLimit = 3 * time.Second
)

// greetings is closed once a server of ssh greets at the port.
func greetings(ctx context.Context, port int) <-chan struct{} {
	greeted, found := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		ticker := time.NewTicker(greetingEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-found:
				close(greeted)
				return
			case <-ticker.C:
			}
			go func() {
				if greets(ctx, port) {
					select {
					case found <- struct{}{}:
					default:
					}
				}
			}()
		}
	}()
	return greeted
}

// greeting is how a server of ssh begins (RFC 4253, 4.2).
const greeting = "SSH-"

func greets(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, greetingLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	text := make([]byte, len(greeting))
	_, err = io.ReadFull(conn, text)
	return err == nil && strings.EqualFold(string(text), greeting)
}
