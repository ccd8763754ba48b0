package ansible_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/btw-img/btw-img/ansible"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestInventory(t *testing.T) {
	for name, guest := range map[string]string{"inventory.golden": "", "inventory-guest.golden": "/work/agent", "inventory-local.golden": ""} {
		kept := filepath.Join(t.TempDir(), "inventory")
		r := fakeAnsible(t, "cp inventory.yml "+kept)
		r.Root, r.Guest, r.Variables = "/work/root: #1", guest, map[string]any{"zone": "Etc/UTC"}
		if r.Local = name == "inventory-local.golden"; r.Local {
			r.Root = ""
		}
		if err := r.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		inventory, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		golden.Equal(t, name, string(inventory))
	}
}

// Each entry has the tasks that it needs, and no others.
func TestPlay(t *testing.T) {
	kept := filepath.Join(t.TempDir(), "play")
	r := fakeAnsible(t, `cp playbooks/layer.yml `+kept)
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	var play bytes.Buffer
	if err := json.Indent(&play, content, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "play.golden", play.String()+"\n")
}

// What became of each item is for the log, but not where no_log hides it.
func TestItemsAreLogged(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
{"_event":"v2_runner_on_ok","hosts":{"image":{"action":"vmctl","changed":true,"results":[{"item":"/a","changed":true},{"item":"/b","stdout":"printed\n"}]}},"task":{"name":"[1] Web: files"}}
{"_event":"v2_runner_on_ok","hosts":{"image":{"action":"vmctl","changed":true,"censored":"the output has been hidden"}},"task":{"name":"[1] Web: files"}}
EOF`)
	var log bytes.Buffer
	r.Log = &log
	var outputs []string
	r.OnEvent = func(e ansible.Event) { outputs = append(outputs, e.Output) }
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"changed => /a\nok => /b\nprinted", ""}; !slices.Equal(outputs, want) {
		t.Errorf("the outputs are %q", outputs)
	}
	const want = `changed: [install.d/x.yml:9] Web: files
changed: [install.d/x.yml:9] Web: files => /a
ok: [install.d/x.yml:9] Web: files => /b
changed: [install.d/x.yml:9] Web: files
`
	if log.String() != want {
		t.Errorf("the log is %s", &log)
	}
}

// What has changed in files is told with the task that has changed them.
func TestDifferencesAreTold(t *testing.T) {
	r := fakeAnsible(t, `echo "$@" >arguments; cat <<'EOF'
{"_event":"vmctl_diff","diff":"--- before: /a\n+++ after: /a\n@@ -1 +1 @@\n-one\n+two\n\n"}
{"_event":"v2_runner_on_ok","hosts":{"image":{"action":"lineinfile","changed":true}},"task":{"name":"Line"}}
{"_event":"v2_runner_on_ok","hosts":{"image":{"action":"command","changed":true}},"task":{"name":"Other"}}
EOF`)
	var log bytes.Buffer
	r.Log, r.Diff = &log, true
	var told []string
	r.OnEvent = func(e ansible.Event) { told = append(told, e.Task, e.Diff) }
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	const diff = "--- before: /a\n+++ after: /a\n@@ -1 +1 @@\n-one\n+two"
	if want := []string{"Line", diff, "Other", ""}; !slices.Equal(told, want) {
		t.Errorf("told: %q", told)
	}
	if want := "changed: [] Line\n" + diff + "\nchanged: [] Other\n"; log.String() != want {
		t.Errorf("the log is %s", &log)
	}
	if arguments, err := os.ReadFile(filepath.Join(r.Scratch, "arguments")); err != nil || !bytes.Contains(arguments, []byte("--diff")) {
		t.Errorf("ansible-playbook was called with %s, %v", arguments, err)
	}
}

// fakeAnsible is a script on PATH in place of ansible-playbook.
func fakeAnsible(t *testing.T, script string) ansible.Run {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ansible-playbook"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return ansible.Run{
		Root: "/tree", Scratch: filepath.Join(t.TempDir(), "scratch"), Env: []string{"PATH=" + os.Getenv("PATH")},
		Playbooks: fstest.MapFS{"packages.yml": {Data: []byte("[]")}},
		Entries: []ansible.Entry{
			{Origin: "install.d/x.yml:7", Name: "Web", Parts: map[string]any{"packages": []string{"nginx"}, "recommends": true}},
			{Origin: "install.d/x.yml:9", Name: "{{ name }}", NoLog: true, Parts: map[string]any{"files": []map[string]string{{"path": "/a", "content": "hunter2"}}, "services": map[string]any{}}},
			{Origin: "commands.d/x.yml:2", Name: "Command", Facts: true, Parts: map[string]any{"run": "true\n"}},
			{Origin: "install.d/x.yml:12", Name: "Nothing", Parts: map[string]any{"templates": []any{}}},
		},
		Variables: map[string]any{"password": "hunter2"},
		Command:   host.Grouped,
	}
}

const (
	start  = `{"_event":"v2_playbook_on_task_start","hosts":{},"task":{"name":"[0] Web: packages nginx"}}`
	okLine = `{"_event":"v2_runner_on_ok","hosts":{"image":{"changed":true}},"task":{"name":"[0] Web: packages nginx"}}`
	failed = `{"_event":"v2_runner_on_failed","hosts":{"image":{"failed":true,"msg":"non-zero return code","rc":100,"stderr":"E: no such package\nE: give up"}},"task":{"name":"[0] Web: packages nginx"}}`
)

func TestEventsAreToldAsTheyCome(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
`+start+`
`+okLine+`
EOF`)
	var events []ansible.Event
	r.OnEvent = func(e ansible.Event) { events = append(events, e) }
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := ansible.Event{Origin: "install.d/x.yml:7", Task: "Web: packages nginx", Status: "changed"}
	if len(events) != 2 || events[0].Status != "started" || events[1] != want {
		t.Errorf("%+v", events)
	}
}

