//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/machine"
)

// project copies testdata/project into a folder whose name is not plain.
func project(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "an {{ odd }} name")
	if err := os.CopyFS(folder, os.DirFS("testdata/project")); err != nil {
		t.Fatal(err)
	}
	return folder
}

// servedArchive is an archive of this machine's, which has a signed package, and an agent as a tarball:
// by one URL for this machine and for guests.
func servedArchive(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "engine/DEBIAN/control"), "Package: engine\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\nDepends: python3\nDescription: runs what is in containers\n")
	write(t, filepath.Join(dir, "engine/DEBIAN/postinst"), "#!/bin/sh\nset -e\ngetent group engine >/dev/null || groupadd --system engine\ndeb-systemd-helper enable engine.service >/dev/null\n[ ! -d /run/systemd/system ] || deb-systemd-invoke start engine.service\n")
	write(t, filepath.Join(dir, "engine/usr/lib/systemd/system/engine.service"), "[Service]\nExecStart=/usr/sbin/engined\n[Install]\nWantedBy=multi-user.target\n")
	write(t, filepath.Join(dir, "engine/usr/sbin/engined"), `#!/usr/bin/python3
import os, shutil, socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        with open("/etc/engine/daemon.json", "rb") as options:
            self.wfile.write(options.read())
if os.path.exists("/run/engine.socket"):
    os.unlink("/run/engine.socket")
server = socketserver.UnixStreamServer("/run/engine.socket", Handler)
shutil.chown("/run/engine.socket", group="engine")
os.chmod("/run/engine.socket", 0o660)
server.serve_forever()
`)
	write(t, filepath.Join(dir, "engine/usr/bin/engine"), `#!/usr/bin/python3
import socket
engine = socket.socket(socket.AF_UNIX)
engine.connect("/run/engine.socket")
print(engine.makefile().read(), end="")
`)
	write(t, filepath.Join(dir, "agent-1.2/agent"), `#!/usr/bin/python3
import http.server, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("agent 1.2"))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(" ".join(sys.argv[3:]).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
`)
	tool(t, "sh", "-c", `set -e; cd "$0"
export GNUPGHOME="$0/gnupg"
mkdir -m 700 gnupg; mkdir www
gpg --batch --quiet --passphrase '' --quick-generate-key 'Engines <engines@example.org>' rsa3072 sign never
gpg --batch --armor --export >www/archive.asc
chmod 755 engine/DEBIAN/postinst engine/usr/sbin/engined engine/usr/bin/engine agent-1.2/agent
dpkg-deb --build --root-owner-group engine www/engine_1.0_all.deb >/dev/null
cd www
apt-ftparchive packages . >Packages
apt-ftparchive release . >Release
gpg --batch --quiet --clearsign --output InRelease Release
gpgconf --kill all
tar -C .. --owner root --group root -czf agent-1.2.tar.gz agent-1.2
sha256sum agent-1.2.tar.gz >agent.sha256`, dir)
	listener, err := net.Listen("tcp", net.JoinHostPort(ownAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(dir, "www")))}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String()
}

// ownAddress is an address of this machine that guests reach, too.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if network, ok := one.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	t.Fatal("this machine has no address but its own loopback's, which guests do not reach")
	return ""
}

