package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// message is what the jail sends: an event, or how the work ended.
type message struct {
	Event   *Event      `json:"event,omitempty"`
	Times   []StageTime `json:"times,omitempty"`
	Facts   *DiskFacts  `json:"facts,omitempty"`
	Failure *failure    `json:"failure,omitempty"`
}

// failure is a fail.Error on its way through a pipe.
type failure struct {
	Kind fail.Kind `json:"kind"`
	Text string    `json:"text"`
	Hint string    `json:"hint,omitempty"`
	Tail string    `json:"tail,omitempty"`
}

func newFailure(err error) *failure {
	f := &failure{Kind: fail.Build, Text: err.Error(), Hint: fail.Hint(err), Tail: fail.Tail(err)}
	if e, ok := errors.AsType[*fail.Error](err); ok {
		f.Kind = e.Kind
	}
	return f
}

func (f *failure) err() error {
	return &fail.Error{Kind: f.Kind, Hint: f.Hint, Tail: f.Tail, Err: errors.New(f.Text)}
}

// RunInJail is the main function of the jail's process: it builds the disk
// that its parent asks for.
func RunInJail(provisioner Provisioner) error {
	var j job
	jail, err := host.EnterJail(&j, func() string { return j.Plan.Definition.Hostname })
	if err != nil {
		return err
	}
	h := &host.Local{Log: jail.Log, Devices: j.Devices}
	if err := j.stage(h); err != nil {
		return jail.Send(message{Failure: newFailure(fail.Wrap(fail.Host, "enter the jail", err))})
	}
	s := &stages{ctx: jail.Context, tell: func(e Event) { _ = jail.Send(message{Event: &e}) }}
	facts, err := buildDisk(s, h, provisioner, j, jail.Log)
	if err != nil {
		return jail.Send(message{Failure: newFailure(err), Times: s.times})
	}
	return jail.Send(message{Facts: &facts, Times: s.times})
}

// jailed runs buildDisk in the jail and returns what it found.
func jailed(ctx context.Context, verb string, j job, log *os.File, tell func(Event)) (facts DiskFacts, times []StageTime, err error) {
	var last message
	running := host.RunJail(ctx, []string{verb}, j, log, func(line json.RawMessage) error {
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		if m.Event != nil {
			tell(*m.Event)
			return nil
		}
		last = m
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return facts, last.Times, ctx.Err()
	case last.Failure != nil:
		return facts, last.Times, last.Failure.err()
	case running != nil:
		return facts, last.Times, running
	case last.Facts == nil:
		return facts, last.Times, fail.New(fail.Build, "", "see the log", "the build's process ended without a result")
	}
	return *last.Facts, last.Times, nil
}
