//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// archive is a signed package archive with one package, served on loopback.
func archive(t *testing.T) (uri, key string) {
	t.Helper()
	dir := t.TempDir()
	home := filepath.Join(dir, "gnupg")
	script := `set -e
mkdir -m 700 ` + home + `
export GNUPGHOME=` + home + `
gpg --batch --quiet --passphrase '' --quick-generate-key 'Archive <archive@example.org>' rsa3072 sign never
gpg --batch --armor --export >` + dir + `/archive.asc
mkdir -p ` + dir + `/build/DEBIAN ` + dir + `/build/usr/share/greeting ` + dir + `/www
cd ` + dir + `
printf 'Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\nDepends: debconf\nDescription: greets\n' >build/DEBIAN/control
printf 'Template: greeting/who\nType: string\nDefault: nobody\nDescription: whom to greet\n' >build/DEBIAN/templates
printf '#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_input high greeting/who || true\ndb_go || true\n' >build/DEBIAN/config
printf '#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get greeting/who\necho "hello $RET" >/usr/share/greeting/text\n' >build/DEBIAN/postinst
chmod 755 build/DEBIAN/config build/DEBIAN/postinst
dpkg-deb --build --root-owner-group build www/greeting_1.0_all.deb >/dev/null
cd www
apt-ftparchive packages . >Packages
apt-ftparchive release . >Release
gpg --batch --quiet --clearsign --output InRelease Release
gpgconf --kill all`
	tool(t, "sh", "-c", script)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(dir, "www")))}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String() + "/", filepath.Join(dir, "archive.asc")
}

