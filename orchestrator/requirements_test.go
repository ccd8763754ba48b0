package orchestrator

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

var required = project{
	"install.d/site.yml":        "source: {bootstrap: {suite: trixie}}\ninstall: [{packages: [linux-image-amd64]}, {roles: [common]}, {roles: [acme.tools.motd]}]\n",
	"requirements.yml":          "roles:\n- {src: shared/common, name: common}\n- {src: ./chrony.git, scm: git}\ncollections:\n- https://user:hunter2@files.example/acme-tools-1.0.0.tar.gz\n",
	"shared/common/tasks/a.yml": "[]\n", "chrony.git/HEAD": "ref: refs/heads/main\n", "chrony.git/refs/heads/main": "1234\n", "chrony.git/config": "",
}

func TestTheKeyOfRequirementsHasWhatTheyAreMadeOf(t *testing.T) {
	layers, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key := func(p project, tools map[string]string) store.Key {
		t.Helper()
		key, err := planIn(t, p.write(t), "site").requirementsKey(t.Context(), layers, tools)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	before := key(required, someTools)
	for name, other := range map[string]project{
		"another folder": required,
		"a comment":      required.with("requirements.yml", "roles:", "# Roles\nroles:"),
		"another build":  required.with("install.d/site.yml", "install:", "hostname: other\ninstall:"),
		"git's settings": required.with("chrony.git/config", "", "[user]\n"),
	} {
		if key(other, someTools) != before {
			t.Errorf("%s counts", name)
		}
	}
	for name, other := range map[string]project{
		"a role's file": required.with("shared/common/tasks/a.yml", "[]", "[] # other"),
		"a branch":      required.with("chrony.git/refs/heads/main", "1234", "5678"),
		"a version":     required.with("requirements.yml", "1.0.0", "1.0.1"),
		"a name":        required.with("requirements.yml", "{src: ./chrony.git", "{name: time, src: ./chrony.git"),
	} {
		if key(other, someTools) == before {
			t.Errorf("%s does not count", name)
		}
	}
	if key(required, map[string]string{"ansible-core": "2.19"}) == before {
		t.Error("the version of Ansible does not count")
	}
}

// installedIn is a folder with what such a project requires.
func installedIn(t *testing.T, tasks, files string) string {
	t.Helper()
	return project{
		"roles/common/tasks/main.yml": tasks, "roles/common/" + galaxysOwn: "install_date: today\nversion: v1\n",
		"collections/ansible_collections/acme/tools/MANIFEST.json": `{"collection_info": {"version": "1.0.0"}}`,
		"collections/ansible_collections/acme/tools/FILES.json":    files,
		"collections/ansible_collections/acme.tools.info/x":        "",
	}.write(t)
}

func TestInstalledRolesCountByTheirContent(t *testing.T) {
	digests := func(folder string) []entryPart {
		p := planIn(t, required.write(t), "site")
		p.Installed = folder
		all, err := p.keyParts(t.Context(), "maker", toolset{versions: someTools})
		if err != nil {
			t.Fatal(err)
		}
		return all.Layers[0]
	}
	before := digests(installedIn(t, "[]\n", "{}"))
	for name, tc := range map[string]struct {
		folder string
		want   []bool // of the entries: whether they are made again
	}{
		"the same":           {installedIn(t, "[]\n", "{}"), []bool{false, false}},
		"another role":       {installedIn(t, "[{debug: {}}]\n", "{}"), []bool{true, true}},
		"another collection": {installedIn(t, "[]\n", "{other}"), []bool{true, true}},
	} {
		after := digests(tc.folder)
		for i, want := range tc.want {
			if (before[i] != after[i]) != want {
				t.Errorf("%s: entry %d: %t", name, i, !want)
			}
		}
	}
}

func TestWhatIsInstalledIsTheSameForAll(t *testing.T) {
	needRoot(t)
	folder := installedIn(t, "[]\n", "{}")
	program := filepath.Join(folder, "roles/common/files/program")
	cached := filepath.Join(folder, "roles/common/__pycache__/x.pyc")
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(program), 0o700), os.WriteFile(program, nil, 0o700), os.Chown(program, 7, 7), os.Symlink("program", program+".link"),
		os.MkdirAll(filepath.Dir(cached), 0o700), os.WriteFile(cached, nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := tidyInstalled(t.Context(), folder)
	if err != nil || len(all) != 2 || all[0].String() != "role common v1" || all[1].String() != "collection acme.tools 1.0.0" {
		t.Fatalf("%v, %v", all, err)
	}
	for _, gone := range []string{filepath.Join(folder, "roles/common", galaxysOwn), filepath.Dir(cached)} {
		if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	info, err := os.Stat(program)
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestRequirementsAreInstalledFromHereAlone(t *testing.T) {
	p := planIn(t, required.write(t), "site")
	order := installation{Project: p.Project, Requirements: p.Definition.Requirements}
	roles := t.TempDir()
	rest, err := order.copyFolders(t.Context(), &host.Local{}, roles)
	if err != nil || len(rest) != 2 || rest[0].Source != filepath.Join(p.Project, "chrony.git") || rest[1].Source != p.Definition.Requirements[2].Source {
		t.Errorf("%+v, %v", rest, err)
	}
	if _, err := os.Stat(filepath.Join(roles, "common/tasks/a.yml")); err != nil {
		t.Error(err)
	}
	if err := order.reachable(); err != nil {
		t.Error(err)
	}
	order.Offline = true
	err = order.reachable()
	if fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), "the store lacks requirements.yml:5 collection https://files.example/") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("offline: %v", err)
	}
	if got := credentials(p.Definition.Requirements).hider().Replace("clone https://user:hunter2@files.example"); strings.Contains(got, "hunter2") {
		t.Errorf("%q", got)
	}
}

