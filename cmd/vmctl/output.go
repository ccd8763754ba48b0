package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// output is standard output. It remembers the first error of writing to it, and
// with --json the verb's result, until the run has ended.
type output struct {
	w      io.Writer
	err    error
	json   bool
	result any
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// asJSON says whether the result is to be printed as JSON. That happens once,
// at the end of the run; the verb then prints no text.
func asJSON(cmd *cobra.Command, result any) bool {
	out, ok := cmd.OutOrStdout().(*output)
	if ok && out.json {
		out.result = result
	}
	return ok && out.json
}

// resultVerbs is the verbs that have --json, and whether their result is a list.
var resultVerbs = map[string]bool{
	"build": true, "cache": true, "doctor": true, "lint": true, "list": true, "push": true, "rebuild": true, "test": true, "verify": true,
	"clean": true, "ps": true, "snapshot": true,
	"convert": false, "diff": false, "export": false, "inspect": false, "launch": false, "lock": false, "provision": false, "pull": false, "screenshot": false, "seed": false, "show": false, "start": false, "stop": false, "write": false,
}

const jsonHelp = `With --json, standard output is one document, whatever happens: {"result": …, "error": null}
or {"result": …, "error": {"message": …, "hint": …, "exit_code": …, "problems": […]}}.`

// document is all that --json prints.
type document struct {
	Result any      `json:"result"` // what was done, also before a failure
	Error  *failure `json:"error"`
}

type failure struct {
	Message  string              `json:"message"`
	Hint     string              `json:"hint"`
	ExitCode int                 `json:"exit_code"`
	Problems definition.Problems `json:"problems,omitempty"` // of definitions
}

// wantsJSON says whether the arguments hold --json, for a command line of which
// not all could be read.
func wantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

// finish prints the document where one is asked for, and returns how the run
// ended: what could not be written is a failure, too.
func (o *output) finish(verb string, err error) error {
	if isEnd(err) && verb != diffVerb {
		return err
	}
	if o.json && (o.result != nil || err != nil) {
		content, encoding := o.document(verb, err)
		if encoding != nil {
			return errors.Join(err, encoding)
		}
		_, _ = o.Write(content)
	}
	if ended := isEnd(err); o.err != nil && (err == nil || ended || errors.Is(err, o.err)) {
		err = &fail.Error{Op: "standard output", Err: o.err, Hint: "what was printed is not whole: send it where there is room"}
		if verb == diffVerb {
			err = trouble(err)
		}
	}
	return err
}

// isEnd says whether err is no failure, but an exit code that the verb gives.
func isEnd(err error) bool {
	_, ended := errors.AsType[commandEnded](err)
	return ended
}

func (o *output) document(verb string, err error) ([]byte, error) {
	result, encoding := encoded(o.result)
	if encoding != nil {
		return nil, encoding
	}
	if resultVerbs[verb] && bytes.Equal(bytes.TrimSpace(result), []byte("null")) {
		result = []byte("[]")
	}
	d := document{Result: json.RawMessage(result)}
	if err != nil && !isEnd(err) {
		d.Error = &failure{Message: err.Error(), Hint: hintsOf(err), ExitCode: fail.ExitCode(err), Problems: problemsOf(err)}
	}
	return encoded(d)
}

func encoded(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("print as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// problemsOf is the mistakes of definitions that err tells of.
func problemsOf(err error) definition.Problems {
	var all definition.Problems
	for _, one := range each(err) {
		if found, ok := errors.AsType[definition.Problems](one); ok {
			all = append(all, found...)
		}
	}
	return all
}

// hintsOf is what can be done about err, a line for each failure's.
func hintsOf(err error) string {
	var hints []string
	for _, one := range each(err) {
		if hint := fail.Hint(one); hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	return strings.Join(hints, "\n")
}

// report prints what failed, the last lines of the tool, and what to do, for
// each failure on its own.
func report(w io.Writer, err error) {
	for _, one := range each(err) {
		shown := text.Lines
		switch fail.ExitCode(one) {
		case fail.Registry.ExitCode(), fail.Boot.ExitCode(): // in words of others, who must not begin lines
			shown = text.Line
		}
		message := cut(shown(one.Error()))
		if !strings.Contains(message, "\n") {
			message = "vmctl: " + message
		}
		fmt.Fprintln(w, message)
		if tail := fail.Tail(one); tail != "" {
			fmt.Fprintln(w, "  | "+strings.ReplaceAll(cut(text.Lines(tail)), "\n", "\n  | "))
		}
		if hint := fail.Hint(one); hint != "" {
			fmt.Fprintln(w, "hint:", shown(hint))
		}
	}
}

// widest is how long a line gets on the screen, in characters. What a tool or a
// guest's console prints can be much longer; the logs have all of it.
const widest = 300

// cut shortens the lines that are too long for a screen.
func cut(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if runes := []rune(line); len(runes) > widest {
			lines[i] = string(runes[:widest-1]) + "…"
		}
	}
	return strings.Join(lines, "\n")
}
