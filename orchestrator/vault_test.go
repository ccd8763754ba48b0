package orchestrator

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// vaultOfHunter2 is "content" by ansible-vault with the password hunter2.
const vaultOfHunter2 = `$ANSIBLE_VAULT;1.1;AES256
38656632623837373331663137313337313738346465623565323166666136656338653161646231
3935396236363864353132303830633635363931623436380a386461313865306265326434303232
38386638323361343738633465383163633464613933623034326265636464316335306636346537
3765636335386665380a393330326236346464323533633730333639656130366234353165653435
6337
`

var vaultProject = project{
	"install.d/x.yml": "source: {bootstrap: {suite: trixie}}\nvars:\n  token: !vault |\n    " + strings.ReplaceAll(strings.TrimSpace(vaultOfHunter2), "\n", "\n    ") +
		"\ninstall: [{files: [{path: /a, source: blob}]}, {roles: [common]}, {files: [{path: /b, content: '{{ token }}'}]}, {files: [{path: /c, content: c}]}]\n",
	"install.d/blob":              vaultOfHunter2,
	"roles/common/tasks/main.yml": "- debug: {msg: '{{ own }}'}\n", "roles/common/vars/main.yml": "a: b\nown: !vault |\n  " + strings.ReplaceAll(strings.TrimSpace(vaultOfHunter2), "\n", "\n  ") + "\n",
	"roles/unused/vars/main.yml": vaultOfHunter2,
	"group_vars/all.yml":         "zone: UTC\n",
}

func TestEncryptedInputsAreFound(t *testing.T) {
	p := planIn(t, vaultProject.write(t), "x")
	all, err := p.vaulted(t.Context())
	var places []string
	for _, v := range all {
		places = append(places, v.Origin)
		if !opens("hunter2", v.Text) || opens("hunter3", v.Text) {
			t.Errorf("%s: the password is not that of %q", v.Origin, v.Text)
		}
	}
	if got := strings.Join(places, " "); err != nil || got != "install.d/x.yml:3 install.d/blob:1 roles/common/vars/main.yml:3" {
		t.Errorf("%s, %v", got, err)
	}
}

// Variables of other hosts and groups are never read for an image.
func TestWhatIsEncryptedForOthersNeedsNoPassword(t *testing.T) {
	p := project{
		"install.d/x.yml":    "source: {bootstrap: {suite: trixie}}\ninstall: [{playbooks: [site.yml]}]\n",
		"playbooks/site.yml": "- hosts: all\n  tasks: []\n", "playbooks/group_vars/db.yml": vaultOfHunter2,
		"group_vars/webservers/vault.yml": vaultOfHunter2, "group_vars/web.yml": vaultOfHunter2, "host_vars/other/vault": vaultOfHunter2, "group_vars/all.yml": "a: b\n",
	}
	all, err := planIn(t, p.write(t), "x").vaulted(t.Context())
	if err != nil || len(all) > 0 {
		t.Errorf("%+v, %v", all, err)
	}
	for _, name := range []string{"group_vars/all/vault.yml", "group_vars/ungrouped.yaml", "host_vars/image/vault", "host_vars/image.json", "playbooks/group_vars/all.yml"} {
		more := maps.Clone(p)
		more[name] = vaultOfHunter2
		all, err := planIn(t, more.write(t), "x").vaulted(t.Context())
		if err != nil || len(all) != 1 || all[0].Origin != name+":1" {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
}

func TestWhatAVaultHolds(t *testing.T) {
	if plain, ok := decrypted("hunter2", vaultOfHunter2); !ok || strings.TrimSpace(string(plain)) != "content" {
		t.Errorf("%q, %t", plain, ok)
	}
	p := planIn(t, vaultProject.write(t), "x")
	if err := os.WriteFile(filepath.Join(p.Project, "group_vars/all.yml"), []byte(vaultOfHunter2), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := p.inventorySecrets(t.Context(), "hunter2")
	if err != nil || len(all) != 2 || all[0].Text != "content" || all[1] != all[0] || all[0].Origin != "group_vars/all.yml:1" {
		t.Errorf("%+v, %v", all, err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte("a: [one, {b: two}]\nc: three\n"), &document); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(scalarsIn(&document), " "); got != "one two three" {
		t.Errorf("%q", got)
	}
}

func TestThePasswordOfVaults(t *testing.T) {
	p := planIn(t, vaultProject.write(t), "x")
	folder := t.TempDir()
	for name, tc := range map[string]struct {
		content string
		mode    os.FileMode
		problem string
	}{
		"file": {"hunter2\n\n", 0o600, ""}, "program": {"#!/bin/sh\necho ' hunter2'\n", 0o700, ""},
		"ask-client.sh": {"#!/bin/sh\ntest \"$*\" = '--vault-id default' && echo hunter2\n", 0o700, ""},
		"wrong":         {"hunter3", 0o600, "install.d/x.yml:3: this is encrypted with another password, and so are 2 other places"},
		"empty":         {" \n", 0o600, "gives no password"}, "failing": {"#!/bin/sh\necho hunter2; exit 3\n", 0o700, "exit status 3"},
	} {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(tc.content), tc.mode); err != nil {
			t.Fatal(err)
		}
		taken, err := PasswordSource{path}.take(t.Context(), p, nil)
		switch {
		case tc.problem == "" && (err != nil || taken[vaultPassword] != "hunter2"):
			t.Errorf("%s: %q, %v", name, taken, err)
		case tc.problem != "" && (fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), tc.problem) || strings.Contains(err.Error(), "hunter")):
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := PasswordSource{}.take(t.Context(), p, nil)
	if fail.ExitCode(err) != 2 || !strings.HasPrefix(err.Error(), "install.d/x.yml:3: this is encrypted") || fail.Hint(err) == "" {
		t.Errorf("without: %v", err)
	}
	if taken, err := (PasswordSource{}).take(t.Context(), planIn(t, base.write(t), "web"), nil); taken != nil || err != nil {
		t.Errorf("a build that needs none: %v", err)
	}
}

// What is encrypted counts by its bytes, and may read anything.
func TestEncryptedContentIsPartOfKeys(t *testing.T) {
	before := vaultProject.parts(t, "x").Layers[0]
	for file, want := range map[string][]bool{
		"install.d/x.yml": {false, true, true, false}, "install.d/blob": {true, false, false, false}, "roles/common/vars/main.yml": {false, true, false, false},
		"roles/unused/vars/main.yml": {false, false, false, false},
	} {
		salt := strings.Split(vaultOfHunter2, "\n")[1][:8]
		after := vaultProject.with(file, salt, "00000000").parts(t, "x").Layers[0]
		for i := range want {
			if (before[i] != after[i]) != want[i] {
				t.Errorf("%s: entry %d: %t", file, i, !want[i])
			}
		}
	}
}
