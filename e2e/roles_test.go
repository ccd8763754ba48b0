//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator"
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

// TestRolesForRunningMachines builds with roles, a collection and a playbook that were
// written for machines which run. The image asks itself whether all of it works: a unit that
// fails is told by the boot test.
func TestRolesForRunningMachines(t *testing.T) {
	debian(t)
	folder := project(t)
	builder := func() string {
		return tool(t, "sh", "-c", "cat /proc/sys/net/ipv4/conf/all/log_martians /proc/mounts /etc/passwd /etc/group /etc/hostname; date +%Z; ls /etc/systemd/system /etc/cron.d")
	}
	before := builder()
	r := good(t, folder, "build", "site")
	if after := builder(); after != before {
		t.Errorf("the builder has changed:\n%s\nbefore:\n%s", after, before)
	}
	var m orchestrator.Manifest
	readJSON(t, filepath.Join(folder, "images/site/build.json"), &m)
	for _, call := range []string{"systemctl start nginx", "systemctl start worker@one", "systemctl start ask", "reboot", "sysctl -p /etc/sysctl.d/90-hardening.conf"} {
		if !slices.Contains(m.Deferred, call) || !strings.Contains(r.stderr, "deferred "+call) {
			t.Errorf("not deferred: %s\n%v\n%s", call, m.Deferred, r.stderr)
		}
	}
	if got := good(t, folder, "shell", "site", "--", "cat", "/etc/motd").stdout; got != "FROM THE DEFINITION!\n" {
		t.Errorf("motd: %q", got)
	}
	for path, want := range map[string]int{"/etc/not-among-the-tags": 1, "/etc/systemd/system/multi-user.target.wants/worker@one.service": 0} {
		if code := run(t, folder, "shell", "site", "--", "test", "-L", path, "-o", "-e", path).code; code != want {
			t.Errorf("%s: %d", path, code)
		}
	}

	t.Run("what acts on the builder is refused", func(t *testing.T) {
		escaped := filepath.Join(t.TempDir(), "escaped")
		playbook := func(task string) {
			write(t, filepath.Join(folder, "playbooks/site.yml"), "- hosts: all\n  gather_facts: false\n  tasks:\n    - "+task+"\n")
		}
		delegated := "{command: touch " + escaped + ", delegate_to: localhost}"
		for name, task := range map[string]string{"delegated": delegated, "local": "{local_action: command touch " + escaped + "}"} {
			playbook(task)
			r := run(t, folder, "build", "site", "--no-test")
			if r.code != 4 || !strings.Contains(r.stderr, "--allow-localhost") || !strings.Contains(r.stderr, "install.d/site.yml:15") || !strings.Contains(r.stderr, "playbooks/site.yml:4") {
				t.Errorf("%s: %d\n%s", name, r.code, r.stderr)
			}
			if _, err := os.Lstat(escaped); err == nil {
				t.Errorf("%s: it was done", name)
			}
		}
		playbook(delegated)
		good(t, folder, "build", "site", "--no-test", "--allow-localhost")
		if _, err := os.Lstat(escaped); err != nil {
			t.Error(err)
		}
		playbook("{command: touch /etc/in-the-image, connection: local}") // which is that of the one host
		good(t, folder, "build", "site", "--no-test")
		good(t, folder, "shell", "site", "--", "test", "-e", "/etc/in-the-image")
	})

	t.Run("what counts as changed", func(t *testing.T) {
		write(t, filepath.Join(folder, "playbooks/site.yml"), "- hosts: all\n  tasks: []\n")
		good(t, folder, "build", "site", "--no-test")
		for name, change := range map[string]struct{ path, content, first string }{
			"group_vars": {"group_vars/all.yml", "site_contact: somebody\nsite_name: x\n", "install.d/site.yml:8 Web"},
			"a filter":   {"filter_plugins/other.py", "class FilterModule:\n    def filters(self):\n        return {}\n", "install.d/site.yml:8 Web"},
			"a role":     {"roles/hardening/tasks/extra.yml", "[]\n", "install.d/site.yml:10 Machine"},
			"a playbook": {"playbooks/tasks/extra.yml", "[]\n", "install.d/site.yml:14 Playbook"},
		} {
			write(t, filepath.Join(folder, change.path), change.content)
			r := good(t, folder, "build", "site", "--no-test")
			if strings.Contains(r.stderr, "cached   "+change.first) || r.stages()["Layer site"] != "done" {
				t.Errorf("%s: it did not count\n%s", name, r.stderr)
			}
		}
	})
}
