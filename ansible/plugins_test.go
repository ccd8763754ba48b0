package ansible_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/ansible"
)

// Tasks and handlers of a playbook for a machine that runs, as Ansible itself runs them: what
// acts on a running system is a call of a stand-in, whatever PATH a task sets and by its path too, and facts are the
// machine's.
func TestTasksForRunningMachines(t *testing.T) {
	folder, standIns, told := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "told")
	for name, content := range map[string]string{
		filepath.Join(standIns, "reboot"):   "#!/bin/sh\necho ${0##*/} $* >>" + told + "\n",
		filepath.Join(standIns, "modprobe"): "#!/bin/sh\necho ${0##*/} $* >>" + told + "\n",
		filepath.Join(folder, "playbooks/site.yml"): `- hosts: all
  gather_facts: false
  vars: {chosen: b=2}
  tasks:
    - modprobe: {name: first, params: "{{ none_such | default(omit) }}", persistent: "{{ none_such | default(omit) }}"}
      notify: [restart, load]
    - modprobe: {name: second, state: "{{ 'absent' }}"}
    - setup: {gather_subset: '!all', filter: '*_mb'}
      register: found
    - assert: {that: "found.ansible_facts == {'ansible_memtotal_mb': 7}"}
    - command: modprobe third
      environment: {PATH: /usr/sbin:/usr/bin}
    - shell: "/sbin/modprobe {{ 'fourth' }} && echo /sbin/modprobe >>` + told + `"
    - command: {argv: [/usr/sbin/modprobe, "{{ chosen }}"]}
  handlers:
    - {name: restart, reboot: }
    - {name: load, modprobe: {name: "{{ 'fif' + 'th' }}", params: "a=1 {{ chosen }}"}}
`,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	r := ansible.Run{
		Local: true, Scratch: t.TempDir(), Playbooks: os.DirFS("playbooks"), Machine: map[string]any{"memtotal_mb": 7}, Epoch: time.Unix(0, 0),
		Project: ansible.Project{Folder: folder, Playbooks: []string{"site.yml"}},
		Entries: []ansible.Entry{{Origin: "x", Name: "Command", Parts: map[string]any{
			"run": "modprobe of-an-entry", "environment": map[string]any{"PATH": "/usr/sbin:/usr/bin"}, "chdir": "/",
		}}},
		Command: exec.CommandContext, Env: []string{"PATH=" + standIns + ":/usr/sbin:/usr/bin:/sbin:/bin", "VMCTL_STAND_INS=" + standIns, "VMCTL_STOOD_FOR=modprobe reboot", "LC_ALL=C.UTF-8"}, Log: &log,
	}
	if err := r.Apply(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	got, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	const want = "modprobe of-an-entry\nmodprobe first\nmodprobe third\nmodprobe fourth\n/sbin/modprobe\nmodprobe b=2\nreboot\nmodprobe fifth a=1 b=2\n"
	if string(got) != want {
		t.Errorf("what was called:\n%swant:\n%s%s", got, want, &log)
	}
}