// TestRolesForRunningMachines builds with roles, a collection and a playbook that were
// written for machines which run, as they are. A machine of the image is asked whether all of it works,
// and the roles find nothing to change there.
func TestRolesForRunningMachines(t *testing.T) {
	debian(t)
	folder := project(t)
	in := caller{folder, []string{"no_proxy=" + ownAddress(t), "XDG_STATE_HOME=" + t.TempDir()}}
	url := servedArchive(t)
	write(t, filepath.Join(folder, "install.d/site/archive.yml"), "vars: {archive_url: '"+url+"'}\n")
	builder := func() string {
		return tool(t, "sh", "-c", "cat /proc/sys/net/ipv4/conf/all/log_martians /proc/sys/kernel/kptr_restrict /proc/mounts /etc/passwd /etc/group /etc/hostname; date +%Z; ls /etc/systemd/system /etc/cron.d /etc/apt/sources.list.d")
	}
	before := builder()
	r := in.good(t, "build", "site", "--no-test")
	if after := builder(); after != before {
		t.Errorf("the builder has changed:\n%s\nbefore:\n%s", after, before)
	}
	var m orchestrator.Manifest
	readJSON(t, filepath.Join(folder, "images/site/build.json"), &m)
	for _, call := range []string{"systemctl start nginx", "systemctl start worker@one", "systemctl start ask", "reboot", "sysctl -p /etc/sysctl.d/90-hardening.conf", "systemctl start engine", "mount /dev/shm", "update-grub", "udevadm trigger", "modprobe loop"} {
		if !slices.Contains(m.Deferred, call) || !strings.Contains(r.stderr, "deferred "+call) {
			t.Errorf("not deferred: %s\n%v\n%s", call, m.Deferred, r.stderr)
		}
	}
	for _, unit := range []string{"agent.service", "ask.service", "chrony.service", "engine.service", "fail2ban.service", "nginx.service", "worker@one.service"} {
		if !slices.Contains(m.Starts, unit) {
			t.Errorf("not told to start: %s\n%v", unit, m.Starts)
		}
	}
	if got := m.FactsRead["install.d/site.yml:13"]; !slices.Equal(got, []string{"architecture", "default_ipv4", "distribution", "distribution_major_version"}) || !strings.Contains(r.stderr, "  starts   agent, ") {
		t.Errorf("facts of the services: %v\n%s", got, r.stderr)
	}
	if got := in.good(t, "shell", "site", "--", "cat", "/etc/motd").stdout; got != "FROM THE DEFINITION!\n" {
		t.Errorf("motd: %q", got)
	}
	for path, want := range map[string]int{"/etc/not-among-the-tags": 1, "/etc/systemd/system/multi-user.target.wants/worker@one.service": 0} {
		if code := in.run(t, "shell", "site", "--", "test", "-L", path, "-o", "-e", path).code; code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	t.Parallel() // up to here the archives of another hour would matter
	t.Run("a machine of it", func(t *testing.T) { askedAndProvisionedAgain(t, in, url) })

	t.Run("what acts on the builder is refused", func(t *testing.T) {
		escaped := filepath.Join(t.TempDir(), "escaped")
		playbook := func(task string) {
			write(t, filepath.Join(folder, "playbooks/site.yml"), "- hosts: all\n  gather_facts: false\n  tasks:\n    - "+task+"\n")
		}
		delegated := "{command: touch " + escaped + ", delegate_to: localhost}"
		for name, task := range map[string]string{"delegated": delegated, "local": "{local_action: command touch " + escaped + "}"} {
			playbook(task)
			r := in.run(t, "build", "site", "--no-test", "--format", "raw")
			if r.code != 4 || !strings.Contains(r.stderr, "--allow-localhost") || !strings.Contains(r.stderr, "install.d/site.yml:17") || !strings.Contains(r.stderr, "playbooks/site.yml:4") {
				t.Errorf("%s: %d\n%s", name, r.code, r.stderr)
			}
			if _, err := os.Lstat(escaped); err == nil {
				t.Errorf("%s: it was done", name)
			}
		}
		playbook(delegated)
		in.good(t, "build", "site", "--no-test", "--format", "raw", "--allow-localhost")
		if _, err := os.Lstat(escaped); err != nil {
			t.Error(err)
		}
		playbook("{command: touch /etc/in-the-image, connection: local}") // which is that of the one host
		in.good(t, "build", "site", "--no-test", "--format", "raw")
		in.good(t, "shell", "site", "--", "test", "-e", "/etc/in-the-image")
	})

	t.Run("what counts as changed", func(t *testing.T) {
		write(t, filepath.Join(folder, "playbooks/site.yml"), "- hosts: all\n  tasks: []\n")
		content, err := os.ReadFile(filepath.Join(folder, "install.d/site.yml"))
		if err != nil {
			t.Fatal(err)
		}
		const services = "  - name: Services\n    roles: [engine, agent, banned]\n" // which take long, and count no otherwise
		write(t, filepath.Join(folder, "install.d/site.yml"), strings.Replace(string(content), services, "", 1))
		in.good(t, "build", "site", "--no-test", "--format", "raw")
		for name, change := range map[string]struct{ path, content, first string }{
			"group_vars": {"group_vars/all.yml", "site_contact: somebody\nsite_name: x\n", "install.d/site.yml:9 Web"},
			"a filter":   {"filter_plugins/other.py", "class FilterModule:\n    def filters(self):\n        return {}\n", "install.d/site.yml:9 Web"},
			"a role":     {"roles/hardening/tasks/extra.yml", "[]\n", "install.d/site.yml:11 Machine"},
			"a playbook": {"playbooks/tasks/extra.yml", "[]\n", "install.d/site.yml:15 Playbook"},
		} {
			write(t, filepath.Join(folder, change.path), change.content)
			r := in.good(t, "build", "site", "--no-test", "--format", "raw")
			if strings.Contains(r.stderr, "cached   "+change.first) || r.stages()["Layer site"] != "done" {
				t.Errorf("%s: it did not count\n%s", name, r.stderr)
			}
		}
	})
}

// askedAndProvisionedAgain starts the machine, asks whether what the roles have made works, and
// applies them once more, by ssh.
func askedAndProvisionedAgain(t *testing.T, in caller, url string) {
	t.Cleanup(func() { in.run(t, "clean", "site") })
	in.good(t, "launch", "site", "--timeout", "10m")
	told := in.good(t, "ssh", "site", "--", `systemctl is-system-running --wait; systemctl --failed --plain --no-legend; /usr/local/bin/ask 2>&1 | sort -u
su deploy -c engine | tr -d ' \n'; echo
python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9100/").read().decode())'
fail2ban-client status sshd | grep -c 'Currently banned'
date +%Z; locale -a | grep de_DE; crontab -u deploy -l | grep -c /bin/true; chronyc -n sources >/dev/null && echo chrony
cat /proc/sys/kernel/kptr_restrict; findmnt --noheadings --output OPTIONS /dev/shm | grep -o noexec; modprobe --dry-run --show-depends cramfs`).stdout
	zone := strings.Fields(tool(t, "env", "TZ=Europe/Berlin", "date", "+%Z"))[0]
	const want = `running
active
{"log-driver":"journald"}
--of Debian-13
1
ZONE
de_DE.utf8
1
chrony
2
noexec
install /bin/true
`
	if told = strings.ReplaceAll(told, " \n", "\n"); told != strings.Replace(want, "ZONE", zone, 1) {
		t.Errorf("the machine says:\n%s", told)
	}

	var all []machine.Status
	in.good(t, "ps", "--json").read(t, &all)
	key := strings.TrimSpace(tool(t, "find", strings.TrimPrefix(in.env[1], "XDG_STATE_HOME="), "-name", "key"))
	plain := t.TempDir() // Ansible alone renders the names of folders
	if err := os.CopyFS(filepath.Join(plain, "roles"), os.DirFS(filepath.Join(in.dir, "roles"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(plain, "again.yml"), "- {hosts: all, roles: [common, hardening, engine, agent, banned]}\n")
	write(t, filepath.Join(plain, "inventory.yml"), fmt.Sprintf(`all:
  hosts:
    site: {ansible_host: 127.0.0.1, ansible_port: %d, ansible_user: root, ansible_ssh_private_key_file: %s, ansible_become_method: su, ansible_su_flags: -s /bin/sh, archive_url: %q,
      ansible_python_interpreter: /usr/bin/python3, ansible_ssh_common_args: -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes}
`, all[0].Run.SSHPort(), key, url))
	cmd := exec.Command("ansible-playbook", "--inventory", "inventory.yml", "--diff", "again.yml")
	cmd.Dir, cmd.Env = plain, append(append(os.Environ(), in.env...), "ANSIBLE_PIPELINING=1", "ANSIBLE_LOCAL_TEMP="+t.TempDir(), "LC_ALL=C.UTF-8")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("ansible-playbook took %.0f s", time.Since(began).Seconds())
	if err != nil || !regexp.MustCompile(`(?m)^site .* changed=0 .* failed=0 `).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
}
