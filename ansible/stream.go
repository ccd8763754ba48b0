package ansible

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/apenella/go-ansible/v2/pkg/execute/result"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Event is one thing that happened in a run.
type Event struct {
	Origin string `json:"origin,omitempty"` // file:line of the entry, where known
	Task   string `json:"task"`
	Status string `json:"status"`           // started, ok, changed, skipped or failed
	Output string `json:"output,omitempty"` // what the task and its items printed, or its end
	Diff   string `json:"diff,omitempty"`   // what it has changed in files, or the begin of that
}

// How much of them an event has, in bytes.
const (
	longestOutput = 16 << 10
	longestDiff   = 64 << 10
)

// stream reads what ansible-playbook prints: lines that are JSON documents are
// events, all else goes to the log. It implements go-ansible's ResultsOutputer
// and never fails, since a failed reader would leave the process blocked.
type stream struct {
	mu      sync.Mutex
	log     io.Writer
	onEvent func(Event)
	// projects is the folders that hold roles and playbooks, "" for none.
	projects []string
	origins  []string // of the entries
	guest    bool     // entries are applied in one, where services run
	origin   string   // of the last task that named one, for tasks of roles
	diff     string   // of the task that is about to end
	failure  error    // last task that failed: one before it was rescued
	begun    string   // origin of the entry that began last
	fatal    []string // what Ansible said last that is an error of its own
	lost     bool     // the last failure is that the image could not be reached
	lines    []string
}

const keptLines = 15

func newStream(log io.Writer, onEvent func(Event)) *stream {
	if log == nil {
		log = io.Discard
	}
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	return &stream{log: log, onEvent: onEvent}
}

// Print implements go-ansible's ResultsOutputer.
func (s *stream) Print(_ context.Context, reader io.Reader, _ io.Writer, _ ...result.OptionsFunc) error {
	lines := bufio.NewReader(reader)
	for {
		line, err := readLine(lines)
		if len(bytes.TrimSpace(line)) > 0 {
			s.line(bytes.TrimRight(line, "\r\n"))
		}
		if err != nil {
			return nil
		}
	}
}

// longestLine is how much of a line is kept, in bytes: an event holds all that a task
// printed.
const longestLine = 16 << 20