func TestALockHoldsRequirements(t *testing.T) {
	is := []Installed{{definition.RequiredRole, "common", "main", "1"}, {definition.RequiredCollection, "acme.tools", "1.0.0", "2"}}
	p := Plan{Requirements: is, Lock: &Lock{Name: "site", Requirements: slices.Clone(is)}}
	if err := p.obeyInstalled(); err != nil {
		t.Error(err)
	}
	p.Lock.Requirements[0].SHA256 = "3"
	if err := p.obeyInstalled(); fail.ExitCode(err) != 4 || !strings.HasSuffix(err.Error(), "than before: role common main") {
		t.Errorf("%v", err)
	}
}

// Ansible finds group_vars whatever an entry holds.
func TestVariablesBesideTheInventoryCount(t *testing.T) {
	p := project{
		"install.d/x.yml":  "source: {bootstrap: {suite: trixie}}\ninstall: [{files: [{path: /a, content: 'of {{ site }}'}]}, {files: [{path: /b, content: b}]}]\n",
		"commands.d/x.yml": "commands: [{run: 'echo {{ site }}'}, {run: 'true'}]\n", "group_vars/all.yml": "site: here\n",
	}
	before, after := p.parts(t, "x").Layers[0], p.with("group_vars/all.yml", "here", "there").parts(t, "x").Layers[0]
	for i, want := range []bool{true, false, true, false} {
		if (before[i] != after[i]) != want {
			t.Errorf("entry %d: %t", i, !want)
		}
	}
}

// Those of another group count where an entry may have the image join it.
func TestVariablesOfOtherGroups(t *testing.T) {
	p := project{
		"install.d/x.yml":            "source: {bootstrap: {suite: trixie}}\ninstall: [{files: [{path: /a, content: 'of {{ site }}'}]}, {roles: [plain]}, {roles: [joins]}, {playbooks: [site.yml]}]\n",
		"roles/plain/tasks/main.yml": "- debug: {msg: '{{ site }}'}\n", "roles/joins/tasks/main.yml": "- group_by: {key: web}\n",
		"playbooks/site.yml": "- hosts: all\n  tasks: []\n",
		"group_vars/all.yml": "site: here\n", "group_vars/web.yml": "site: web\n", "host_vars/image/a.yml": "a: b\n",
	}
	changes := func(p, other project) (entries []bool) {
		before, after := p.parts(t, "x").Layers[0], other.parts(t, "x").Layers[0]
		for i := range before {
			entries = append(entries, before[i] != after[i])
		}
		return entries
	}
	if got := changes(p, p.with("group_vars/web.yml", "web", "other")); !slices.Equal(got, []bool{false, false, true, true}) {
		t.Errorf("another group: %t", got)
	}
	alone := maps.Clone(p)
	alone["roles/joins/tasks/main.yml"] = "[]\n"
	if got := changes(alone, alone.with("group_vars/web.yml", "web", "other")); slices.Contains(got, true) {
		t.Errorf("another group, which nothing joins: %t", got)
	}
	for name, text := range map[string]string{"group_vars/all.yml": "here", "host_vars/image/a.yml": "b"} {
		if got := changes(alone, alone.with(name, text, "other")); slices.Contains(got, false) {
			t.Errorf("%s: %t", name, got)
		}
	}
}
