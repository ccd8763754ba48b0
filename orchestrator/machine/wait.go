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
	return m.await(ctx, run, m.Guest.expect(limit), run.SSHPort())
}

// WaitPrompt waits until the machine's console shows a prompt, whatever else shows before.
func (m Machine) WaitPrompt(ctx context.Context, run Run, limit time.Duration) error {
	_, err := m.await(ctx, run, Guest{Known: true}.expect(limit), 0)
	return err
}

// WaitSSH waits until the machine's ssh server answers, whatever its console shows.
func (m Machine) WaitSSH(ctx context.Context, run Run, limit time.Duration) error {
	_, err := m.await(ctx, run, Guest{Known: true, SSH: true}.expect(limit), run.SSHPort())
	return err
}

// await waits for what is expected; ssh is tried at that port, 0 for none.
func (m Machine) await(ctx context.Context, run Run, expected expectation, port int) (how string, err error) {
	console, err := os.Open(filepath.Join(m.dir, consoleName))
	if err != nil {
		return "", err
	}
	defer console.Close()
	trying, stop := context.WithCancel(ctx)
	defer stop()
	greeted := make(chan struct{}, 1)
	var tries pace
	var seen sighting
	var prompted time.Time
	for start := time.Now(); ; {
		if port != 0 && tries.due(time.Now(), prompted) {
			go func() {
				if greets(trying, port) {
					select {
					case greeted <- struct{}{}:
					default:
					}
				}
			}()
		}
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
// connection and asks the guest for it after 0, 6, 18 and 42 s, whether or not who
// connected is still there (libslirp). Each try has its own, so that none waits for that;
// but all of them reach the server once it listens, which adds up a second for each that
// does not log in, and with 15 of them refuses us for a while (PerSourcePenalties in
// sshd_config(5)). So there are few until the console shows that the guest is up.
const (
	tryEvery     = 2 * time.Second
	tryEverySoon = 500 * time.Millisecond
	soon         = 3 * time.Second // after the prompt
	tryLimit     = 3 * time.Second
)

// pace is when ssh was tried last.
type pace struct{ last time.Time }

// due is whether it is to be tried now, in a guest that prompted then (zero: not yet).
func (p *pace) due(now, prompted time.Time) bool {
	every := tryEvery
	if !prompted.IsZero() && now.Sub(prompted) < soon {
		every = tryEverySoon
	}
	if now.Sub(p.last) < every {
		return false
	}
	p.last = now
	return true
}

// greeting is how a server of ssh begins (RFC 4253, 4.2).
const greeting = "SSH-"

func greets(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
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
