// Package guest is a tree that runs: what its disk holds besides the tree, the agent that
// does what it is asked to do there, and what has changed on the disk afterwards. It starts
// no QEMU, and knows nothing of entries.
package guest

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

//go:embed agent.py
var agentProgram string

// The letters of frames, as agent.py explains them.
const (
	frameRun    = 'R'
	frameInput  = 'I'
	frameEnd    = 'E'
	frameKill   = 'K'
	frameFreeze = 'F'
	frameThaw   = 'T'
	frameOff    = 'O'
	frameUp     = 'H'
	frameOutput = 'o'
	frameError  = 'e'
	frameExit   = 'X'
	frameDone   = 'D'
	frameWanted = 'W'
	framePart   = 'w'
)

// largestFrame is how much a frame may hold, in bytes.
const largestFrame = 1 << 20

type frame struct {
	letter  byte
	content []byte
}

func readFrame(r io.Reader) (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > largestFrame {
		return frame{}, fmt.Errorf("a frame of %d bytes", size)
	}
	f := frame{head[0], make([]byte, size)}
	_, err := io.ReadFull(r, f.content)
	return f, err
}

func (f frame) write(w io.Writer) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32([]byte{f.letter}, uint32(len(f.content))), f.content...))
	return err
}

// Agent is the connection to what runs in a guest. It does one thing after the other, and
// meanwhile gives the guest what it wants.
type Agent struct {
	port   net.Conn
	frames chan frame // of the guest, but for what it wants
	gone   error      // once frames is closed
	busy   sync.Mutex
}

// Kept reads a file by its digest, which the guest says, as io.ReaderAt reads.
type Kept func(sha256 string, into []byte, offset int64) (int, error)

// Connect talks to a guest through its port, from its start on. The port is closed when ctx
// ends.
func Connect(ctx context.Context, port net.Conn, kept Kept) *Agent {
	context.AfterFunc(ctx, func() { port.Close() })
	a := &Agent{port: port, frames: make(chan frame)}
	go func() {
		defer close(a.frames)
		a.gone = a.listen(ctx, kept)
	}()
	return a
}

// listen passes on what the guest says, until it is gone.
func (a *Agent) listen(ctx context.Context, kept Kept) error {
	from := bufio.NewReader(a.port)
	for {
		f, err := readFrame(from)
		if err == nil && f.letter == frameWanted {
			if err = a.give(f, kept); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		select {
		case a.frames <- f:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const partSize = 256 << 10 // bytes

// give answers with a part of a file.
func (a *Agent) give(wanted frame, kept Kept) error {
	var of struct {
		SHA256 string `json:"sha256"`
		Offset int64  `json:"offset"`
	}
	if err := json.Unmarshal(wanted.content, &of); err != nil {
		return fmt.Errorf("the guest's agent wants %q: %w", wanted.content, err)
	}
	part := frame{framePart, make([]byte, partSize)}
	n, _ := kept(of.SHA256, part.content, of.Offset) // it does without what cannot be read
	part.content = part.content[:n]
	return part.write(a.port)
}

// next is what the guest says next.
func (a *Agent) next() (frame, error) {
	if f, ok := <-a.frames; ok {
		return f, nil
	}
	return frame{}, a.gone
}

// State is what systemd says of a guest that is up.
type State struct {
	State  string   `json:"state"` // as systemctl is-system-running
	Failed []string `json:"failed"`
}

// Up waits until the guest is up. A connection that ends tells that it is no more.
func (a *Agent) Up() (s State, err error) {
	f, err := a.next()
	if err == nil && f.letter != frameUp {
		err = fmt.Errorf("the guest's agent begins with %q", f.letter)
	}
	if err == nil {
		err = json.Unmarshal(f.content, &s)
	}
	return s, err
}

// Freeze makes all that the guest has written be on its disk, and has it write nothing
// until Thaw.
func (a *Agent) Freeze() error { return a.ask(frameFreeze) }

// Thaw ends Freeze.
func (a *Agent) Thaw() error { return a.ask(frameThaw) }

// Off has the guest switch itself off.
func (a *Agent) Off() error { return a.ask(frameOff) }

func (a *Agent) ask(letter byte) error {
	a.busy.Lock()
	defer a.busy.Unlock()
	if err := (frame{letter: letter}).write(a.port); err != nil {
		return err
	}
	f, err := a.next()
	switch {
	case err != nil:
		return err
	case f.letter != frameDone:
		return fmt.Errorf("the guest's agent answers with %q", f.letter)
	case len(f.content) > 0:
		return errors.New(string(f.content))
	}
	return nil
}

// Run runs a command in the guest, with no input, and is what it prints.
func (a *Agent) Run(command string, output io.Writer) (code int, err error) {
	order, err := json.Marshal(map[string]any{"command": command, "env": map[string]string{}})
	if err != nil {
		return 0, err
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	go a.relay(theirs)
	if err := errors.Join(frame{frameRun, order}.write(ours), frame{letter: frameEnd}.write(ours)); err != nil {
		return 0, err
	}
	for {
		f, err := readFrame(ours)
		switch {
		case err != nil:
			return 0, err
		case f.letter == frameExit:
			return strconv.Atoi(string(f.content))
		}
		if _, err := output.Write(f.content); err != nil {
			return 0, err
		}
	}
}

// Serve lets others run commands in the guest, with the same frames, until the listener is
// closed.
func (a *Agent) Serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go a.relay(client)
	}
}

// relay does what a client asks for, until it goes. One that goes while its command runs
// has it killed.
func (a *Agent) relay(client net.Conn) {
	defer client.Close()
	for {
		order, err := readFrame(client)
		if err != nil || order.letter != frameRun {
			return
		}
		if err := a.pass(client, order); err != nil {
			return
		}
	}
}

// pass passes a command and its input to the guest, and back what it prints.
func (a *Agent) pass(client net.Conn, order frame) error {
	a.busy.Lock()
	defer a.busy.Unlock()
	if err := order.write(a.port); err != nil {
		return err
	}
	var input sync.WaitGroup
	input.Go(func() {
		for {
			f, err := readFrame(client)
			if err != nil || f.letter != frameInput && f.letter != frameEnd {
				_ = errors.Join(frame{letter: frameKill}.write(a.port), frame{letter: frameEnd}.write(a.port))
				return
			}
			if f.write(a.port) != nil || f.letter == frameEnd {
				return
			}
		}
	})
	defer input.Wait()
	var gone error // the client; what its command still prints is read all the same
	for {
		f, err := a.next()
		if err != nil {
			client.Close() // ends the input, too
			return err
		}
		switch {
		case f.letter != frameOutput && f.letter != frameError && f.letter != frameExit:
			client.Close()
			return fmt.Errorf("the guest's agent answers with %q", f.letter)
		case gone == nil:
			gone = f.write(client)
		}
		if f.letter == frameExit {
			return gone
		}
	}
}
