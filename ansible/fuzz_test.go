package ansible

import (
	"bufio"
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestALineHasALimit(t *testing.T) {
	lines := bufio.NewReader(strings.NewReader(strings.Repeat("x", 3*longestLine) + "\nnext\n"))
	first, err := readLine(lines)
	second, _ := readLine(lines)
	if err != nil || len(first) != longestLine || string(second) != "next\n" {
		t.Errorf("%d bytes, %v, then %q", len(first), err, second)
	}
}

// FuzzEvents reads what a tampered Ansible, or a module in a hostile image, may print.
func FuzzEvents(f *testing.F) {
	for _, seed := range []string{
		`{"_event":"v2_playbook_on_task_start","hosts":{},"task":{"name":"[0] Web: packages nginx","path":"/r/roles/x/tasks/main.yml:3"}}`,
		`{"_event":"v2_runner_on_failed","hosts":{"image":{"failed":true,"msg":"MODULE FAILURE","rc":1,"module_stderr":"Traceback\n","exception":"x","results":[{"failed":true,"msg":{"a":1}}]}},"task":{"name":"[99999999999999999999] x"}}`,
		`{"_event":"v2_runner_item_on_failed","hosts":{"image":{"censored":"hidden","ignore_errors":true}},"task":{"name":"a : [1] b"}}`,
		"[WARNING]: noise\n\n{\"half\": ", "{}", "{\"_event\":1}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, printed string) {
		var log bytes.Buffer
		events := 0
		s := newStream(&log, func(e Event) {
			events++
			if e.Status == "" {
				t.Errorf("an event without a status: %+v", e)
			}
		})
		s.projects, s.origins = []string{"/r"}, []string{"install.d/x.yml:1"}
		if err := s.Print(context.Background(), strings.NewReader(printed), nil); err != nil {
			t.Error(err)
		}
		if events > strings.Count(printed, "\n")+1+strings.Count(printed, `"`) {
			t.Errorf("%d events of %d lines", events, strings.Count(printed, "\n")+1)
		}
		if s.failure != nil && (s.failure.Error() == "" || fail.ExitCode(s.failure) != 4 || len(s.lines) > keptLines) {
			t.Errorf("failure %q", s.failure)
		}
	})
}
