package definition_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/golden"
)

// The names say nothing of secrets, since those who write them do not either.
const secrets = `source: {bootstrap: {suite: sid}}
vars: {a: CANARY-scalar, b: [CANARY-list], c: {d: {CANARY-key: CANARY-map}}}
install:
  - debconf: [{package: p, question: p/q, type: string, value: CANARY-debconf}]
    users: [{name: u, password_hash: $6$CANARY-hash, ssh_keys: ['command="CANARY-option" ssh-ed25519 AAAA u', 'ssh-ed25519 BBBB u@h']}]
    files: [{path: /a, content: CANARY-content}]
    templates: [{path: /b, content: CANARY-template}]
    repositories: [{name: r, uris: ['http://{{ u }}:CANARY-user@h/p?CANARY-query', 'http://{{ h }}/p#CANARY-fragment'], suites: [s/], key: '-----BEGIN PGP PUBLIC KEY BLOCK-----'}]
  - no_log: true
    debconf: [{package: p, question: CANARY-question, type: password, value: CANARY-debconf}]
    files: [{path: /a, content: CANARY-content}, {path: /c, source: CANARY-source}]
`

const secretCommands = `commands:
  - run: echo CANARY-run
    environment: {A: CANARY-environment}
  - argv: [echo, CANARY-argv]
  - run: echo CANARY-run
    environment: {CANARY-name: CANARY-environment}
    no_log: true
  - argv: [echo, CANARY-argv]
    no_log: true
`

func TestRedactedHoldsNoSecrets(t *testing.T) {
	files := map[string]string{"install.d/x.yml": secrets, "install.d/CANARY-source": "a", "commands.d/x.yml": strings.ReplaceAll(secretCommands, "CANARY-name", "CANARY_name")}
	d := load(t, files, "x")
	before, _ := json.Marshal(d)
	out, err := json.Marshal(d.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	if found := regexp.MustCompile("CANARY.[a-z]+").FindAllString(string(out), -1); found != nil {
		t.Errorf("%q in %s", found, out)
	}
	if after, _ := json.Marshal(d); string(before) != string(after) || !strings.Contains(string(after), "CANARY-hash") {
		t.Errorf("the definition itself changed: %s", after)
	}
	for _, want := range []string{
		`"vars":{"a":"(hidden)","b":"(hidden)","c":"(hidden)"}`, `"uris":["http://h/p","http://{{ h }}/p"]`, `"ssh-ed25519 BBBB u@h"`, `{"A":"(hidden)"}`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s lacks %s", out, want)
		}
	}
	var public []string
	for _, asset := range d.PublicAssets() {
		public = append(public, *asset)
	}
	if slices.ContainsFunc(public, func(name string) bool { return strings.Contains(name, "CANARY") }) {
		t.Errorf("files with no_log: %q", public)
	}
}

// Every text of a definition is its own key here, so that the golden file tells
// of each what becomes of it, also of those that are new.
func TestRedactedIsDecidedForEveryKey(t *testing.T) {
	var d definition.Definition
	fill(reflect.ValueOf(&d).Elem(), "")
	entries := d.Layers[0]
	entries.Install, entries.Commands = slices.Clone(entries.Install), slices.Clone(entries.Commands)
	entries.Install[0].NoLog, entries.Commands[0].NoLog = false, false
	d.Layers = append(d.Layers, entries)
	out, err := json.MarshalIndent(d.Redacted(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "redacted.golden", string(out)+"\n")
}

func fill(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		for field, value := range v.Fields() {
			fill(value, strings.TrimPrefix(path+"."+strings.ToLower(field.Name), "."))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		if value.Kind() == reflect.Interface {
			value.Set(reflect.ValueOf("value-in-" + path))
		} else {
			fill(value, "value-in-"+path)
		}
		v.SetMapIndex(reflect.ValueOf("name-in-"+path), value)
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 << 20)
	default:
		panic(fmt.Sprint(path, v.Kind()))
	}
}