// readLine reads a line, and drops what is too much of it.
func readLine(lines *bufio.Reader) (line []byte, err error) {
	for {
		part, err := lines.ReadSlice('\n')
		line = append(line, part[:min(len(part), longestLine-len(line))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// document is the part of an event of ansible.posix.jsonl that is used here.
type document struct {
	Event string `json:"_event"`
	Task  struct {
		Name string `json:"name"`
		Path string `json:"path"` // file:line of the task itself
	} `json:"task"`
	Hosts map[string]outcome `json:"hosts"`
	Diff  string             `json:"diff"` // of an event of ours
}

// outcome is a task's result on the image.
type outcome struct {
	Action       string          `json:"action"`
	Changed      bool            `json:"changed"`
	Failed       bool            `json:"failed"`
	Skipped      bool            `json:"skipped"`
	IgnoreErrors bool            `json:"ignore_errors"`
	Message      json.RawMessage `json:"msg"`
	Stdout       string          `json:"stdout"`
	Stderr       string          `json:"stderr"`
	ModuleStdout string          `json:"module_stdout"`
	ModuleStderr string          `json:"module_stderr"`
	Reason       string          `json:"reason"`
	Exception    string          `json:"exception"`
	Results      []outcome       `json:"results"`
	Censored     string          `json:"censored"`
	Return       *int            `json:"rc"`
	Item         json.RawMessage `json:"item"`
	ToldAlways   bool            `json:"_ansible_verbose_always"`

	told string // what debug was to tell: a message, or a variable
}

// UnmarshalJSON also reads what debug tells, whose key is the name of a variable.
func (o *outcome) UnmarshalJSON(content []byte) error {
	type plain outcome
	if err := json.Unmarshal(content, (*plain)(o)); err != nil || !o.ToldAlways {
		return err
	}
	if o.told = text(o.Message); o.Message != nil {
		return nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(content, &keys); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if !strings.HasPrefix(name, "_ansible_") && !slices.Contains(besideVariable, name) {
			o.told = name + ": " + text(keys[name])
		}
	}
	return nil
}

// besideVariable is what else a result has in which debug tells a variable.
var besideVariable = []string{"action", "changed", "failed", "item", "ansible_loop_var", "ansible_index_var", "ansible_loop", "warnings", "deprecations"}

// debugAction is the module that tells what it was given.
var debugAction = regexp.MustCompile(`^(?:ansible\.(?:builtin|legacy)\.)?debug$`)

// printed has what debug tells stand where what programs print does.
func (o outcome) printed() outcome {
	if len(o.Results) == 0 {
		o.Stdout = o.told
	}
	o.Results = slices.Clone(o.Results)
	for i := range o.Results {
		o.Results[i].Stdout = o.Results[i].told
	}
	return o
}

func (s *stream) line(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var d document
	if line[0] != '{' || json.Unmarshal(line, &d) != nil || d.Event == "" {
		fmt.Fprintf(s.log, "%s\n", line)
		s.lines = append(s.lines, string(line))
		if len(s.lines) > keptLines {
			s.lines = s.lines[1:]
		}
		s.afterFatal(string(line))
		return
	}
	s.document(d)
}

// originPattern is the start of the names of our own tasks: the entry's number. Its
// file and line would be rendered as a template there.
var originPattern = regexp.MustCompile(`^(?:.* : )?\[([0-9]+)\] (.*)$`)

// factsTask comes before an entry: Ansible finds out about the image.
const factsTask = "facts"

// diffEvent comes from the callback plugin before a task ends that has changed files.
const diffEvent = "vmctl_diff"

// document turns an event of Ansible into one of ours.
func (s *stream) document(d document) {
	if d.Event == diffEvent {
		s.diff += d.Diff // of each item of a loop
		return
	}
	task := d.Task.Name
	if parts := originPattern.FindStringSubmatch(task); parts != nil {
		s.origin, task = s.originOf(parts[1]), parts[2]
	} else {
		task += s.place(d.Task.Path)
	}
	if task == factsTask && !strings.HasSuffix(d.Event, "failed") {
		return
	}
	switch d.Event {
	case "v2_playbook_on_task_start":
		s.onEvent(Event{Origin: s.origin, Task: task, Status: "started"})
	case "v2_runner_on_ok", "v2_runner_on_failed", "v2_runner_on_skipped", "v2_runner_on_unreachable",
		"v2_runner_item_on_ok", "v2_runner_item_on_failed":
		for _, o := range d.Hosts {
			s.outcome(d.Event, task, o)
		}
	}
}

// place is where a task of a role or playbook is written.
func (s *stream) place(path string) string {
	for _, project := range s.projects {
		if place, err := filepath.Rel(project, path); project != "" && err == nil && filepath.IsLocal(place) {
			return " (" + place + ")"
		}
	}
	return ""
}

func (s *stream) originOf(number string) string {
	n, err := strconv.Atoi(number)
	if err != nil || n >= len(s.origins) {
		return number
	}
	return s.origins[n]
}

func (s *stream) outcome(event, task string, o outcome) {
	status := "ok"
	switch {
	case strings.HasSuffix(event, "failed"), strings.HasSuffix(event, "unreachable"):
		status = "failed"
	case o.Skipped || strings.HasSuffix(event, "skipped"):
		status = "skipped"
	case o.Changed:
		status = "changed"
	}
	fmt.Fprintf(s.log, "%s: [%s] %s\n", status, s.origin, task)
	if o.Action == pluginAction {
		s.items(task, o.Results)
	}
	debugs := debugAction.MatchString(o.Action) && status == "ok"
	if debugs {
		o = o.printed()
	}
	output := o.output()
	logged := output
	if debugs {
		logged = o.shown(output)
	}
	if logged != "" {
		fmt.Fprintln(s.log, logged)
	}
	diff := strings.TrimRight(s.diff, "\n")
	s.diff = ""
	if diff != "" {
		fmt.Fprintln(s.log, diff)
	}
	if strings.Contains(event, "item") {
		return // the task's own event follows and speaks for all items
	}
	if status != "failed" && strings.Contains(o.Action, "include_") {
		return // not a task of the user's
	}
	s.onEvent(Event{Origin: s.origin, Task: task, Status: status, Output: o.shown(output), Diff: begin(diff, longestDiff)})
	if status == "failed" && !o.IgnoreErrors {
		s.failure, s.lost = s.taskFailure(task, o), strings.HasSuffix(event, "unreachable")
		fmt.Fprintln(s.log, s.failure)
	}
}

// output is all that the task printed.
func (o outcome) output() string {
	var all []string
	for _, text := range []string{o.Stdout, o.Stderr, o.ModuleStdout, o.ModuleStderr, withoutTemplates(o.Exception)} {
		if text != "" {
			all = append(all, strings.TrimRight(text, "\n"))
		}
	}
	return strings.Join(all, "\n")
}

// shown is what people see of the result who want to see it: what its items became, and what
// they and the task itself printed.
func (o outcome) shown(output string) string {
	var all []string
	for _, item := range o.Results {
		all = append(all, strings.TrimRight(item.status()+" => "+text(item.Item)+"\n"+item.output(), "\n"))
	}
	if output != "" {
		all = append(all, output)
	}
	whole := strings.Join(all, "\n")
	return strings.ToValidUTF8(whole[max(0, len(whole)-longestOutput):], "")
}

// begin is as many bytes of a text, at most, as make whole lines.
func begin(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:strings.LastIndexByte(text[:most], '\n')+1] + "…"
}

// status is what became of an item.
func (o outcome) status() string {
	switch {
	case o.Failed:
		return "failed"
	case o.Skipped:
		return "skipped"
	case o.Changed:
		return "changed"
	}
	return "ok"
}

// items writes into the log what became of each item of a part of an entry.
func (s *stream) items(task string, items []outcome) {
	for _, item := range items {
		fmt.Fprintf(s.log, "%s: [%s] %s => %s\n", item.status(), s.origin, task, text(item.Item))
	}
}

// taskFailure is the error for a failed task, told by the item that failed
// where the task is a loop.
func (s *stream) taskFailure(task string, o outcome) error {
	origin, action := s.origin, o.Action
	for _, item := range o.Results {
		if item.Failed {
			o = item
			break
		}
	}
	if o.Censored != "" {
		return &fail.Error{
			Kind: fail.Build, Op: strings.TrimPrefix(origin+": "+task, ": "), Err: errors.New("the task failed; no_log hides why"),
			Hint: "run it once with no_log: false, with values that are no secrets",
		}
	}
	what := strings.TrimSpace(cmp.Or(withoutTemplates(text(o.Message)), o.Reason, "the task failed"))
	if strings.HasPrefix(what, "MODULE FAILURE") {
		what = cmp.Or(lastLines(o.ModuleStderr+o.ModuleStdout, 1), lastLines(o.Exception, 1), what)
	}
	if o.Return != nil {
		what = fmt.Sprintf("%s (exit status %d)", strings.TrimSuffix(what, "."), *o.Return)
	}
	failure := &fail.Error{Kind: fail.Build, Op: strings.TrimPrefix(origin+": "+task, ": "), Tail: o.tail(what), Err: errors.New(what)}
	if !s.guest && (talks.MatchString(action) || refused.MatchString(what+failure.Tail)) {
		failure.Hint = "no service runs in a tree: give the entry 'on: boot', which applies it in a guest"
	}
	if needsVault.MatchString(what + failure.Tail) {
		failure.Hint = hintVault
	}
	return failure
}

// needsVault is what Ansible says of what it cannot decrypt.
var needsVault = regexp.MustCompile(`(?i)no vault secrets (?:were )?found|Decryption failed`)

const hintVault = "name the file with the right password with --vault-password-file or VMCTL_VAULT_PASSWORD_FILE"

var (
	// talks is modules that wait for a service, or talk to one.
	talks = regexp.MustCompile(`(?:^|\.)(?:wait_for|uri|(?:postgresql|mysql|mongodb|proxysql|rabbitmq|grafana|zabbix|redis|elasticsearch|influxdb|consul)_\w+|docker_\w+)$`)
	// refused is what those say, and programs too, where there is none.
	refused = regexp.MustCompile(`(?i)connection refused|could not connect to server|can't connect to (?:local )?\S* ?server|connection to server .* failed|cannot connect to the docker daemon|no such file or directory\s+is the server running|has not been booted with systemd|failed to connect to (?:system scope )?bus`)
)

// tail is the last lines of the program that the task ran, where they say more than
// the message does. What a module itself printed, such as a traceback, is in the log.
func (o outcome) tail(message string) string {
	if o.Exception != "" || o.ModuleStderr != "" {
		return ""
	}
	output := cmp.Or(strings.TrimSpace(o.Stderr), strings.TrimSpace(o.Stdout))
	if strings.Contains(message, output) {
		return ""
	}
	return lastLines(output, keptLines)
}

// quotedTemplates is where Ansible's messages quote what it could not render: the
// text itself, and the whole list or mapping that holds it, which is the layer.
var quotedTemplates = regexp.MustCompile(`(?s)An unhandled exception occurred while templating '.*'\. Error was a <class '[^']*'>, original message: |\.? String: .*`)

// withoutTemplates is the message without values of the definition, which may be
// secret, whatever no_log says of the task: they are rendered before it is.
func withoutTemplates(message string) string { return quotedTemplates.ReplaceAllString(message, "") }

// text is a message, which modules give as a string or as any other value.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// fatalMarks is what Ansible begins the reason with why it gives up: 2.14, and 2.19.
var fatalMarks = []string{"ERROR! ", "[ERROR]: "}

// afterFatal keeps a line that says why Ansible gives up, and those after it.
func (s *stream) afterFatal(line string) {
	for _, mark := range fatalMarks {
		if message, ok := strings.CutPrefix(line, mark); ok {
			s.fatal = []string{message}
			return
		}
	}
	if len(s.fatal) > 0 && len(s.fatal) < keptLines {
		s.fatal = append(s.fatal, line)
	}
}

// fatalPlace is where Ansible says that the mistake is.
var fatalPlace = regexp.MustCompile(`(?m)^Origin: (.+?):([0-9]+)(?::[0-9]+)?$|The error appears to be in '(.+)': line ([0-9]+)`)

// The exit status of ansible-playbook where events tell why: tasks have failed, or the image could
// not be reached. The second is that of playbooks that cannot be read, too.
const (
	tasksFailed = 2
	unreachable = 4
)

// whyFailed is the error of a run that ended with err: what ended it, be that a task or not. What
// Ansible prints and its events come by two ways, in any order.
func (s *stream) whyFailed(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := -1 // of what was killed, too
	if exit, exited := errors.AsType[*exec.ExitError](err); exited {
		status = exit.ExitCode()
	}
	if s.failure != nil && (len(s.fatal) == 0 || status < 0 || status == tasksFailed || status == unreachable && s.lost) {
		return s.failure
	}
	failure := &fail.Error{Kind: fail.Build, Op: strings.TrimPrefix(s.begun+": ansible-playbook", ": "), Tail: strings.Join(s.lines, "\n"), Err: err}
	if len(s.fatal) > 0 {
		whole := withoutTemplates(strings.Join(s.fatal, "\n"))
		message, rest, _ := strings.Cut(whole, "\n")
		failure.Tail, failure.Err = strings.TrimSpace(rest), errors.New(strings.TrimSpace(message))
		if at := fatalPlace.FindStringSubmatch(whole); at != nil {
			failure.Op = cmp.Or(s.begun, "ansible-playbook") + s.place(at[1]+at[3]+":"+at[2]+at[4])
		}
	}
	if needsVault.MatchString(failure.Err.Error() + failure.Tail) {
		failure.Hint = hintVault
	}
	return failure
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// begin notes that an entry begins.
func (s *stream) begin(origin string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = origin
}
