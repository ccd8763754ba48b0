package orchestrator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestSecretsComeFromWhereTheDefinitionSays(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "token"), []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("A_SECRET", "{{ not rendered }}")
	p := Plan{Project: folder, Definition: definition.Definition{Secrets: map[string]definition.Secret{
		"a": {Env: "A_SECRET"}, "b": {File: "token"}, "c": {Command: []string{"printf", "%s\\n", "hunter2"}},
	}}}
	values, err := p.resolveSecrets(t.Context())
	if err != nil || values["a"] != "{{ not rendered }}" || values["b"] != "one\ntwo" || values["c"] != "hunter2" {
		t.Errorf("%q, %v", values, err)
	}
	for name, s := range map[string]definition.Secret{"env": {Env: "NOT_SET_ANYWHERE"}, "file": {File: "none"}, "command": {Command: []string{"sh", "-c", "echo hunter2; exit 3"}}} {
		p.Definition.Secrets = map[string]definition.Secret{"x": s}
		if _, err := p.resolveSecrets(t.Context()); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "secrets: x") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnEntryIsMadeAnewForSecretsThatItUses(t *testing.T) {
	p := project{
		"install.d/base.yml":  "source: {bootstrap: {suite: trixie}}\nsecrets: {token: {env: TOKEN}}\nvars: {header: 'x {{ token }}'}\ninstall: [{packages: [linux-image-amd64]}]\n",
		"commands.d/base.yml": "commands: [{run: 'echo {{ token }}'}, {run: 'echo {{ header }}'}, {run: 'true'}]\n",
	}
	keys := func(value string) []entryPart {
		q := planIn(t, p.write(t), "base")
		q.SecretSums = secrets{"token": value}.keyed([]byte("key"))
		all, err := q.keyParts(t.Context(), "maker", toolset{})
		if err != nil {
			t.Fatal(err)
		}
		return all.Layers[0]
	}
	before, after := keys("hunter2"), keys("hunter3")
	for i, uses := range []bool{true, true, false} {
		if (before[i] != after[i]) != uses || (before[i].Secrets == "token") != uses {
			t.Errorf("entry %d: %+v, %+v", i, before[i], after[i])
		}
	}
}

func TestSecretsAreHiddenInWhatIsPrinted(t *testing.T) {
	var out strings.Builder
	hide := secrets{"a": "hunter2", "b": "first line\nsecond \"line\"", "c": "ok"}.hider()
	w := &hidingWriter{to: &out, hide: hide}
	for _, part := range []string{"a hun", "ter2 ok\nsecond \"line\"\n", `{"x": "first line\nsecond \"line\""}`, " hunter2"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if want := "a (secret) ok\n(secret)\n{\"x\": \"(secret)\"} (secret)"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// The second text of each is what json.dumps, repr and Go's encoding/json make of the first.
func TestSecretsAreHiddenHoweverTheyAreQuoted(t *testing.T) {
	for value, quoted := range map[string][]string{
		"Grüße12345":     {"Grüße12345", `Gr\u00fc\u00dfe12345`},
		"x\"y&z12345":    {`x\"y&z12345`, `x\"y\u0026z12345`, `x"y&z12345`},
		"it's \\ \"😀\"":  {`it\'s \\ "😀"`, `it's \\ \"\ud83d\ude00\"`, `it's \\ \"😀\"`},
		"one <é>\nother": {`one <\u00e9>\nother`, `one \u003cé\u003e\nother`, `one <é>`},
	} {
		hide := secrets{"a": value}.hider()
		for _, text := range quoted {
			if got := hide.Replace("{" + text + "}"); got != "{(secret)}" {
				t.Errorf("%s: %s", text, got)
			}
		}
	}
}
