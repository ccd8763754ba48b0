package definition_test

import (
	"strings"
	"testing"
)

func TestEncryptedValuesAreVariables(t *testing.T) {
	const value = "!vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    3132\n"
	d := load(t, map[string]string{"install.d/x.yml": base + "vars:\n  token: " + value + "  list:\n  - " + value}, "x")
	token, _ := d.Vars["token"].(map[string]any)
	if token["__ansible_vault"] != "$ANSIBLE_VAULT;1.1;AES256\n3132\n" || len(d.Vaulted) != 2 || d.Vaulted[0].Origin != "install.d/x.yml:3" {
		t.Errorf("%v, %v", d.Vars, d.Vaulted)
	}
	for key, want := range map[string]string{
		"hostname: " + value:         "install.d/x.yml:2: hostname: !vault is understood in the values of vars alone",
		"facts:\n  x: " + value:      "install.d/x.yml:3: facts.x: !vault is understood",
		"test:\n  memory: " + value:  "install.d/x.yml:3: test.memory: !vault is understood",
		"install:\n- name: " + value: "install.d/x.yml:3: install[0].name: !vault is understood",
	} {
		if got := mistakes(map[string]string{"install.d/x.yml": base + key}); len(got) == 0 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: %q", key, got)
		}
	}
}
