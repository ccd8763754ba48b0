package orchestrator

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// secrets is the values of a definition's secrets, by their names. They go to the runs of
// Ansible whose entries use them, and nowhere else; of keys they are a part by digests that
// only this store can make.
type secrets map[string]string

// largestSecret is how long one may be, in bytes.
const largestSecret = 64 << 10

// takeSecrets gets the values, and makes them a part of the plan's keys.
func (p *Plan) takeSecrets(ctx context.Context, folder string) (secrets, error) {
	if len(p.Definition.Secrets) == 0 {
		return nil, nil
	}
	values, err := p.resolveSecrets(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := store.Open(folder)
	if err != nil {
		return nil, err
	}
	key, err := layers.Secret()
	p.SecretSums = values.keyed(key)
	return values, err
}

// resolveSecrets gets the values from where the definition says that they are.
func (p Plan) resolveSecrets(ctx context.Context) (secrets, error) {
	values := secrets{}
	for _, name := range slices.Sorted(maps.Keys(p.Definition.Secrets)) {
		value, err := p.resolveSecret(ctx, p.Definition.Secrets[name])
		if err == nil && len(value) > largestSecret {
			err = fmt.Errorf("it is longer than %d bytes", largestSecret)
		}
		if err != nil {
			return nil, fail.Wrap(fail.Usage, "secrets: "+name, err)
		}
		values[name] = value
	}
	return values, nil
}

func (p Plan) resolveSecret(ctx context.Context, s definition.Secret) (string, error) {
	switch {
	case s.Env != "":
		value, set := os.LookupEnv(s.Env)
		if !set {
			return "", fail.New(fail.Usage, "", "export it, or let sudo keep it with --preserve-env="+s.Env, "the environment variable %s is not set", s.Env)
		}
		return value, nil
	case s.File != "":
		path := s.File
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.Project, path)
		}
		content, err := os.ReadFile(path)
		return strings.TrimSuffix(string(content), "\n"), err
	default:
		content, err := host.Quietly(ctx, s.Command[0], s.Command[1:]...)
		return strings.TrimSuffix(string(content), "\n"), err
	}
}

// keyed is a digest of each value, which says nothing to whoever lacks the key.
func (s secrets) keyed(key []byte) map[string]string {
	sums := map[string]string{}
	for name, value := range s {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "secret %q %s", name, value)
		sums[name] = hex.EncodeToString(mac.Sum(nil))
	}
	return sums
}

// secrets is the names of those that are read.
func (r *reading) secrets(all map[string]definition.Secret) (names []string) {
	text := r.text.String()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if r.opaque || readsAnyVariable.MatchString(text) || strings.Contains(text, name) {
			names = append(names, name)
		}
	}
	return names
}

const (
	hiddenSecret = "(secret)"
	// shortestHidden is the length from which on a value is hidden where it is printed: a
	// shorter one is part of too much else.
	shortestHidden = 4
)

// hider replaces the values, and each of their lines, in what is printed, however that quotes
// them.
func (s secrets) hider() *strings.Replacer {
	var values []string
	for _, value := range s {
		for _, text := range append(strings.Split(value, "\n"), value) {
			values = append(values, quotings(text)...)
		}
	}
	values = slices.DeleteFunc(values, func(value string) bool { return len(value) < shortestHidden })
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }) // the longest first
	var pairs []string
	for _, value := range slices.Compact(values) {
		pairs = append(pairs, value, hiddenSecret)
	}
	return strings.NewReplacer(pairs...)
}

// quotings is a text as it is, and between the quotes of JSON and Python: with and without
// escapes of what is not ASCII, and of what means something in HTML.
func quotings(text string) []string {
	var plain strings.Builder
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // strings always encode
	html, _ := json.Marshal(text)
	all := []string{text}
	for _, quoted := range []string{strings.TrimSuffix(plain.String(), "\n"), string(html)} {
		inside := quoted[1 : len(quoted)-1]
		all = append(all, inside, asciiOnly(inside))
	}
	python := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\t", `\t`, "\r", `\r`)
	repr := python.Replace(text)
	return append(all, repr, strings.ReplaceAll(repr, "'", `\'`))
}

// asciiOnly has all else as escapes of UTF-16, as json.dumps of Python writes it.
func asciiOnly(text string) string {
	var out strings.Builder
	for _, r := range text {
		if r < utf8.RuneSelf {
			out.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&out, `\u%04x`, unit)
		}
	}
	return out.String()
}

// hidingWriter hides values in lines.
type hidingWriter struct {
	to   io.Writer
	hide *strings.Replacer
	rest []byte // of a line
}

// longestLine is how much of a line is waited for, in bytes.
const longestLine = 16 * largestSecret

// Write implements io.Writer. What is no whole line yet waits for its end.
func (w *hidingWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	end := bytes.LastIndexByte(w.rest, '\n') + 1
	switch {
	case end == 0 && len(w.rest) < longestLine:
		return len(p), nil
	case end == 0:
		end = len(w.rest)
	}
	_, err := w.hide.WriteString(w.to, string(w.rest[:end]))
	w.rest = append(w.rest[:0], w.rest[end:]...)
	return len(p), err
}

// Close writes what is left of a line.
func (w *hidingWriter) Close() error {
	_, err := w.hide.WriteString(w.to, string(w.rest))
	w.rest = nil
	return err
}

// hidden is a message of a jail as it may be shown.
func (m message) hidden(hide *strings.Replacer) message {
	if m.Event != nil {
		m.Event.Text, m.Event.Output, m.Event.Diff = hide.Replace(m.Event.Text), hide.Replace(m.Event.Output), hide.Replace(m.Event.Diff)
	}
	if m.Ended != nil {
		if f := m.Ended.Failure; f != nil {
			f.Text, f.Hint, f.Tail = hide.Replace(f.Text), hide.Replace(f.Hint), hide.Replace(f.Tail)
		}
	}
	return m
}

// hiding is how a jail ended, as it may be shown.
func hiding(err error, hide *strings.Replacer) error {
	if e, ok := errors.AsType[*fail.Error](err); ok {
		e.Tail = hide.Replace(e.Tail)
	}
	return err
}
