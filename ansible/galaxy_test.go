package ansible_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/ansible"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// fakeGalaxy is a script on PATH in place of ansible-galaxy.
func fakeGalaxy(t *testing.T, script string) (ansible.Galaxy, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ansible-galaxy"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var log bytes.Buffer
	return ansible.Galaxy{
		Roles: "/installed/roles", Collections: "/installed/collections", Scratch: filepath.Join(t.TempDir(), "scratch"),
		Command: host.Grouped, Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=/home/user"}, Log: &log,
		Requirements: []ansible.Requirement{
			{Name: "common", Source: "file:///srv/it's & ü \"common\".git", SCM: "git", Version: "v1", Local: "/srv/it's & ü \"common\".git", Origin: "requirements.yml:2", Shown: "role common v1"},
			{Name: "geerlingguy.nginx", Version: "2.8.0", Origin: "requirements.yml:3", Shown: "role geerlingguy.nginx 2.8.0"},
			{Collection: true, Name: "acme.tools", Type: "galaxy", Server: "https://galaxy.example/", Origin: "requirements.yml:5", Shown: "collection acme.tools"},
			{Collection: true, Source: "/srv/acme-motd-1.0.0.tar.gz", Origin: "requirements.yml:6", Shown: "collection /srv/acme-motd-1.0.0.tar.gz"},
		},
	}, &log
}

func TestGalaxyIsAskedForBothKinds(t *testing.T) {
	g, log := fakeGalaxy(t, `echo "$@" | sed "s|$PWD|SCRATCH|g"; case $HOME in "$PWD"/*) ;; *) echo "home $HOME";; esac; for file; do :; done; cat "$file"; echo; git config --get safe.directory; env | grep -c "^ANSIBLE_CONFIG=$PWD"`)
	g.Offline = true
	if err := g.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	const want = `role install --roles-path /installed/roles --role-file SCRATCH/roles.yml
{"roles":[{"name":"common","scm":"git","src":"file:///srv/it's \u0026 ü \"common\".git","version":"v1"},{"name":"geerlingguy.nginx","src":"geerlingguy.nginx","version":"2.8.0"}]}
/srv/it's & ü "common".git
1
collection install --offline --collections-path /installed/collections --requirements-file SCRATCH/collections.yml
{"collections":[{"name":"acme.tools","source":"https://galaxy.example/","type":"galaxy"},{"name":"/srv/acme-motd-1.0.0.tar.gz"}]}
/srv/it's & ü "common".git
1
`
	if log.String() != want {
		t.Errorf("got\n%s\nwant\n%s", log, want)
	}
}

// Who builds has keys for ssh, and ansible-galaxy has not: what git says of that is told.
func TestRequirementsOverSSHAreToldWhatWorks(t *testing.T) {
	for printed, hinted := range map[string]bool{
		"Host key verification failed.\nfatal: Could not read from remote repository.":                   true,
		"git@git.example: Permission denied (publickey).\nfatal: Could not read from remote repository.": true,
		"git@git.example: Permission denied\n(publickey,password).":                                      true,
		"fatal: repository 'https://git.example/a.git/' not found":                                       false,
	} {
		g, _ := fakeGalaxy(t, "cat <<'EOF'\nERROR! Failed to clone a Git repository from `git@git.example:a.git`.\n"+printed+"\nEOF\nexit 1")
		if hint := fail.Hint(g.Install(t.Context())); strings.Contains(hint, "https") != hinted {
			t.Errorf("%s: hint %q", printed, hint)
		}
	}
}

func TestAFailedRequirementIsNamedByItsLine(t *testing.T) {
	for printed, want := range map[string]string{
		"- extracting common to /installed/roles/common\n- common (v1) was installed successfully\n[WARNING]: - geerlingguy.nginx was NOT installed successfully: - sorry, geerlingguy.nginx\nwas not found on https://galaxy.example/.\nERROR! - you can use --ignore-errors to skip failed roles and finish processing the list.": "requirements.yml:3: role geerlingguy.nginx 2.8.0: - sorry, geerlingguy.nginx was not found on https://galaxy.example/.",
		"ERROR! Unknown error when attempting to call Galaxy": "requirements.yml: Unknown error when attempting to call Galaxy",
		"it crashed": "requirements.yml: exit status 1",
	} {
		g, _ := fakeGalaxy(t, "cat <<'EOF'\n"+printed+"\nEOF\ntest \"$1\" = collection")
		err := g.Install(t.Context())
		if fail.ExitCode(err) != 4 || err.Error() != want || !strings.Contains(printed, fail.Tail(err)) || fail.Tail(err) == "" {
			t.Errorf("%q, tail %q", err, fail.Tail(err))
		}
	}
	g, _ := fakeGalaxy(t, "test $1 = role || { echo 'ERROR! no /srv/acme-motd-1.0\n.0.tar.gz'; exit 5; }")
	if err := g.Install(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "requirements.yml:6: collection /srv/acme-motd") {
		t.Errorf("%v", err)
	}
}
