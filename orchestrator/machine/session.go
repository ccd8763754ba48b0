package machine

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Session is root's shell at a machine's serial console. There is no way but the screen: each
// command ends by printing a mark, which is not in what is typed, as the shell works it out.
type Session struct {
	console *net.UnixConn
	rest    []byte // what the console said after the last mark
	marks   int
}

const (
	// greetLimit is how long a shell may take to answer for the first time.
	greetLimit = 2 * time.Minute
	greetAgain = 10 * time.Second
	typeLimit  = time.Minute
	// typedAtOnce is how many bytes of a file a line has: a terminal takes lines of 4095 bytes
	// (N_TTY of Linux).
	typedAtOnce = 2 << 10
	// longestUnmarked is how much is kept of what a console says, in bytes.
	longestUnmarked = 64 << 10
)

// silence keeps the kernel, and systemd (systemd(1), SIGRTMIN+21), from talking in between.
const silence = "dmesg -n 1; [ ! -d /run/systemd/system ] || kill -55 1"

// Session makes a shell of what is at the prompt of the console.
func (m Machine) Session(ctx context.Context) (s *Session, release func(), err error) {
	console, release, err := m.Attach()
	if err != nil {
		return nil, nil, err
	}
	s = &Session{console: console}
	for begun := time.Now(); ; {
		mark := s.nextMark()
		// A shell that neither edits its line nor has a prompt.
		_, err = s.until(ctx, greetAgain, "\nexec sh\nPS1= PS2=; stty -echo; "+silence+"; "+mark.typed+"\n", mark, io.Discard)
		if err == nil || ctx.Err() != nil || time.Since(begun) > greetLimit {
			break
		}
	}
	if err != nil {
		release()
		if ctx.Err() == nil {
			err = &fail.Error{Kind: fail.Build, Op: "console of " + m.Name, Err: fmt.Errorf("no shell answers at the prompt: %w", err), Hint: "root is logged in there by systemd 256 or newer; give --via ssh", Tail: m.LastOfConsole()}
		}
		return nil, nil, err
	}
	return s, release, nil
}

// LastOfConsole is the last lines that the console said.
func (m Machine) LastOfConsole() string {
	file, err := os.Open(m.ConsoleLog())
	if err != nil {
		return ""
	}
	defer file.Close()
	return lastLines(tailOf(file, 0), tailLines)
}

// mark is what ends a command: typed, and as the console has it, with an exit code.
type mark struct {
	typed string
	seen  *regexp.Regexp
}

func (s *Session) nextMark() mark {
	s.marks++
	return mark{fmt.Sprintf("code=$?; echo; echo vmctl-$((%d+1))-$code-", s.marks), regexp.MustCompile(fmt.Sprintf(`\r*\n?vmctl-%d-(\d+)-\r*\n`, s.marks+1))}
}

// until types a text and passes on what the console says until the mark, which tells the exit
// code. No limit is 0.
func (s *Session) until(ctx context.Context, limit time.Duration, text string, end mark, out io.Writer) (code int, err error) {
	defer context.AfterFunc(ctx, func() { _ = s.console.SetDeadline(time.Unix(1, 0)) })()
	deadline := time.Time{}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	if err := s.console.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if _, err := io.WriteString(s.console, text); err != nil {
		return 0, err
	}
	buffer := make([]byte, 4<<10)
	for {
		if found := end.seen.FindSubmatchIndex(s.rest); found != nil {
			code, err := strconv.Atoi(string(s.rest[found[2]:found[3]]))
			if err == nil {
				_, err = out.Write(s.rest[:found[0]])
			}
			s.rest = bytes.Clone(s.rest[found[1]:])
			return code, err
		}
		// Whole lines are passed on; the last one may be the beginning of the mark.
		if line := bytes.LastIndexByte(s.rest, '\n'); line > 0 {
			line = bytes.LastIndexByte(s.rest[:line], '\n') + 1 // and the empty one before it
			if _, err := out.Write(s.rest[:line]); err != nil {
				return 0, err
			}
			s.rest = bytes.Clone(s.rest[line:])
		}
		if len(s.rest) > longestUnmarked {
			s.rest = bytes.Clone(s.rest[len(s.rest)-longestUnmarked/2:])
		}
		n, err := s.console.Read(buffer)
		s.rest = append(s.rest, buffer[:n]...)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return 0, err
		}
	}
}

// Run runs a program, whose text is given, without input. It passes on what that prints, and
// tells its exit code. The program is in a folder of its own in /var/tmp until it has ended.
func (s *Session) Run(ctx context.Context, program []byte, out io.Writer) (code int, err error) {
	commands := []string{`umask 077; dir=$(mktemp -d /var/tmp/vmctl-XXXXXXXX)`}
	text := base64.StdEncoding.EncodeToString(program)
	for at := 0; at < len(text); at += typedAtOnce {
		commands = append(commands, "printf %s "+text[at:min(at+typedAtOnce, len(text))]+` >>"$dir/text"`)
	}
	commands = append(commands, `base64 -d "$dir/text" >"$dir/script" && chmod 700 "$dir/script"; umask 022; cd /root`)
	for _, command := range commands {
		mark := s.nextMark()
		said := &bytes.Buffer{}
		code, err := s.until(ctx, typeLimit, command+"; "+mark.typed+"\n", mark, said)
		if err == nil && code != 0 {
			err = fail.New(fail.Build, "", "", "the guest does not take the program: %s", boottest.LastLines(said.Bytes(), 1))
		}
		if err != nil {
			return 0, err
		}
	}
	end := s.nextMark()
	return s.until(ctx, 0, `"$dir/script" </dev/null 2>&1; code=$?; rm -rf "$dir"; (exit $code); `+end.typed+"\n", end, out)
}

// Type types a line, and waits for nothing.
func (s *Session) Type(line string) error {
	_, err := io.WriteString(s.console, line+"\n")
	return err
}
