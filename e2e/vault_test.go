//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVaultedContentIsDecrypted builds with each kind of content that ansible-vault encrypts,
// and searches every byte that the build leaves for the password.
func TestVaultedContentIsDecrypted(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	cache := filepath.Join(folder, "cache")
	const password = "WELLENSITTICH-password"
	elsewhere := t.TempDir()
	file, program := filepath.Join(elsewhere, "password"), filepath.Join(elsewhere, "password.sh")
	write(t, file, password+"\n")
	write(t, program, "#!/bin/sh\nprintf %s "+password+"\n")
	tool(t, "chmod", "755", program)
	encrypt := func(name, content string) {
		t.Helper()
		path := filepath.Join(folder, name)
		write(t, path, content)
		tool(t, "ansible-vault", "encrypt", "--vault-password-file", file, path)
	}
	inline := func(content string) string {
		t.Helper()
		out, err := exec.Command("ansible-vault", "encrypt_string", "--vault-password-file", file, content).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	encrypt("install.d/token", "of-files\n")
	encrypt("install.d/page.j2", "{{ inline }} of-templates\n")
	encrypt("group_vars/all.yml", "grouped: of-group-vars\n")
	encrypt("roles/secretive/files/blob", "of-role\n")
	write(t, filepath.Join(folder, "roles/secretive/vars/main.yml"), "own: "+inline("of-role-vars")+"\n")
	write(t, filepath.Join(folder, "roles/secretive/tasks/main.yml"), `- copy: {src: blob, dest: /etc/v-role}
- copy: {dest: /etc/v-vars, content: "{{ own }} {{ grouped }} {{ nested.list[0] }}\n"}
`)
	write(t, filepath.Join(folder, "install.d/small/vault.yml"), "vars:\n  inline: "+inline("of-install-d")+"\n  nested:\n    list:\n    - "+inline("of-list")+`
install:
- files: [{path: /etc/v-files, source: token}]
  templates: [{path: /etc/v-templates, source: page.j2}]
- roles: [secretive]
`)
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands: [{run: 'echo \"{{ inline }}\" >/etc/v-command'}]\n")
	in := caller{dir: folder}
	build := func(args ...string) result {
		return in.run(t, append([]string{"build", "small", "--no-test", "--format", "raw", "--cache", cache}, args...)...)
	}
	search := func(r result) {
		t.Helper()
		keeps(t, "WELLENSITTICH", r, cache, filepath.Join(folder, "images"))
	}
	if r := build(); r.code != 2 || !strings.Contains(r.stderr, "install.d/small/vault.yml:2: this is encrypted with ansible-vault, and so are") || !strings.Contains(r.stderr, "--vault-password-file") {
		t.Errorf("without a password: %d\n%s", r.code, r.stderr)
	}
	wrong := filepath.Join(elsewhere, "wrong")
	write(t, wrong, "another")
	if r := build("--vault-password-file", wrong); r.code != 2 || !strings.Contains(r.stderr, "encrypted with another password") {
		t.Errorf("with a wrong password: %d\n%s", r.code, r.stderr)
	}
	r := build("--vault-password-file", file, "--diff")
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	if strings.Contains(r.stderr, "of-files") || strings.Contains(r.stderr, "of-templates") || strings.Contains(r.stderr, "+of-role\n") || !strings.Contains(r.stderr, "/etc/v-role: it is encrypted") {
		t.Errorf("what is told of encrypted files:\n%s", r.stderr)
	}
	search(r)
	const want = "of-install-d\nof-files\nof-role\nof-install-d of-templates\nof-role-vars of-group-vars of-list\n"
	if got := good(t, folder, "shell", "small", "--cache", cache, "--", "sh", "-c", "cat /etc/v-*").stdout; got != want {
		t.Errorf("in the image: %q, want %q", got, want)
	}
	in.env = []string{"VMCTL_VAULT_PASSWORD_FILE=" + program}
	if r := build(); r.code != 0 || !strings.Contains(r.stderr, "unchanged") {
		t.Errorf("the same content, and a program for the password: %d\n%s", r.code, r.stderr)
	}
	encrypt("roles/secretive/files/blob", "of-role-changed\n")
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands: [{run: 'grep -q changed /etc/v-role && echo {{ inline }} && exit 3'}]\n")
	r = build()
	if r.code != 4 || !strings.Contains(r.stderr, "cached   install.d/small/vault.yml:19") || !strings.Contains(r.stderr, "exit status 3") {
		t.Errorf("another content, and a command that fails: %d\n%s", r.code, r.stderr)
	}
	search(r)
}
