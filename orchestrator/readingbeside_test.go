package orchestrator

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

// beside is a playbook and a role that read beside their own folders.
var beside = project{
	"install.d/x.yml": "source: {bootstrap: {suite: trixie}}\ninstall: [{playbooks: [site.yml]}, {roles: [up]}, {packages: [nginx]}]\n",
	"playbooks/site.yml": `- hosts: all
  vars_files: [../vars/common.yml]
  tasks:
    - copy: {src: ../files/x, dest: /etc/x}
    - import_tasks: ../tasks/a.yml
    - include_vars: {dir: ../more}
`,
	"roles/up/tasks/main.yml": "- template: {src: ../../../templates/t.j2, dest: /etc/t}\n",
	"vars/common.yml":         "a: b\n", "files/x": "x\n", "files/unrelated": "u\n", "more/m.yml": "m: n\n", "templates/t.j2": "t {{ a }}\n",
	"tasks/a.yml":          "- import_tasks: b.yml\n- copy: {src: y, dest: /etc/y}\n",
	"tasks/b.yml":          "- debug: {msg: b}\n",
	"tasks/files/y":        "y\n",
	"images/x/x-amd64.raw": "disk", "out/x/build.json": "{}", ".cache/z": "z",
}

// changes is which entries of x are others in a project.
func changes(t *testing.T, before []entryPart, other project) (entries []bool) {
	t.Helper()
	after := other.parts(t, "x").Layers[0]
	for i := range before {
		entries = append(entries, before[i] != after[i])
	}
	return entries
}

