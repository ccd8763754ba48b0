package ansible_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const encrypted = "$ANSIBLE_VAULT;1.1;AES256\n3132\n"

func TestEncryptedValuesKeepTheirTag(t *testing.T) {
	kept := t.TempDir()
	r := fakeAnsible(t, "cp inventory.yml playbooks/variables.json playbooks/roles.json vault "+kept+"; stat -c %a vault >"+kept+"/mode; env >"+kept+"/env; echo \"$@\" >"+kept+"/argv")
	r.Vault = "hunter3"
	value := map[string]any{"__ansible_vault": encrypted}
	r.Variables = map[string]any{"plain": "a \"quoted\"\n{{ x }}", "token": value, "list": []any{1, value, nil}}
	r.Project.Roles = []any{map[string]any{"role": "web", "vars": map[string]any{"key": value}}}
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(kept, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	const tagged = `!vault "$ANSIBLE_VAULT;1.1;AES256\n3132\n"`
	if got, want := read("variables.json"), `{"list": [1, `+tagged+`, null], "plain": "a \"quoted\"\n{{ x }}", "token": `+tagged+`}`; got != want {
		t.Errorf("variables %s, want %s", got, want)
	}
	for _, name := range []string{"inventory.yml", "roles.json"} {
		if got := read(name); !strings.Contains(got, tagged) || strings.Contains(got, "__ansible_vault") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if read("vault") != "hunter3\n" || read("mode") != "600\n" || strings.Contains(read("env")+read("argv")+read("inventory.yml"), "hunter3") {
		t.Errorf("the password is %q, mode %s", read("vault"), read("mode"))
	}
	if _, err := os.Lstat(filepath.Join(r.Scratch, "vault")); err == nil {
		t.Error("the password is left")
	}
	yamlReads(t, read("variables.json"))
}

// yamlReads has the parser that Ansible uses read a text with tags.
func yamlReads(t *testing.T, text string) {
	t.Helper()
	const program = `import json, sys, yaml
yaml.SafeLoader.add_constructor('!vault', lambda loader, node: {'vault': node.value})
print(json.dumps(yaml.safe_load(sys.stdin)))`
	cmd := exec.Command("python3", "-c", program)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Plain string
		Token map[string]string
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&got); err != nil || got.Token["vault"] != encrypted || got.Plain != "a \"quoted\"\n{{ x }}" {
		t.Errorf("%s, %v", out, err)
	}
}
