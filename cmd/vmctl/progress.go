package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish/registry"
)

// progress shows events: live on a terminal, else one line per step, in
// sections that fold under GitLab CI.
type progress struct {
	mu      sync.Mutex
	w       io.Writer
	names   bool // several builds: say which
	style   style
	live    string // what the terminal's last line shows
	started time.Time
	moving  map[string]*movement // transfers that are running
	verbose bool                 // show what tasks print
	running map[string]time.Time // when each build's task began
	longest map[string][]timed   // tasks of each build that took a while, the slowest first
	stop    chan struct{}
}

type style int

const (
	plainLines style = iota
	liveTerminal
	gitlabSections
)

const (
	clearLine    = "\r\x1b[K"
	redrawPeriod = 500 * time.Millisecond
)

func newProgress(w io.Writer, names bool) *progress {
	p := &progress{w: w, names: names, stop: make(chan struct{}), running: map[string]time.Time{}, longest: map[string][]timed{}}
	file, isFile := w.(*os.File)
	switch {
	case os.Getenv("GITLAB_CI") == "true":
		p.style = gitlabSections
	case isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb":
		p.style = liveTerminal
		go p.redraw()
	}
	return p
}

func (p *progress) close() {
	close(p.stop)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.live = ""
}

func (p *progress) redraw() {
	ticker := time.NewTicker(redrawPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// draw shows the line that changes; clear takes it away for a line that stays.
func (p *progress) draw() {
	if p.style != liveTerminal || p.live == "" {
		return
	}
	line := fmt.Sprintf("%5.0f s  %s", time.Since(p.started).Seconds(), text.Line(p.live))
	width := 80
	if file, ok := p.w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 10 {
			width = columns
		}
	}
	if runes := []rune(line); len(runes) >= width {
		line = string(runes[:width-1])
	}
	fmt.Fprint(p.w, clearLine, line)
}

func (p *progress) clear() {
	if p.style == liveTerminal {
		fmt.Fprint(p.w, clearLine)
	}
}

func (p *progress) line(format string, args ...any) {
	p.clear()
	fmt.Fprintln(p.w, cut(text.Line(fmt.Sprintf(format, args...))))
}

// note shows a line that belongs to no step.
func (p *progress) note(name, note string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line("%s%s", p.prefix(name), note)
}

func (p *progress) prefix(name string) string {
	if p.names {
		return name + ": "
	}
	return ""
}

func (p *progress) event(name string, e orchestrator.Event) {
	if e.Kind == orchestrator.Transferred {
		p.transfer(registry.Event{Item: p.prefix(name) + e.Text, Done: e.Done, Total: max(e.Done, e.Total), Ended: e.Status == "done"})
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	title := p.prefix(name) + e.Stage
	switch e.Kind {
	case orchestrator.StageStarted:
		p.live, p.started = title, time.Now()
		if p.style == gitlabSections {
			fmt.Fprintf(p.w, "section_start:%d:%s[collapsed=true]%s%s\n", time.Now().Unix(), sectionName(title), clearLine, text.Line(title))
		}
	case orchestrator.StageEnded:
		p.live = ""
		status := "done"
		switch {
		case e.Failed:
			status = "failed"
		case e.Stored:
			status = "cached"
		}
		if p.style == gitlabSections {
			fmt.Fprintf(p.w, "section_end:%d:%s%s\n", time.Now().Unix(), sectionName(title), clearLine)
		}
		p.line("%-8s %6.1f s  %s", status, e.Seconds, title)
	case orchestrator.Unchanged:
		p.line("%sunchanged: the images of the build before stay", p.prefix(name))
	case orchestrator.TaskSeen:
		p.task(name, title, e)
	case orchestrator.ShellOpened:
		p.live = "" // the screen is the shell's
		for line := range strings.Lines(e.Text) {
			p.line("%s", strings.TrimSuffix(line, "\n"))
		}
		p.line("%sa shell in the tree as the failure left it: the build ends when you leave it", p.prefix(name))
	}
	p.draw()
}

// task shows a task when it has ended, and while it runs on a terminal.
func (p *progress) task(name, title string, e orchestrator.Event) {
	what := strings.TrimSpace(e.Text)
	switch e.Status {
	case "started":
		p.live = title + ": " + e.Text
		p.running[name] = time.Now()
		return
	case "skipped":
		delete(p.running, name)
		return
	case "ok", "changed", "failed":
		if e.Entry {
			what += p.took(name, what)
		}
	}
	p.line("  %-8s %s%s", e.Status, p.prefix(name), what)
	if p.verbose {
		p.lines(e.Output)
	}
	p.lines(e.Diff)
}

// lines shows a text below a task.
func (p *progress) lines(text string) {
	for line := range strings.Lines(text) {
		p.line("  %-8s %s", "", strings.TrimRight(line, "\r\n"))
	}
}

// timed is a task that took a while.
type timed struct {
	took time.Duration
	what string
}

const (
	aWhile      = time.Second // that a task takes before people are told
	mostSlowest = 5
)

// took is how long the task of a build took that has just ended, for its line.
func (p *progress) took(name, what string) string {
	began, running := p.running[name]
	delete(p.running, name)
	took := time.Since(began)
	if !running || took < aWhile {
		return ""
	}
	p.longest[name] = append(p.longest[name], timed{took, what})
	return fmt.Sprintf(" (%.1f s)", took.Seconds())
}

// slowest shows which tasks of a build took longest, where there is a choice.
func (p *progress) slowest(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tasks := p.longest[name]
	slices.SortStableFunc(tasks, func(a, b timed) int { return cmp.Compare(b.took, a.took) })
	if len(tasks) < 2 {
		return
	}
	for _, t := range tasks[:min(len(tasks), mostSlowest)] {
		p.line("  %-8s %5.1f s  %s%s", "slowest", t.took.Seconds(), p.prefix(name), t.what)
	}
}

// mostNames is how many names a line of a summary has.
const mostNames = 8

// summary shows what build.json tells of how the machine will start, and what entries read of
// it.
func (p *progress) summary(name string, m orchestrator.Manifest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var services []string
	others := map[string]int{}
	for _, unit := range m.Starts {
		if service, is := strings.CutSuffix(unit, ".service"); is {
			services = append(services, service)
		} else {
			others[strings.TrimPrefix(filepath.Ext(unit), ".")]++
		}
	}
	starts := some(services)
	for _, kind := range slices.Sorted(maps.Keys(others)) {
		starts = append(starts, fmt.Sprintf("%s: %d", kind, others[kind]))
	}
	var facts []string
	for _, names := range m.FactsRead {
		facts = append(facts, names...)
	}
	slices.Sort(facts)
	var deferred []string
	if n := len(m.Deferred); n > 0 {
		deferred = []string{fmt.Sprintf("to the first boot: %d of what entries wanted of a running system", n)}
	}
	for _, line := range []struct {
		title string
		words []string
	}{{"starts", starts}, {"deferred", deferred}, {"facts", some(slices.Compact(facts))}} {
		if len(line.words) > 0 {
			p.line("  %-8s %s%s", line.title, p.prefix(name), strings.Join(line.words, ", "))
		}
	}
}

// some is as many names as a line has, and how many more there are.
func some(names []string) []string {
	if len(names) <= mostNames {
		return names
	}
	return append(slices.Clone(names[:mostNames]), fmt.Sprintf("%d more", len(names)-mostNames))
}

func sectionName(title string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(title))
}

// movement is a transfer as it is shown.
type movement struct {
	started time.Time
	first   int64 // bytes that were there before
	shown   time.Time
}

// linePeriod is how often a transfer gets a line where there is no terminal.
const linePeriod = 10 * time.Second

// transfer shows how far a transfer is, its rate and what time it still needs.
func (p *progress) transfer(e registry.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Item == "" {
		p.line("  %-8s %s", "note", e.Note)
		p.draw()
		return
	}
	m := p.moving[e.Item]
	if m == nil {
		now := time.Now()
		m = &movement{started: now, first: e.Done, shown: now}
		if p.moving == nil {
			p.moving = map[string]*movement{}
		}
		p.moving[e.Item] = m
		p.started = now
	}
	seconds := time.Since(m.started).Seconds()
	rate := float64(e.Done-m.first) / max(seconds, 0.001)
	switch {
	case e.Ended && e.Note != "":
		p.line("%-8s %9.1f MB  %s: %s", "skipped", float64(e.Total)/1e6, e.Item, e.Note)
	case e.Ended:
		p.line("%-8s %9.1f MB  %s in %.1f s, %.0f MB/s", "done", float64(e.Total)/1e6, e.Item, seconds, float64(e.Total-m.first)/max(seconds, 0.001)/1e6)
	default:
		moved := fmt.Sprintf("%s: %.1f of %.1f MB, %.0f %%, %.1f MB/s", e.Item, float64(e.Done)/1e6, float64(e.Total)/1e6, 100*float64(e.Done)/float64(max(e.Total, 1)), rate/1e6)
		if rate > 0 && seconds > 1 {
			moved += fmt.Sprintf(", %s left", (time.Duration(float64(e.Total-e.Done)/rate) * time.Second).Round(time.Second))
		}
		p.live = moved
		if p.style != liveTerminal && time.Since(m.shown) >= linePeriod {
			m.shown = time.Now()
			p.line("  %s", moved)
		}
	}
	if e.Ended {
		delete(p.moving, e.Item)
		p.live = ""
	}
	p.draw()
}