// TestTwoFilesAddABuild drops two files into an empty folder and uses every
// kind of entry.
func TestTwoFilesAddABuild(t *testing.T) {
	t.Parallel()
	uri, key := archive(t)
	folder := t.TempDir()
	user := callSudo(t, folder)
	write(t, filepath.Join(folder, "install.d/greeter/page.j2"), "{{ greeting }} from {{ build.name }} on {{ build.suite }}\n")
	write(t, filepath.Join(folder, "install.d/greeter/motd"), "{{ not a template }}\n")
	tool(t, "cp", key, filepath.Join(folder, "install.d/greeter/archive.asc"))
	write(t, filepath.Join(folder, "roles/stamp/tasks/main.yml"), "- name: Stamp\n  ansible.builtin.copy: {dest: /etc/stamp, content: 'by {{ inventory_hostname }} {{ ink }} {{ paper }} {{ pen }}'}\n")
	write(t, filepath.Join(folder, "roles/stamp/defaults/main.yml"), "ink: the role's default\npen: the role's default\n")
	write(t, filepath.Join(folder, "roles/stamp/vars/main.yml"), "paper: the role's\n")
	write(t, filepath.Join(folder, "install.d/greeter.yml"), `
extends: debian
firmware: [bios]
outputs: [raw]
vars: {greeting: Good morning, answer: "{{ 6 * 7 }}", ink: black, paper: white}
install:
  - name: Greeting
    debconf: [{package: greeting, question: greeting/who, type: string, value: "{{ build.hostname }}"}]
    repositories: [{name: greetings, uris: ["`+uri+`"], suites: ["./"], key: greeter/archive.asc}]
    packages: [greeting, cron, logrotate]
    files:
      - {path: /etc/motd, source: greeter/motd}
      - {path: /srv/deep/er/secret, content: "{{ greeting }}", mode: "0600", owner: alice, group: staff}
    templates: [{path: /srv/page.html, source: greeter/page.j2}]
    services: {disabled: [cron], masked: [apt-daily.timer]}
    roles: [stamp]
  - name: People
    users:
      - {name: bob, groups: [staff, builders], shell: /bin/sh, ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2eqqFVuNxmEuAyFpHPKUkOGyMSW0ZZtEIXqkKOsJYz bob"], sudo: true, password_hash: "$6$salt$hash"}
`)
	write(t, filepath.Join(folder, "install.d/greeter/10-alice.yml"), "install: [{name: Late, users: [{name: carol, uid: 4242, system: true}]}]\n")
	write(t, filepath.Join(folder, "install.d/greeter.yml.unused"), "not read")
	write(t, filepath.Join(folder, "commands.d/greeter.yml"), `
commands:
  - name: Environment and folder
    run: |
      false || echo "$WHO in $(pwd) says {{ greeting }} {{ answer }}" > said
      echo 'tmpfs /srv/ram tmpfs size=1M,noauto 0 0' >> /etc/fstab
      echo '192.0.2.1 printer' > /etc/hosts
      apt-get -q -y remove logrotate
      python3 -c 'import socket; socket.socket().bind(("127.0.0.1", 923))'
      test "$(umask)" = 0022 && test "$(stat -c %a /dev/shm)" = 1777
    chdir: /srv
    environment: {WHO: "{{ build.name }}"}
  - name: Not twice
    run: echo overwritten > /srv/said
    creates: /srv/said
  - name: Without a shell
    argv: [touch, "/srv/a b $HOME"]
`)
	first := user.run(t, "build", "greeter", "--no-test")
	if first.code != 4 {
		t.Fatalf("alice does not exist, yet the exit code is %d\n%s", first.code, first.stderr)
	}
	user.owns(t, "images", "images/greeter.failed", "images/greeter.failed/build.log")
	for _, want := range []string{"greeter", "install.d/greeter.yml:7", "Greeting: files", "alice", "images/greeter.failed/build.log"} {
		if !strings.Contains(first.stderr, want) {
			t.Errorf("the failure does not name %q:\n%s", want, first.stderr)
		}
	}
	user.good(t, "build", "greeter", "--no-test", "--set", "vars.greeting=Good evening", "--definitions", withAlice(t, folder), "-o", "images")

	user.owns(t, "images", "images/greeter", "images/greeter/build.log", "images/greeter/greeter-13-amd64.raw")
	user.vmctl(t, "push", "greeter", "--force-untested")

	d := openDisk(t, filepath.Join(folder, "images/greeter/greeter-13-amd64.raw"))
	for path, want := range map[string]string{
		"/usr/share/greeting/text":       "hello greeter\n",
		"/etc/motd":                      "{{ not a template }}\n",
		"/srv/deep/er/secret":            "Good evening",
		"/srv/page.html":                 "Good evening from greeter on trixie\n",
		"/srv/said":                      "greeter in /srv says Good evening 42\n",
		"/etc/stamp":                     "by image black the role's the role's default",
		"/etc/hostname":                  "greeter\n",
		"/etc/sudoers.d/bob":             "bob ALL=(ALL:ALL) NOPASSWD: ALL\n",
		"/home/bob/.ssh/authorized_keys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2eqqFVuNxmEuAyFpHPKUkOGyMSW0ZZtEIXqkKOsJYz bob\n",
	} {
		if got := d.cat(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if hosts := d.cat("/etc/hosts"); !strings.Contains(hosts, "127.0.1.1\tgreeter\n") || !strings.HasSuffix(hosts, "192.0.2.1 printer\n") {
		t.Errorf("hosts: %s", hosts)
	}
	if fstab := d.cat("/etc/fstab"); !strings.Contains(fstab, " / ext4 ") || !strings.HasSuffix(fstab, "tmpfs /srv/ram tmpfs size=1M,noauto 0 0\n") {
		t.Errorf("fstab: %s", fstab)
	}
	if packages := tool(t, "cat", filepath.Join(folder, "images/greeter/packages.json")); strings.Contains(packages, `"name": "logrotate"`) || !strings.Contains(packages, `"name": "greeting"`) {
		t.Error("packages.json lists a package that was removed, or lacks one")
	}
	if sources := d.cat("/etc/apt/sources.list.d/debian.sources"); !strings.Contains(sources, "Suites: trixie trixie-updates\n") || !strings.Contains(sources, "Signed-By: /usr/share/keyrings/") {
		t.Errorf("Debian's own sources: %s", sources)
	}
	if sources := d.cat("/etc/apt/sources.list.d/greetings.sources"); !strings.Contains(sources, "Signed-By: /etc/apt/keyrings/greetings.asc") {
		t.Errorf("sources: %s", sources)
	}
	if stat := d.stat("/srv/deep/er/secret"); !strings.Contains(stat, "Mode:  0600") || strings.Contains(stat, "User:     0 ") {
		t.Errorf("permissions: %s", stat)
	}
	if passwd := d.cat("/etc/passwd"); !strings.Contains(passwd, "carol:x:4242:") || !strings.Contains(passwd, ":/bin/sh\n") {
		t.Errorf("accounts: %s", passwd)
	}
	if preset := d.cat("/etc/systemd/system-preset/00-image.preset"); !strings.Contains(preset, "disable cron.service") {
		t.Errorf("cron would be enabled on the first boot: %s", preset)
	}
	if stat := d.stat("/etc/systemd/system/apt-daily.timer"); !strings.Contains(stat, "/dev/null") {
		t.Errorf("apt-daily.timer is not masked: %s", stat)
	}
	if names := d.ls("/srv"); !strings.Contains(strings.Join(names, "|"), "a b $HOME") {
		t.Errorf("/srv holds %v", names)
	}
}

// digest is the SHA-256 of a file.
func digest(t *testing.T, path string) string {
	t.Helper()
	return tool(t, "sha256sum", "--", path)[:64]
}

// sudoUser is somebody without privileges in whose name vmctl runs as root.
type sudoUser struct {
	caller
	folder string
	id     uint32
}

// callSudo is a user of folder who calls sudo.
func callSudo(t *testing.T, folder string) sudoUser {
	t.Helper()
	const id = 12345
	u := sudoUser{caller{folder, sudo(id)}, folder, id}
	if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "cp", vmctl, filepath.Join(folder, "vmctl"))
	return u
}

// sudo is what sudo tells of its caller.
func sudo(id int) []string {
	return []string{fmt.Sprintf("SUDO_UID=%d", id), fmt.Sprintf("SUDO_GID=%d", id)}
}

// owns fails the test for each path that is not the user's.
func (u sudoUser) owns(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		info, err := os.Stat(filepath.Join(u.folder, path))
		if err != nil {
			t.Error(err)
		} else if owner := info.Sys().(*syscall.Stat_t); owner.Uid != u.id || owner.Gid != u.id {
			t.Errorf("%s belongs to %d:%d", path, owner.Uid, owner.Gid)
		}
	}
}

