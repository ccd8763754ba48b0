package orchestrator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// An entry is parted where a task of its roles and playbooks, or of what those apply, is tagged
// boot, and nowhere else.
func TestEntriesArePartedByTheTagBoot(t *testing.T) {
	project, elsewhere := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{
		"roles/plain/tasks/main.yml":                                 "- {name: boot, debug: {msg: tags boot}, tags: [reboot, boots]}\n",
		"roles/listed/tasks/main.yml":                                "- block:\n  - {debug: {}, tags: [install, boot]}\n",
		"roles/worded/tasks/more.yaml":                               "- debug:\n  tags: install, boot\n",
		"roles/including/tasks/main.yml":                             "- {include_role: {name: listed}, tags: always}\n",
		"roles/depending/meta/main.yml":                              "dependencies: [worded]\n",
		"roles/template/templates/x.yml":                             "tags: boot\n",
		"roles/broken/tasks/main.yml":                                "- {tags: boot\n",
		"playbooks/site.yml":                                         "- {hosts: all, roles: [plain], tags: boot}\n",
		"collections/ansible_collections/a/b/roles/c/tasks/main.yml": "- {debug: {}, tags: boot}\n",
	} {
		path = filepath.Join(project, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	linked := filepath.Join(elsewhere, "tasks")
	if err := os.Mkdir(linked, 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{filepath.Join(project, "roles/linked"): elsewhere, filepath.Join(linked, "main.yml"): filepath.Join(project, "roles/listed/tasks/main.yml")} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	role := func(names ...string) (e definition.InstallEntry) {
		for _, name := range names {
			e.Roles = append(e.Roles, definition.Role{Name: name})
		}
		return e
	}
	booted := role("listed")
	booted.On = definition.OnBoot
	for name, tc := range map[string]struct {
		entry  definition.InstallEntry
		parted bool
	}{
		"plain": {role("plain"), false}, "a list": {role("plain", "listed"), true}, "words": {role("worded"), true}, "included": {role("including"), true}, "a dependency": {role("depending"), true},
		"a template": {role("template"), false}, "broken": {role("broken"), false}, "a collection": {role("a.b.c"), true}, "a link": {role("linked"), true},
		"a playbook": {definition.InstallEntry{Playbooks: []string{"site.yml"}}, true}, "on boot already": {booted, false}, "no roles": {definition.InstallEntry{Packages: []string{"x"}}, false},
	} {
		tc.entry.Name, tc.entry.Origin = name, "install.d/x.yml:1"
		plan := Plan{Project: project, Definition: definition.Definition{Layers: []definition.Layer{{Install: []definition.InstallEntry{tc.entry}}}}}
		for range 2 { // the second time changes nothing
			if err := plan.SplitOnBoot(); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, e := range plan.Definition.Layers[0].Install {
			got = append(got, fmt.Sprint(e.On, e.SkipTags, e.OnlyTags, e.Origin, len(e.Roles), len(e.Playbooks)))
		}
		roles, playbooks := len(tc.entry.Roles), len(tc.entry.Playbooks)
		want := []string{fmt.Sprint(tc.entry.On, []string(nil), []string(nil), "install.d/x.yml:1", roles, playbooks)}
		if tc.parted {
			want = []string{fmt.Sprint("", []string{"boot"}, []string(nil), "install.d/x.yml:1", roles, playbooks), fmt.Sprint("boot", []string(nil), []string{"boot"}, "install.d/x.yml:1", roles, playbooks)}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// A task tagged boot that Ansible would never apply is refused, with the include that hides it.
func TestIncludesThatHideTasksOnBoot(t *testing.T) {
	const late = "- {debug: {}, tags: boot}\n- debug:\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  string // "" for nothing that is wrong
	}{
		"by its name":        {map[string]string{"a/tasks/main.yml": "- debug:\n- include_tasks: late.yml\n", "a/tasks/late.yml": late}, "roles/a/tasks/main.yml:2"},
		"with a long name":   {map[string]string{"a/tasks/main.yml": "- ansible.builtin.include_tasks:\n    file: sub/late.yml\n", "a/tasks/sub/late.yml": late}, "roles/a/tasks/main.yml:1"},
		"rendered":           {map[string]string{"a/tasks/main.yml": "- include_tasks: '{{ x }}.yml'\n", "a/tasks/late.yml": late}, "roles/a/tasks/main.yml:1"},
		"by others":          {map[string]string{"a/tasks/main.yml": "- include_tasks: b.yml\n", "a/tasks/b.yml": "- import_tasks: late.yml\n", "a/tasks/late.yml": late}, "roles/a/tasks/main.yml:1"},
		"a role":             {map[string]string{"a/tasks/main.yml": "- include_role: {name: b}\n", "b/tasks/main.yml": late}, "roles/a/tasks/main.yml:1"},
		"tasks of a role":    {map[string]string{"a/tasks/main.yml": "- include_role: {name: b, tasks_from: late}\n", "b/tasks/late.yml": late}, "roles/a/tasks/main.yml:1"},
		"a collection's":     {map[string]string{"a/tasks/main.yml": "- include_role: {name: x.y.b}\n", "b/tasks/main.yml": late}, "roles/a/tasks/main.yml:1"},
		"static":             {map[string]string{"a/tasks/main.yml": "- import_tasks: late.yml\n", "a/tasks/late.yml": late}, ""},
		"always":             {map[string]string{"a/tasks/main.yml": "- {include_tasks: late.yml, tags: [x, always]}\n", "a/tasks/late.yml": late}, ""},
		"tagged":             {map[string]string{"a/tasks/main.yml": "- {include_tasks: late.yml, tags: boot}\n", "a/tasks/late.yml": late}, ""},
		"in a block":         {map[string]string{"a/tasks/main.yml": "- block:\n  - include_tasks: late.yml\n  tags: always\n", "a/tasks/late.yml": late}, ""},
		"leads elsewhere":    {map[string]string{"a/tasks/main.yml": "- include_tasks: early.yml\n- import_tasks: late.yml\n", "a/tasks/early.yml": "- debug:\n", "a/tasks/late.yml": late}, ""},
		"of another role":    {map[string]string{"a/tasks/main.yml": "- include_tasks: late.yml\n- import_role: {name: b}\n", "a/tasks/late.yml": "- debug:\n", "b/tasks/main.yml": late, "b/tasks/late.yml": late}, ""},
		"in a circle":        {map[string]string{"a/tasks/main.yml": "- include_tasks: b.yml\n- {debug: {}, tags: boot}\n", "a/tasks/b.yml": "- include_tasks: b.yml\n"}, ""},
		"imported always":    {map[string]string{"a/tasks/main.yml": "- {import_tasks: b.yml, tags: always}\n", "a/tasks/b.yml": "- include_tasks: late.yml\n", "a/tasks/late.yml": late}, ""},
		"a role, always":     {map[string]string{"a/tasks/main.yml": "- {import_role: {name: b}, tags: [always]}\n", "b/tasks/main.yml": "- include_tasks: late.yml\n", "b/tasks/late.yml": late}, ""},
		"of its platform":    {map[string]string{"a/tasks/main.yml": "- {debug: {}, tags: boot}\n- import_tasks: install.yml\n- import_tasks: late.yml\n", "a/tasks/install.yml": "- include_tasks: '{{ os }}.yml'\n", "a/tasks/late.yml": late, "a/tasks/Debian.yml": "- debug:\n", "a/handlers/main.yml": late}, ""},
		"a module's roles":   {map[string]string{"a/tasks/main.yml": "- {debug: {}, tags: boot}\n- include_tasks: b.yml\n", "a/tasks/b.yml": "- mongodb_user: {roles: [{db: a}]}\n"}, ""},
		"nothing is on boot": {map[string]string{"a/tasks/main.yml": "- include_tasks: late.yml\n", "a/tasks/late.yml": "- debug:\n"}, ""},
	} {
		project := t.TempDir()
		for path, content := range tc.files {
			path = filepath.Join(project, "roles", path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		entry := definition.InstallEntry{Origin: "install.d/x.yml:1", Roles: []definition.Role{{Name: "a"}}}
		plan := Plan{Project: project, Definition: definition.Definition{Layers: []definition.Layer{{Install: []definition.InstallEntry{entry}}}}}
		err := plan.SplitOnBoot()
		if (err == nil) != (tc.want == "") || err != nil && (fail.ExitCode(err) != 2 || !strings.HasPrefix(err.Error(), "install.d/x.yml:1: "+tc.want+": ")) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
