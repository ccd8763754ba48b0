//go:build e2e

package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// secretBuild adds to smallBuild a secret of each kind that a definition can hold.
// Each is CANARY- and the kind.
func secretBuild(t *testing.T) string {
	folder := smallBuild(t)
	for name, content := range map[string]string{
		"install.d/small/secrets.yml": `vars: {scalar: CANARY-scalar, list: [CANARY-list], map: {key: [CANARY-map]}, suffix: "?CANARY-rendered"}
install:
  - name: Values
    debconf: [{package: tzdata, question: tzdata/canary, type: password, value: CANARY-debconf}]
    repositories: [{name: canary, uris: ["http://canary.invalid/debian{{ '' }}?CANARY-query", "http://canary.invalid/{{ suffix }}"], suites: [sid/], key: key.asc}]
    files: [{path: /etc/canary, content: CANARY-content}]
    templates: [{path: /etc/canary.d/page, source: page.j2}]
    users: [{name: canary, password_hash: $6$CANARY-hash, ssh_keys: ['environment="A=CANARY-option" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2eqqFVuNxmEuAyFpHPKUkOGyMSW0ZZtEIXqkKOsJYz canary']}]
  - name: Hidden
    no_log: true
    roles: [canary]
`,
		"install.d/page.j2":           "CANARY-template {{ map.key | length }}",
		"install.d/key.asc":           "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
		"roles/canary/tasks/main.yml": "- ansible.builtin.command: echo CANARY-role\n- ansible.builtin.debug: {msg: CANARY-debug}\n",
		"commands.d/small.yml": `commands:
  - run: test "$TOKEN" != "{{ scalar }}{{ list[0] }}{{ map }}" # CANARY-run
    environment: {TOKEN: CANARY-environment}
  - run: cat /proc/$$/cmdline >/srv/seen-by-all # CANARY-shown
  - argv: [test, CANARY-argv, "!=", "{{ scalar }}"]
  - run: echo "$TOKEN" CANARY-hidden; echo CANARY-stderr >&2
    environment: {TOKEN: CANARY-environment}
    no_log: true
`,
		"install.d/failing.yml":     "extends: small\n",
		"commands.d/failing.yml":    "commands:\n  - run: echo \"$TOKEN {{ scalar }}\"; false # CANARY-failed\n    environment: {TOKEN: CANARY-environment}\n    no_log: true\n",
		"install.d/unreadable.yml":  "extends: small\n",
		"commands.d/unreadable.yml": "commands:\n  - run: \"echo CANARY-unreadable {{ scalar \"\n    environment: {TOKEN: CANARY-environment}\n",
	} {
		write(t, filepath.Join(folder, name), content)
	}
	return folder
}

var canary = regexp.MustCompile(`CANARY-[a-z]+`)

func tellsNoSecrets(t *testing.T, where string, content []byte) {
	t.Helper()
	found := canary.FindAllString(string(content), -1)
	slices.Sort(found)
	if found = slices.Compact(found); len(found) > 0 {
		t.Errorf("%s tells %s", where, strings.Join(found, ", "))
	}
}

