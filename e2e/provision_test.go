//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/machine"
)

// TestProvision makes an image of another one, by a script that is typed at the console, without
// a network, and boots it: it has what the script made, and nothing of the machine in which it
// ran. A playbook over ssh, whose last task fails, leaves nothing, however long $TMPDIR is.
func TestProvision(t *testing.T) {
	t.Parallel()
	b := debian(t)
	folder := t.TempDir()
	original := b.image("qcow2")
	before := digest(t, original)

	write(t, filepath.Join(folder, "setup.sh"), `#!/bin/bash
set -e
echo "from ${BASH_VERSION%%.*} on $(ls /sys/class/net | wc -l) networks, as $(id -u)"
echo made >/srv/made
`)
	var made struct {
		Path  string
		Boots []struct{ Passed bool }
	}
	r := good(t, folder, "provision", original, "setup.sh", "--via", "console", "--network", "none", "--name", "made", "--firmware", "bios", "--json")
	r.read(t, &made)
	if made.Path != "made.qcow2" || len(made.Boots) != 1 || !made.Boots[0].Passed || !strings.Contains(r.stderr, "  | from 5 on 2 networks, as 0\n") {
		t.Errorf("%+v\n%s", made, r.stderr)
	}
	r = run(t, folder, "diff", original, "made.qcow2", "--all")
	var content []string // what differs in more than its time
	for line := range strings.Lines(r.stdout) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") && (!strings.Contains(line, ": mtime") || strings.Contains(line, ";")) {
			content = append(content, line)
		}
	}
	const want = "/boot/grub/grubenv: only in b\n/srv/made: only in b\n"
	for _, line := range content {
		known := strings.Contains(want, line+"\n")
		for _, volatile := range []string{"/var/lib/systemd/", "/var/lib/wtmpdb/", "/root/.ssh: only"} {
			known = known || strings.HasPrefix(line, volatile)
		}
		if !known {
			t.Errorf("the image differs in %s", line)
		}
	}
	if !strings.Contains(r.stdout, "/srv/made: only in b") {
		t.Errorf("the script has made nothing:\n%s", r.stdout)
	}

	write(t, filepath.Join(folder, "roles/motd/tasks/main.yml"), "- ansible.builtin.lineinfile: {path: /etc/motd, line: \"of {{ ansible_distribution }}\", create: true}\n")
	write(t, filepath.Join(folder, "site.yml"), "- hosts: all\n  roles: [motd]\n  tasks: [{ansible.builtin.shell: \"echo FAILING >&2; exit 3\"}]\n")
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 20)) // ssh makes no socket below it
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	r = caller{folder, []string{"TMPDIR=" + long}}.run(t, "provision", original, "site.yml", "--name", "failed", "--firmware", "bios")
	if r.code != 4 || !strings.Contains(r.stderr, "changed: [image]") || !strings.Contains(r.stderr, "FAILING") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}

	if digest(t, original) != before {
		t.Error("the original was changed")
	}
	var machines []machine.Status
	good(t, folder, "ps", "--json").read(t, &machines)
	for _, m := range machines {
		if strings.HasPrefix(m.Name, "provision-") {
			t.Errorf("left: %s", m.Name)
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 4 { // the image, the script, the playbook, its role
		t.Errorf("left: %v, %v", left, err)
	}
}