func TestAFailedTaskIsNamedWithItsOutput(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
`+failed+`
EOF
exit 2`)
	err := r.Apply(t.Context())
	if fail.ExitCode(err) != 4 || err.Error() != "install.d/x.yml:7: Web: packages nginx: non-zero return code (exit status 100)" {
		t.Errorf("error %q", err)
	}
	if fail.Tail(err) != "E: no such package\nE: give up" {
		t.Errorf("tail %q", fail.Tail(err))
	}
}

// Whoever waits for a service is told where services run, but not where they do.
func TestWhatWaitsForAServiceIsToldOfGuests(t *testing.T) {
	for result, hinted := range map[string]bool{
		`"action":"ansible.builtin.wait_for","msg":"Timeout when waiting for 127.0.0.1:5432"`:                        true,
		`"action":"uri","msg":"Status code was -1 and not [200]"`:                                                    true,
		`"action":"community.postgresql.postgresql_user","msg":"unable to connect to database"`:                      true,
		`"action":"ansible.builtin.command","msg":"non-zero return code","rc":2,"stderr":"psql: Connection refused"`: true,
		`"action":"ansible.builtin.command","msg":"non-zero return code","rc":2,"stderr":"E: no such package"`:       false,
		`"action":"ansible.builtin.copy","msg":"uri is missing"`:                                                     false,
	} {
		for _, guest := range []string{"", "/socket"} {
			r := fakeAnsible(t, "cat <<'EOF'\n"+`{"_event":"v2_runner_on_failed","hosts":{"image":{"failed":true,`+result+`}},"task":{"name":"[0] x"}}`+"\nEOF\nexit 2")
			r.Guest = guest
			if hint := fail.Hint(r.Apply(t.Context())); strings.Contains(hint, "on: boot") != (hinted && guest == "") {
				t.Errorf("%s in guest %q: hint %q", result, guest, hint)
			}
		}
	}
}

func TestTheItemThatFailedSpeaksForItsLoop(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
{"_event":"v2_runner_on_failed","hosts":{"image":{"failed":true,"msg":"One or more items failed","results":[{"failed":false},{"failed":true,"msg":"no such file /x"}]}},"task":{"name":"[1] files"}}
EOF
exit 2`)
	if err := r.Apply(t.Context()); err == nil || err.Error() != "install.d/x.yml:9: files: no such file /x" {
		t.Errorf("error %v", err)
	}
}