func TestSecretsStayInTheImage(t *testing.T) {
	t.Parallel()
	folder := secretBuild(t)
	said := func(name string, r result) {
		t.Helper()
		tellsNoSecrets(t, "standard output of "+name, []byte(r.stdout))
		tellsNoSecrets(t, "standard error of "+name, []byte(r.stderr))
	}
	said("build", good(t, folder, "build", "small", "--no-test", "--format", "qcow2", "--json"))
	said("push", good(t, folder, "push", "small", "oci:layout", "--force-untested", "--json"))
	said("inspect", good(t, folder, "inspect", "oci:layout", "--json"))
	for _, name := range []string{"failing", "unreadable"} {
		r := run(t, folder, "build", name, "--no-test", "--json")
		if r.code != 4 {
			t.Errorf("%s: exit code %d\n%s", name, r.code, r.stderr)
		}
		said("build "+name, r)
	}
	image, err := filepath.Glob(filepath.Join(folder, "images/small/*.qcow2"))
	if err != nil || len(image) != 1 {
		t.Fatal(image, err)
	}
	disk := "sha256/" + strings.Fields(tool(t, "sha256sum", image[0]))[0]
	searched := 0
	for _, top := range []string{"images", "layout"} {
		err := filepath.WalkDir(filepath.Join(folder, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || path == image[0] || strings.HasSuffix(path, disk) {
				return err
			}
			searched++
			content, err := os.ReadFile(path)
			tellsNoSecrets(t, path, content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if logs, _ := filepath.Glob(filepath.Join(folder, "images/*/build.log")); len(logs) != 3 || searched < 15 {
		t.Errorf("%d files were searched, of which logs %q", searched, logs)
	}
	onTheDisk(t, image[0])
}

// onTheDisk wants the image to hold what it was told to hold, and nothing of what
// its build alone was told.
func onTheDisk(t *testing.T, image string) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk.raw")
	tool(t, "qemu-img", "convert", "-O", "raw", image, raw)
	out, err := exec.Command("grep", "--text", "--only-matching", "CANARY-[a-z]*", raw).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := strings.Fields(string(out))
	slices.Sort(found)
	want := []string{"CANARY-content", "CANARY-debconf", "CANARY-hash", "CANARY-option", "CANARY-query", "CANARY-rendered", "CANARY-template"}
	if found = slices.Compact(found); !slices.Equal(found, want) {
		t.Errorf("on the disk are %q, not %q", found, want)
	}
}

// keeps fails the test where a run, or any file below the folders, tells a secret.
func keeps(t *testing.T, secret string, r result, folders ...string) {
	t.Helper()
	if strings.Contains(r.stdout+r.stderr, secret) {
		t.Errorf("told:\n%s", r.stderr)
	}
	for _, folder := range folders {
		tellsNot(t, folder, secret)
	}
}

// TestSecretsReachTheTasksThatUseThem searches every byte that a build leaves for the values,
// one of which would be rendered if Ansible took it for a template.
func TestSecretsReachTheTasksThatUseThem(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	cache := filepath.Join(folder, "cache")
	const value, line = "{{ WELLENSITTICH }}-value", "WELLENSITTICH-second-line"
	write(t, filepath.Join(folder, "install.d/token"), "WELLENSITTICH-first-line\n"+line+"\n")
	write(t, filepath.Join(folder, "install.d/small/secrets.yml"), `secrets:
  from_env: {env: E2E_SECRET}
  from_file: {file: token}
  from_command: {command: [printf, WELLENSITTICH-command]}
install: [{playbooks: [use.yml]}]
`)
	write(t, filepath.Join(folder, "playbooks/use.yml"), `- hosts: all
  gather_facts: false
  tasks:
    - copy: {dest: /etc/of-playbook, content: "{{ from_command | hash('sha256') }}"}
    - copy: {dest: /etc/of-playbook.hidden, content: "hashed {{ from_command | hash('sha256') }}"}
      no_log: true
    - copy: {dest: /run/of-playbook, content: "the token is {{ from_command }}\n"} # of no layer
`)
	write(t, filepath.Join(folder, "commands.d/small.yml"), `commands:
  - run: echo "{{ from_env }}"; echo "{{ from_env }}" >&2; printf %s "{{ from_env }}" | sha256sum >/etc/of-env
  - argv: [sh, -c, 'printf "%s" "$1" | sha256sum >/etc/of-file; echo "$1"', sh, "{{ from_file }}"]
  - run: true
`)
	in := caller{folder, []string{"E2E_SECRET=" + value}}
	build := func(args ...string) result {
		return in.run(t, append([]string{"build", "small", "--no-test", "--format", "raw", "--cache", cache, "--diff"}, args...)...)
	}
	search := func(r result) {
		t.Helper()
		keeps(t, "WELLENSITTICH", r, cache, filepath.Join(folder, "images"))
	}
	r := build()
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	search(r)
	if strings.Contains(r.stderr, "+hashed ") || !strings.Contains(r.stderr, "+the token is (secret)\n") {
		t.Errorf("the differences are\n%s", r.stderr)
	}
	for path, secret := range map[string]string{"/etc/of-env": value, "/etc/of-file": "WELLENSITTICH-first-line\n" + line, "/etc/of-playbook": "WELLENSITTICH-command"} {
		want := tool(t, "sh", "-c", `printf %s "$0" | sha256sum`, secret)[:64]
		if got := in.good(t, "shell", "small", "--cache", cache, "--", "cat", path).stdout; !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if r := build(); !strings.Contains(r.stderr, "unchanged") {
		t.Errorf("built again with the same secrets:\n%s", r.stderr)
	}
	in.env = []string{"E2E_SECRET=WELLENSITTICH-changed"}
	r = build()
	search(r)
	if !strings.Contains(r.stderr, "changed  commands.d/small.yml:2 Command") {
		t.Errorf("another secret:\n%s", r.stderr)
	}
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands: [{run: 'echo \"{{ from_env }}\" >&2; exit 3'}]\n")
	if r = build(); r.code != 4 || !strings.Contains(r.stderr, "(secret)") {
		t.Errorf("a command that fails: %d\n%s", r.code, r.stderr)
	}
	search(r)
	in.env = nil
	if r = build(); r.code != 2 || !strings.Contains(r.stderr, "E2E_SECRET is not set") {
		t.Errorf("without the variable: %d\n%s", r.code, r.stderr)
	}
}