// vmctl runs it without root.
func (u sudoUser) vmctl(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(u.folder, "vmctl"), args...)
	cmd.Dir, cmd.Env = u.folder, []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.id, Gid: u.id}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("vmctl %s without root: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// withAlice is the same definitions with the account that the first entry
// needs, as a drop-in of the build that it extends.
func withAlice(t *testing.T, folder string) string {
	t.Helper()
	write(t, filepath.Join(folder, "install.d/debian/alice.yml"), "install: [{name: Alice, users: [{name: alice}]}]\n")
	return "."
}

// TestABuildThatDoesNotComeUpIsNoImage builds an image with a unit that fails.
func TestABuildThatDoesNotComeUpIsNoImage(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "install.d/bad.yml"), `
extends: debian
firmware: [bios]
install:
  - name: A unit that fails
    files: [{path: /etc/systemd/system/bad.service, content: "[Service]\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n"}]
    services: {enabled: [bad]}
`)
	write(t, filepath.Join(folder, "images/bad/build.json"), `{"name": "bad", "definition": {}}`)
	write(t, filepath.Join(folder, "images/bad/before"), "the good one")
	r := run(t, folder, "build", "bad")
	if r.code != 5 || !strings.Contains(r.stderr, "failed units: bad.service") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	if images, _ := filepath.Glob(filepath.Join(folder, "images/*/*.qcow2")); len(images) > 0 {
		t.Errorf("left as good: %v", images)
	}
	if before := tool(t, "cat", filepath.Join(folder, "images/bad/before")); before != "the good one" {
		t.Errorf("the build before is now %q", before)
	}
	if logs, _ := filepath.Glob(filepath.Join(folder, "images/bad.failed/*.log")); len(logs) != 2 {
		t.Errorf("logs: %v", logs)
	}
}