func TestAHiddenTaskStaysHidden(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
{"_event":"v2_runner_on_failed","hosts":{"image":{"failed":true,"censored":"the output has been hidden"}},"task":{"name":"[1] files"}}
EOF
exit 2`)
	err := r.Apply(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no_log hides why") {
		t.Errorf("error %v", err)
	}
}

// A template that cannot be read fails the task that goes through all entries, which
// no_log of one of them does not hide.
func TestAFailedTemplateTellsNoValues(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
{"_event":"v2_runner_on_failed","hosts":{"image":{"_ansible_no_log":false,"action":"ansible.builtin.include_tasks","failed":true,"exception":"Traceback: String: hunter2","msg":"An unhandled exception occurred while templating '{'commands': [{'no_log': True, 'run': 'echo hunter2\\n {{ site '}]}'. Error was a <class 'ansible.errors.AnsibleError'>, original message: template error while templating string: unexpected end of template, expected 'end of print statement'.. String: echo hunter2\n {{ site . unexpected end of template, expected 'end of print statement'."}},"task":{"name":"Commands"}}
EOF
exit 2`)
	var log bytes.Buffer
	r.Log = &log
	err := r.Apply(t.Context())
	if err == nil || !strings.HasSuffix(err.Error(), ": template error while templating string: unexpected end of template, expected 'end of print statement'.") {
		t.Errorf("error %v", err)
	}
	if strings.Contains(log.String()+fail.Tail(err), "hunter2") {
		t.Errorf("log %s, tail %s", &log, fail.Tail(err))
	}
}

// What modules print when they break is for the log; a program that a task ran is
// for the screen, where it says more than the message.
func TestAFailureIsToldOnce(t *testing.T) {
	const traceback = `Traceback (most recent call last):\n  File \"x.py\", line 1\nModuleNotFoundError: No module named 'apt'\n`
	for name, tc := range map[string]struct{ result, task, message, tail string }{
		"exception":      {`"msg":"Destination /x not writable","exception":"` + traceback + `"`, "", "Destination /x not writable", ""},
		"module failure": {`"msg":"MODULE FAILURE\nSee stdout/stderr for the exact error","rc":1,"module_stderr":"` + traceback + `"`, "", "ModuleNotFoundError: No module named 'apt' (exit status 1)", ""},
		"apt":            {`"msg":"'apt-get install' failed: E: no such package\n","rc":100,"stderr":"E: no such package\n"`, "", "'apt-get install' failed: E: no such package (exit status 100)", ""},
		"command":        {`"msg":"non-zero return code","rc":1,"stderr":"","stdout":"one\ntwo\n"`, "", "non-zero return code (exit status 1)", "one\ntwo"},
		"task of a role": {`"msg":"no"`, "/defs/roles/stamp/tasks/main.yml:3", "no", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := fakeAnsible(t, `cat <<'EOF'
`+start+`
{"_event":"v2_runner_on_failed","hosts":{"image":{"failed":true,`+tc.result+`}},"task":{"name":"stamp : Stamp","path":"`+tc.task+`"}}
EOF
exit 2`)
			r.Project.Folder = "/defs"
			var log bytes.Buffer
			r.Log = &log
			err := r.Apply(t.Context())
			want := "install.d/x.yml:7: stamp : Stamp: " + tc.message
			if tc.task != "" {
				want = "install.d/x.yml:7: stamp : Stamp (roles/stamp/tasks/main.yml:3): " + tc.message
			}
			if err == nil || err.Error() != want || fail.Tail(err) != tc.tail {
				t.Errorf("error %q, tail %q, want %q", err, fail.Tail(err), want)
			}
			if strings.Contains(tc.result, "Traceback") && !strings.Contains(log.String(), "Traceback") {
				t.Errorf("the log lacks the traceback: %s", &log)
			}
		})
	}
}

