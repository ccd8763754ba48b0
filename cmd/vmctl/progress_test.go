package main

import (
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator"
)

// Tasks that take a while say how long, and the slowest of them are named at the end.
func TestSlowTasksAreTold(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var b strings.Builder
		p := newProgress(&b, false)
		p.verbose = verbose
		for _, task := range []struct {
			text   string
			status string
			took   time.Duration
		}{{"a: quick", "ok", 0}, {"b: slow", "changed", 3 * time.Second}, {"c: slower", "ok", 5 * time.Second}, {"d: not done", "skipped", 9 * time.Second}} {
			p.event("web", orchestrator.Event{Kind: orchestrator.TaskSeen, Stage: "Layer web", Status: "started", Text: task.text, Entry: true})
			p.running["web"] = time.Now().Add(-task.took)
			p.event("web", orchestrator.Event{Kind: orchestrator.TaskSeen, Stage: "Layer web", Status: task.status, Text: task.text, Entry: true, Output: "one\n\x1b[31mtwo\n"})
		}
		p.event("web", orchestrator.Event{Kind: orchestrator.TaskSeen, Stage: "Boot test", Status: "ok", Text: "bios: up"})
		p.slowest("web")
		p.close()
		for _, want := range []string{"  ok       a: quick\n", "  changed  b: slow (3.0 s)\n", "  ok       c: slower (5.0 s)\n", "  ok       bios: up\n", "  slowest    5.0 s  c: slower\n  slowest    3.0 s  b: slow\n"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("no %q in\n%s", want, &b)
			}
		}
		if told := strings.Count(b.String(), "           one\n"); told != map[bool]int{false: 0, true: 3}[verbose] || strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), "not done") {
			t.Errorf("verbose %v:\n%s", verbose, &b)
		}
	}
}

func TestASummaryIsShort(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, true)
	m := orchestrator.Manifest{
		Starts: []string{"cron.service", "getty@tty1.service", "a.timer", "b.timer", "x.socket"}, Deferred: []string{"systemctl start nginx", "reboot"},
		FactsRead: map[string][]string{"a:1": {"c", "d"}, "a:2": strings.Split("*abcdefghijklmn", "")},
	}
	p.summary("web", orchestrator.Manifest{})
	p.summary("web", m)
	p.close()
	const want = `  starts   web: cron, getty@tty1, socket: 1, timer: 2
  deferred web: to the first boot: 2 of what entries wanted of a running system
  facts    web: *, a, b, c, d, e, f, g, 7 more
`
	if b.String() != want {
		t.Errorf("%s", &b)
	}
}
