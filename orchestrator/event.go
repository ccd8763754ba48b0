package orchestrator

import (
	"context"
	"fmt"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Kinds of events.
const (
	StageStarted = "stage"
	StageEnded   = "done"
	TaskSeen     = "task"     // of Ansible, or a firmware of the boot test
	Transferred  = "transfer" // how far a file is that is downloaded
	Unchanged    = "unchanged"
	ShellOpened  = "shell" // it has the terminal until it ends
)

// Event is something that people who wait for a build want to see.
type Event struct {
	Kind    string  `json:"kind"`
	Stage   string  `json:"stage"`
	Text    string  `json:"text,omitempty"`
	Status  string  `json:"status,omitempty"` // of a task: started, ok, changed, skipped, cached or failed; of a transfer that has ended: done
	Done    int64   `json:"done,omitempty"`   // bytes of a transfer
	Total   int64   `json:"total,omitempty"`  // 0 for unknown
	Seconds float64 `json:"seconds,omitempty"`
	Failed  bool    `json:"failed,omitempty"`
	Entry   bool    `json:"entry,omitempty"`  // the task is one of Ansible's, for an entry
	Output  string  `json:"output,omitempty"` // of such a task that has ended: what it printed
	Diff    string  `json:"diff,omitempty"`   // and what it has changed in files
	Stored  bool    `json:"stored,omitempty"` // the stage's result was there already
}

// StageTime is how long a stage took.
type StageTime struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
	Stored  bool    `json:"stored,omitempty"` // its result was there already
}

// stages runs the stages of a build: titles, times, cancellation and the
// stage's name in errors are added here and nowhere else.
type stages struct {
	ctx   context.Context
	tell  func(Event)
	times []StageTime
}

// step runs one stage. What it returns is what later stages take, so that a
// wrong order does not compile.
func step[T any](s *stages, title string, stage func(ctx context.Context) (T, error)) (T, error) {
	return stepOr(s, title, func(ctx context.Context) (T, bool, error) {
		result, err := stage(ctx)
		return result, false, err
	})
}

// stepOr is step for a stage that says whether its result was there already.
func stepOr[T any](s *stages, title string, stage func(ctx context.Context) (result T, stored bool, err error)) (T, error) {
	if err := s.ctx.Err(); err != nil {
		var none T
		return none, err
	}
	start := time.Now()
	s.tell(Event{Kind: StageStarted, Stage: title})
	result, stored, err := stage(s.ctx)
	if s.ctx.Err() != nil {
		err = s.ctx.Err()
	}
	seconds := time.Since(start).Seconds()
	s.times = append(s.times, StageTime{title, seconds, stored})
	s.tell(Event{Kind: StageEnded, Stage: title, Seconds: seconds, Failed: err != nil, Stored: stored})
	if err != nil {
		return result, fail.Wrap(fail.Build, title, err)
	}
	return result, nil
}

// tasks tells of the tasks within a stage.
func (s *stages) task(title, status, format string, args ...any) {
	s.tell(Event{Kind: TaskSeen, Stage: title, Status: status, Text: fmt.Sprintf(format, args...)})
}