// go-ansible's own reader blocks for ever on both of these.
func TestLongEventsAndNoiseDoNotBlock(t *testing.T) {
	r := fakeAnsible(t, `echo "[WARNING]: not JSON" >&2
echo 'Traceback: not JSON'
echo '{"half": '
printf '{"_event":"v2_runner_on_ok","hosts":{"image":{"stdout":"'
head -c 300000 /dev/zero | tr '\0' x
printf '"}},"task":{"name":"long"}}\n'
`)
	var log bytes.Buffer
	var events int
	r.Log = &log
	r.OnEvent = func(ansible.Event) { events++ }
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events != 1 {
		t.Errorf("%d events", events)
	}
	for _, want := range []string{"[WARNING]: not JSON", "Traceback: not JSON", `{"half": `} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestAFailureWithoutAnEventShowsTheLastLines(t *testing.T) {
	r := fakeAnsible(t, `echo "ERROR! the playbook could not be found" >&2; exit 4`)
	err := r.Apply(t.Context())
	if fail.ExitCode(err) != 4 || err.Error() != "ansible-playbook: the playbook could not be found" {
		t.Errorf("error %v", err)
	}
	err = fakeAnsible(t, "echo killed >&2; exit 9").Apply(t.Context())
	if fail.ExitCode(err) != 4 || err.Error() != "ansible-playbook: exit status 9" || fail.Tail(err) != "killed" {
		t.Errorf("error %v, tail %q", err, fail.Tail(err))
	}
}

// What ends a run need not be a task: a failure before it was rescued. It is told with the entry
// that has begun, as old and new Ansible say it.
func TestWhatAnsibleGivesUpForIsTheCause(t *testing.T) {
	const handler = "The requested handler 'nobody' was not found"
	for name, tc := range map[string]struct{ script, want, tail string }{
		"after a rescue":        {"cat <<'EOF'\n" + failed + "\nEOF\necho \"ERROR! " + handler + "\" >&2; exit 1", "commands.d/x.yml:2: ansible-playbook: " + handler, ""},
		"after a rescue, new":   {"cat <<'EOF'\n" + failed + "\nEOF\necho \"[ERROR]: " + handler + "\" >&2; exit 1", "commands.d/x.yml:2: ansible-playbook: " + handler, ""},
		"rescued, then lost":    {"echo '[ERROR]: no such file' >&2; cat <<'EOF'\n" + strings.Replace(failed, "on_failed", "on_unreachable", 1) + "\nEOF\nexit 4", "install.d/x.yml:7: Web: packages nginx: non-zero return code (exit status 100)", "E: no such package\nE: give up"},
		"told beside its event": {"cat <<'EOF'\n" + failed + "\nEOF\necho '[ERROR]: no such role' >&2; exit 2", "install.d/x.yml:7: Web: packages nginx: non-zero return code (exit status 100)", "E: no such package\nE: give up"},
		"unknown module":        {"cat >&2 <<'EOF'\nERROR! couldn't resolve module/action 'x'.\n\nThe error appears to be in '/defs/playbooks/a.yml': line 4, column 7, but may\nbe elsewhere\nEOF\nexit 4", "commands.d/x.yml:2 (playbooks/a.yml:4): couldn't resolve module/action 'x'.", "The error appears to be in '/defs/playbooks/a.yml': line 4, column 7, but may\nbe elsewhere"},
		"unknown module, new":   {"cat >&2 <<'EOF'\n[ERROR]: couldn't resolve module/action 'x'.\nOrigin: /defs/roles/a b/tasks/main.yml:4:7\nEOF\nexit 4", "commands.d/x.yml:2 (roles/a b/tasks/main.yml:4): couldn't resolve module/action 'x'.", "Origin: /defs/roles/a b/tasks/main.yml:4:7"},
	} {
		r := fakeAnsible(t, "for gate in 0 1 2; do cat gates/$gate; done; sleep 0.05\n"+tc.script)
		r.Project.Folder = "/defs"
		if err := r.Apply(t.Context()); fail.ExitCode(err) != 4 || err.Error() != tc.want || fail.Tail(err) != tc.tail {
			t.Errorf("%s: error %q, tail %q", name, err, fail.Tail(err))
		}
	}
}

// What debug tells is what its task prints, but for what no_log hides.
func TestWhatDebugTellsIsShown(t *testing.T) {
	r := fakeAnsible(t, `cat <<'EOF'
{"_event":"v2_runner_on_ok","hosts":{"image":{"_ansible_verbose_always":true,"action":"debug","changed":false,"msg":"hello"}},"task":{"name":"a"}}
{"_event":"v2_runner_on_ok","hosts":{"image":{"_ansible_verbose_always":true,"action":"ansible.builtin.debug","changed":false,"port":80}},"task":{"name":"b"}}
{"_event":"v2_runner_on_ok","hosts":{"image":{"action":"debug","changed":false,"msg":"All items completed","results":[{"_ansible_verbose_always":true,"item":1,"msg":"one"},{"_ansible_verbose_always":true,"item":2,"ansible_loop_var":"item","port":80}]}},"task":{"name":"c"}}
{"_event":"v2_runner_on_ok","hosts":{"image":{"action":"debug","censored":"hidden","changed":false}},"task":{"name":"d"}}
{"_event":"v2_runner_on_ok","hosts":{"image":{"_ansible_verbose_always":true,"action":"assert","msg":"All assertions passed"}},"task":{"name":"e"}}
EOF`)
	var log bytes.Buffer
	var told []string
	r.Log, r.OnEvent = &log, func(e ansible.Event) { told = append(told, e.Output) }
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"hello", "port: 80", "ok => 1\none\nok => 2\nport: 80", "", ""}; !slices.Equal(told, want) {
		t.Errorf("told: %q", told)
	}
	const want = "ok: [] a\nhello\nok: [] b\nport: 80\nok: [] c\nok => 1\none\nok => 2\nport: 80\nok: [] d\nok: [] e\n"
	if log.String() != want {
		t.Errorf("the log is %s", &log)
	}
}

