//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestItemsOfEntries builds files, templates, users and services of odd names and values,
// and one item that fails.
func TestItemsOfEntries(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2eqqFVuNxmEuAyFpHPKUkOGyMSW0ZZtEIXqkKOsJYz"
	large := strings.Repeat("0123456789abcdef", 20_000)
	write(t, filepath.Join(folder, "install.d/items/large"), large)
	write(t, filepath.Join(folder, "install.d/items/zeros"), "\x00\xff{{ nothing }}")
	write(t, filepath.Join(folder, "install.d/items/empty"), "")
	write(t, filepath.Join(folder, "install.d/items/parts/part.j2"), "part of {{ who }}\n")
	write(t, filepath.Join(folder, "install.d/items/page.j2"), `{# no line #}
{% for thing in things %}
  {{ loop.index }} {{ thing }}
{% endfor %}
{% include "parts/part.j2" %}
{{ template_path | basename }}: {{ ansible_managed }}

`)
	write(t, filepath.Join(folder, "install.d/items.yml"), `
extends: debian
vars: {who: alice, things: [one, "two ü"]}
install:
  - name: People of {{ who }}
    users:
      - {name: "{{ who }}", uid: 4242, comment: "Alice, a user", home: /srv/homes/alice, system: true}
      - {name: bob, groups: [staff, builders], shell: /bin/sh, sudo: true, password_hash: "$6$salt$hash", ssh_keys: ["`+key+` bob", 'from="192.0.2.1,192.0.2.2",no-pty `+key+`2']}
  - name: All kinds
    files:
      - {path: /srv/large, source: items/large, mode: "0600", owner: alice, group: staff}
      - {path: /srv/zeros, source: items/zeros}
      - {path: /srv/empty, source: items/empty}
      - {path: /srv/none, content: ""}
      - {path: /srv/json, content: '{"who": "{{ who }}"}'}
      - {path: /srv/list, content: "{{ things }}"}
      - {path: "/srv/a b's \"ü\" $HOME/c", content: "x\n\n y \n", mode: "0750", owner: "{{ nobody | default(omit) }}"}
      - {path: /srv/setuid, content: x, mode: "4755", owner: bob}
      - {path: /srv/above/below, content: "in a folder\n"}
      - {path: /srv/link/below, content: "through a link\n"}
      - {path: /srv/replaced, content: "no link\n"}
    templates: [{path: /srv/page, source: items/page.j2}]
    services: {disabled: [ssh], masked: [apt-daily.timer]}
  - name: Once more
    files:
      - {path: /srv/list, content: "{{ things }}"}
      - {path: /srv/setuid, content: x, mode: "0755"}
      - {path: /srv/json, content: "{}"}
    users: [{name: bob, groups: [games], ssh_keys: ["`+key+` bob@new"]}]
    services: {enabled: [ssh]}
`)
	write(t, filepath.Join(folder, "install.d/debian/links.yml"), "install: [{name: Links, files: [{path: /srv/target/x, content: x}]}]\n")
	write(t, filepath.Join(folder, "commands.d/debian/links.yml"), "commands: [{run: 'ln -s /srv/target /srv/link; ln -s /etc/hostname /srv/replaced'}]\n")
	write(t, filepath.Join(folder, "commands.d/items.yml"), `
commands:
  - name: Leaves a daemon
    run: |
      false || echo "$WHO in $(pwd)"
      cat
      sleep 300 &
    chdir: /srv
    environment: {WHO: "{{ build.name }}"}
  - {run: touch /srv/not, creates: /srv/js*n}
  - {argv: [touch, "/srv/it's $HOME"]}
`)
	r := good(t, folder, "build", "items", "--no-test", "--format", "raw", "--diff")
	for _, want := range []string{
		"People of alice: users", "All kinds: files", "All kinds: templates",
		"--- before: /srv/json\n", "-{\"who\": \"alice\"}\n", "+{}\n", "-    \"mode\": \"4755\",\n", "+part of alice", "file size is greater than 104448\n", "appears to be binary\n", "-link to /etc/hostname\n",
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("the output lacks %q:\n%s", want, r.stderr)
		}
	}
	content, err := os.ReadFile(filepath.Join(folder, "images/items/build.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"All kinds: files => /srv/a b's \"ü\" $HOME/c\n", "Once more: users => bob\n", "items in /srv\n", "ok: [install.d/items.yml:24] Once more: files => /srv/list\n"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(string(content), "$6$salt$hash") {
		t.Error("the log holds a password's hash")
	}
	script := `cd /srv && stat -c '%n %a %U:%G %F' large zeros empty none "a b's \"ü\" \$HOME/c" setuid above link/below replaced json homes/alice /home/bob/.ssh /home/bob/.ssh/authorized_keys /etc/sudoers.d /etc/sudoers.d/bob "it's \$HOME"
tail -n +1 json list page "a b's \"ü\" \$HOME/c" target/below replaced /home/bob/.ssh/authorized_keys /etc/sudoers.d/bob
grep -e alice -e bob /etc/passwd; id alice; id bob; grep bob /etc/shadow | cut -d : -f 2; sha256sum <large; od -c zeros
readlink /etc/systemd/system/apt-daily.timer; systemctl is-enabled ssh; find / -xdev '(' -name '.vmctl*' -o -name '*.ansible*' ')'; ls not`
	got := run(t, folder, "shell", "items", "--", "sh", "-c", script).stdout
	const want = `large 600 alice:staff regular file
zeros 644 root:root regular file
empty 644 root:root regular empty file
none 644 root:root regular empty file
a b's "ü" $HOME/c 750 root:root regular file
setuid 755 root:root regular file
above 755 root:root directory
link/below 644 root:root regular file
replaced 644 root:root regular file
json 644 root:root regular file
homes/alice 700 alice:alice directory
/home/bob/.ssh 700 bob:bob directory
/home/bob/.ssh/authorized_keys 600 bob:bob regular file
/etc/sudoers.d 750 root:root directory
/etc/sudoers.d/bob 440 root:root regular file
it's $HOME 644 root:root regular empty file
==> json <==
{}
==> list <==
['one', 'two ü']
==> page <==
  1 one
  2 two ü
part of alicepage.j2: Ansible managed


==> a b's "ü" $HOME/c <==
x

 y 

==> target/below <==
through a link

==> replaced <==
no link

==> /home/bob/.ssh/authorized_keys <==
from="192.0.2.1,192.0.2.2",no-pty ` + key + `2 
` + key + ` bob@new

==> /etc/sudoers.d/bob <==
bob ALL=(ALL:ALL) NOPASSWD: ALL
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("the tree has\n%s", got)
	}
	rest := strings.TrimPrefix(got, want)
	for _, want := range []string{
		"alice:x:4242:", ":Alice, a user:/srv/homes/alice:/bin/bash\n", "50(staff)", "(builders)", "(games)", "\n$6$salt$hash\n", ":/bin/bash\n",
		tool(t, "sha256sum", filepath.Join(folder, "install.d/items/large"))[:64], `\0 377   {   {`, "/dev/null\nenabled\n",
	} {
		if !strings.Contains(rest, want) {
			t.Errorf("the tree lacks %q: %s", want, rest)
		}
	}
	if !strings.HasSuffix(rest, "enabled\n") {
		t.Errorf("something is left in the tree: %s", rest)
	}

	write(t, filepath.Join(folder, "install.d/items/20-failing.yml"), "install: [{name: Failing, files: [{path: /srv/good, content: x}, {path: /srv/bad, content: \"{{ missing }}\"}]}]\n")
	r = run(t, folder, "build", "items", "--no-test", "--format", "raw")
	if r.code != 4 || !strings.Contains(r.stderr, "install.d/items/20-failing.yml:1: Failing: files: /srv/bad: 'missing' is undefined") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	write(t, filepath.Join(folder, "install.d/items/20-failing.yml"), "install: [{name: Failing, users: [{name: good}, {name: bad, uid: 4242, password_hash: '$6$secret'}]}]\n")
	r = run(t, folder, "build", "items", "--no-test", "--format", "raw")
	if r.code != 4 || !strings.Contains(r.stderr, "Failing: users: bad: useradd: UID 4242 is not unique") || strings.Contains(r.stderr, "$6$secret") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