func TestWhatIsNamedBesideRolesAndPlaybooksCounts(t *testing.T) {
	before := beside.parts(t, "x").Layers[0]
	for name, want := range map[string][]bool{
		"vars/common.yml": {true, false, false}, "files/x": {true, false, false}, "tasks/a.yml": {true, false, false}, "tasks/b.yml": {true, false, false},
		"tasks/files/y": {true, false, false}, "more/m.yml": {true, false, false}, "templates/t.j2": {true, true, false}, "files/unrelated": {false, false, false},
	} {
		other := maps.Clone(beside)
		other[name] += "# changed\n"
		if got := changes(t, before, other); !slices.Equal(got, want) {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Where a path is not written in full, all of a project counts that Ansible may read.
func TestWhatMayBeReadBesideRolesAndPlaybooksCounts(t *testing.T) {
	for name, tasks := range map[string]string{
		"role_path":    "- copy: {src: '{{ role_path }}/../../files/x', dest: /etc/x}\n",
		"playbook_dir": "- set_fact: {base: '{{ playbook_dir }}/..'}\n",
		"dirname":      "- set_fact: {base: '{{ playbook_dir | dirname }}'}\n",
		"rendered":     "- include_tasks: '../../../tasks/{{ name }}.yml'\n",
		"lookup":       "- debug: {msg: \"{{ lookup('file', '../../files/x') }}\"}\n",
		"loop":         "- debug: {msg: a}\n  with_fileglob: ../../files/*\n",
		"first_found":  "- include_vars: '{{ item }}'\n  with_first_found:\n    - files: [a.yml]\n      paths: [../../vars]\n",
	} {
		p := maps.Clone(beside)
		p["roles/up/tasks/main.yml"] = tasks
		before := p.parts(t, "x").Layers[0]
		for file, want := range map[string]bool{"files/unrelated": true, "images/x/x-amd64.raw": false} {
			other := maps.Clone(p)
			other[file] += "# changed\n"
			if got := changes(t, before, other); got[1] != want || got[2] {
				t.Errorf("%s: %s: %t", name, file, got)
			}
		}
	}
	other := maps.Clone(beside)
	other["roles/up/tasks/main.yml"] = "- copy: {src: '{{ role_path }}/../../files/x', dest: /etc/x}\n"
	before := other.parts(t, "x").Layers[0]
	other["out/x/build.json"], other[".cache/z"], other["install.d/y.yml"] = "changed", "changed", "extends: x\n"
	if got := changes(t, before, other); slices.Contains(got, true) {
		t.Errorf("results of builds and hidden files count: %t", got)
	}
	p := maps.Clone(beside)
	p["install.d/x.yml"] = "source: {bootstrap: {suite: trixie}}\nvars: {base: '{{ role_path }}/../..'}\ninstall: [{roles: [{name: up, vars: {own: b}}]}]\n"
	p["roles/up/tasks/main.yml"] = "- copy: {src: '{{ base }}', dest: /etc/x}\n"
	if got := changes(t, p.parts(t, "x").Layers[0], p.with("files/x", "x", "y")); !got[0] {
		t.Error("a variable of the definition leads beside the role, and the file there does not count")
	}
}

// What a link leads to elsewhere is not read, but where it leads counts; nor is what is too much.
func TestAWholeProjectHasLimits(t *testing.T) {
	elsewhere, folder := t.TempDir(), beside.write(t)
	secret := filepath.Join(elsewhere, "secret")
	if err := os.WriteFile(secret, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"linked": elsewhere, "away": secret, "gone": "nowhere", "within": "files/x"} {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	big := filepath.Join(folder, "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, mostOfProject+1); err != nil {
		t.Fatal(err)
	}
	digest := func() string {
		d, err := digestOfProject(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := digest()
	if err := os.WriteFile(secret, []byte("b"), 0o600); err != nil || digest() != before {
		t.Error("what a link leads to elsewhere is read")
	}
	if err := os.Truncate(big, mostOfProject+2); err != nil || digest() == before {
		t.Error("a large file has another size, and counts the same")
	}
}

// A path that holds the project is no reason to read all that lies around it.
func TestAFolderThatHoldsTheProjectIsNotRead(t *testing.T) {
	p := maps.Clone(beside)
	p["roles/up/tasks/main.yml"] = "- copy: {src: ../../../.., dest: /etc/x}\n"
	r := reading{ctx: t.Context(), plan: Plan{Project: p.write(t)}}
	if _, err := r.project(definition.InstallEntry{Roles: []definition.Role{{Name: "up"}}}); err != nil || !r.around {
		t.Errorf("around is %t, %v", r.around, err)
	}
}

// What a role reads within itself is no reason to read the project.
func TestARoleThatStaysWithinItself(t *testing.T) {
	for name, tasks := range map[string]string{
		"rendered":    "- include_vars: '../vars/{{ ansible_os_family }}.yml'\n",
		"first_found": "- include_vars: '{{ item }}'\n  with_first_found: ['../vars/{{ os }}.yml', ../vars/main.yml]\n",
		"lookup":      "- debug: {msg: \"{{ lookup('file', '../files/x') }}\"}\n",
	} {
		p := maps.Clone(beside)
		p["roles/up/tasks/main.yml"] = tasks
		if got := changes(t, p.parts(t, "x").Layers[0], p.with("files/unrelated", "u", "changed")); got[1] {
			t.Errorf("%s: the project counts", name)
		}
	}
}

// What a build makes in the project, and who looks at it meanwhile, changes nothing.
func TestResultsInAProjectDoNotCount(t *testing.T) {
	folder := beside.write(t)
	digest := func() string {
		t.Helper()
		d, err := digestOfProject(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := digest()
	for _, name := range []string{"results/.web.work/disk.raw", "made/web.failed/build.log", "web.failed/boot-bios.log", "web.qcow2", "live.iso", "build.log", ".web.work/disk.raw"} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if digest() != before {
			t.Errorf("%s counts", name)
		}
	}
	for _, name := range []string{"files/build.json", "other/file", "x.log/file", "node/.a.lock"} {
		path, last := filepath.Join(folder, name), digest()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("{}"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if digest() == last {
			t.Errorf("%s does not count", name)
		}
	}
}

// A change of the project while an entry is applied is no change of what it has used, unless it
// names that.
func TestWhatMayBeReadIsNotSettled(t *testing.T) {
	p := maps.Clone(beside)
	p["roles/up/tasks/main.yml"] = "- copy: {src: '{{ role_path }}/../../files/x', dest: /etc/x}\n"
	before, after := p.parts(t, "x").Layers[0], p.with("files/unrelated", "u", "changed").parts(t, "x").Layers[0]
	if before[1].Exact != after[1].Exact || before[1].Digest == after[1].Digest {
		t.Errorf("%+v, then %+v", before[1], after[1])
	}
}

// An edit of variables of a group counts that a playbook's tasks beside it have the image join.
func TestGroupsThatAreJoinedBesideAPlaybook(t *testing.T) {
	p := maps.Clone(beside)
	p["tasks/a.yml"], p["group_vars/web.yml"] = "- group_by: {key: web}\n", "a: b\n"
	if got := changes(t, p.parts(t, "x").Layers[0], p.with("group_vars/web.yml", "b", "c")); !got[0] {
		t.Error("they do not count")
	}
}

// Where Ansible looks further than in the role, more counts.
func TestPathsThatMayLeaveARole(t *testing.T) {
	for name, tasks := range map[string]string{
		"two up":              "- debug: {msg: \"{{ lookup('file', '../../files/x') }}\"}\n",
		"after a variable":    "- debug: {msg: \"{{ lookup('file', base + '/../files/x') }}\"}\n",
		"after an expression": "- debug: {}\n  with_fileglob: '{{ base }}/../files/*'\n",
		"a later one":         "- include_vars: '{{ item }}'\n  with_first_found:\n    - files: [a.yml]\n      paths: [../vars, ../../../vars]\n",
		"a statement":         "- include_vars: '{% if x %}..{% endif %}/../vars/x.yml'\n",
	} {
		p := maps.Clone(beside)
		p["roles/up/tasks/main.yml"] = tasks
		if got := changes(t, p.parts(t, "x").Layers[0], p.with("files/unrelated", "u", "changed")); !got[1] {
			t.Errorf("%s: the project does not count", name)
		}
	}
	p := maps.Clone(beside) // beside a playbook Ansible also looks
	p["roles/up/tasks/main.yml"] = "- include_vars: '../vars/{{ os }}.yml'\n"
	if got := changes(t, p.parts(t, "x").Layers[0], p.with("files/unrelated", "u", "changed")); !got[0] || got[1] {
		t.Errorf("with a playbook %t, without %t", got[0], got[1])
	}
}

// What is reached by a path that is not written in full is looked at, too: a file of the builder
// that it names counts. A template of a plain entry is no file of tasks.
func TestWhatIsReachedByARenderedPathIsLookedAt(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "ca.pem")
	p := maps.Clone(beside)
	p["roles/up/tasks/main.yml"] = "- include_tasks: '{{ playbook_dir }}/../tasks/{{ n }}.yml'\n"
	p["tasks/a.yml"] = "- copy: {src: " + elsewhere + ", dest: /etc/ca.pem}\n"
	p["install.d/x.yml"] = "source: {bootstrap: {suite: trixie}}\ninstall: [{roles: [up]}, {templates: [{path: /etc/ci.yml, source: ci.yml}]}]\n"
	p["install.d/ci.yml"] = "copy: {src: '{{ x }}/../y'}\n"
	var parts [][]entryPart
	for _, content := range []string{"a", "b"} {
		if err := os.WriteFile(elsewhere, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p.parts(t, "x").Layers[0])
	}
	if parts[0][0] == parts[1][0] || parts[0][1] != parts[1][1] {
		t.Errorf("%+v", parts)
	}
	if got := changes(t, parts[1], p.with("files/unrelated", "u", "changed")); !got[0] || got[1] {
		t.Errorf("%t", got)
	}
}