func TestVariablesStayOffTheCommandLine(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	r := fakeAnsible(t, `printf '%s\n' "$@" >`+seen+`
env >>`+seen+`
stat -c %a playbooks/layer.yml playbooks/variables.json secrets.yml inventory.yml >>`+seen)
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "hunter2") {
		t.Error("a value is on the command line or in the environment")
	}
	if !strings.HasSuffix(string(content), "\n600\n600\n600\n600\n") {
		t.Errorf("the files of values are not private: %s", content)
	}
	if out, err := exec.Command("grep", "-r", "hunter2", r.Scratch).Output(); err == nil {
		t.Errorf("left is %s", out)
	}
}

// no_log of an entry is that of its playbooks, too.
func TestPlaybooksOfAHiddenEntryAreHidden(t *testing.T) {
	for _, hidden := range []bool{true, false} {
		r := fakeAnsible(t, `test -n "$ANSIBLE_NO_LOG" || { echo told >&2; exit 9; }`)
		r.Project.Playbooks, r.Project.NoLog = []string{"site.yml"}, hidden
		if err := r.Apply(t.Context()); (err == nil) != hidden {
			t.Errorf("hidden %t: %v", hidden, err)
		}
	}
}

func TestCancelEndsAnsibleAndItsChildren(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pid")
	r := fakeAnsible(t, `sleep 1000 & echo $! >`+pids+`; wait`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Apply(ctx) }()
	var pid string
	for pid == "" {
		content, _ := os.ReadFile(pids)
		pid = strings.TrimSpace(string(content))
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	for range 200 {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a child of Ansible lives on")
}

func TestAMissingAnsibleIsAMatterOfTheHost(t *testing.T) {
	r := fakeAnsible(t, "")
	t.Setenv("PATH", t.TempDir())
	if err := r.Apply(t.Context()); fail.ExitCode(err) != 3 {
		t.Errorf("error %v", err)
	}
}
