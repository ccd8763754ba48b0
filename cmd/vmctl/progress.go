package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator"
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
	p := &progress{w: w, names: names, stop: make(chan struct{})}
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
	line := fmt.Sprintf("%5.0f s  %s", time.Since(p.started).Seconds(), p.live)
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
	fmt.Fprintf(p.w, format+"\n", args...)
}

// note shows a line that belongs to no step.
func (p *progress) note(name, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line("%s%s", p.prefix(name), text)
}

func (p *progress) prefix(name string) string {
	if p.names {
		return name + ": "
	}
	return ""
}

func (p *progress) event(name string, e orchestrator.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	title := p.prefix(name) + e.Stage
	switch e.Kind {
	case orchestrator.StageStarted:
		p.live, p.started = title, time.Now()
		if p.style == gitlabSections {
			fmt.Fprintf(p.w, "section_start:%d:%s[collapsed=true]%s%s\n", time.Now().Unix(), sectionName(title), clearLine, title)
		}
	case orchestrator.StageEnded:
		p.live = ""
		status := "done"
		if e.Failed {
			status = "failed"
		}
		if p.style == gitlabSections {
			fmt.Fprintf(p.w, "section_end:%d:%s%s\n", time.Now().Unix(), sectionName(title), clearLine)
		}
		p.line("%-8s %6.1f s  %s", status, e.Seconds, title)
	case orchestrator.TaskSeen:
		p.task(name, title, e)
	}
	p.draw()
}

// task shows a task when it has ended, and while it runs on a terminal.
func (p *progress) task(name, title string, e orchestrator.Event) {
	switch e.Status {
	case "started":
		p.live = title + ": " + e.Text
	case "skipped":
	default:
		p.line("  %-8s %s%s", e.Status, p.prefix(name), strings.TrimSpace(e.Text))
	}
}

func sectionName(title string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(title))
}
