package orchestrator

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// project is the files of a user by their names.
type project map[string]string

// base is a chain of two builds: web extends base.
var base = project{
	"install.d/base.yml": `# A comment
description: Base
source: {bootstrap: {suite: trixie, keyring: base/mirror.gpg}}
disk: {size: 3G, layout: efi}
vars: {zone: UTC, title: "{{ site }} of {{ build.name }}", site: Here, unused: 1}
install:
  - name: Packages
    packages: [linux-image-amd64, systemd-sysv]
  - name: Files
    files:
      - {path: /etc/inline, content: "zone={{ zone }}", mode: "0640"}
      - {path: /etc/copied, source: base/copied}
    repositories: [{name: extra, uris: ["http://extra.example/"], suites: [x], components: [main], key: base/extra.gpg}]
`,
	"commands.d/base.yml":       "commands:\n  - name: Greet\n    run: |\n      echo hello\n  - argv: [echo, bye]\n    environment: {A: b}\n",
	"install.d/base/copied":     "copied\n",
	"install.d/base/mirror.gpg": "keys\n", "install.d/base/extra.gpg": "extra\n",
	"install.d/web.yml": `extends: base
vars: {colour: red, greeting: "{{ colour }}"}
install:
  - name: Page
    templates: [{path: /srv/page, source: web/page.j2}]
    roles: [stamp]
  - name: Notes
    files: [{path: /srv/notes, source: web/notes}, {path: /srv/empty, content: ""}]
`,
	"install.d/web/page.j2": "{{ greeting }}\n{% include 'part.j2' %}\n", "install.d/web/part.j2": "part {{ size }}\n", "install.d/web/notes": "",
	"commands.d/web.yml":         "commands:\n  - run: nginx -t -q\n",
	"roles/stamp/tasks/main.yml": "- copy: {src: stamp, dest: /etc/stamp}\n", "roles/stamp/files/stamp": "stamp\n",
	"roles/stamp/meta/main.yml":  "dependencies: []\n",
	"roles/other/tasks/main.yml": "- command: \"true\"\n",
}

// with is the project with a change to one of its files.
func (p project) with(name, old, new string) project {
	changed := maps.Clone(p)
	if !strings.Contains(changed[name], old) {
		panic(name + " has no " + old)
	}
	changed[name] = strings.Replace(changed[name], old, new, 1)
	return changed
}

// write puts the files into a new folder.
func (p project) write(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, content := range p {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

var someTools = map[string]string{"mmdebstrap": "1.5", "ansible": "11", "ansible-core": "2.18", "apt": "3", "e2fsprogs": "1.47", "ovmf": "2025", "btrfs-progs": "6"}

// planIn is the plan of a build of the definitions in a folder.
func planIn(t *testing.T, folder, name string, settings ...string) Plan {
	t.Helper()
	library, err := definition.NewLibrary(definition.Folder(folder), "", btwimg.Files)
	if err != nil {
		t.Fatal(err)
	}
	d, err := library.Load(name, settings)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(*d, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Project, p.Assets = folder, map[string]string{}
	embedded := t.TempDir()
	for _, asset := range d.Assets() {
		p.Assets[*asset], err = library.AssetPath(folder, *asset, func(name string, content []byte) (string, error) {
			path := filepath.Join(embedded, filepath.Base(name))
			return path, os.WriteFile(path, content, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// partsIn is the parts of such a build.
func partsIn(t *testing.T, folder, name string, tools map[string]string, settings ...string) parts {
	t.Helper()
	p := planIn(t, folder, name, settings...)
	all, err := p.keyParts(t.Context(), "maker", toolset{versions: tools})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (p project) parts(t *testing.T, name string, settings ...string) parts {
	t.Helper()
	return partsIn(t, p.write(t), name, someTools, settings...)
}

// changed is the names of the parts that differ: source, layers by their number, disk
// and outputs.
func changed(a, b parts) string {
	var names []string
	note := func(name string, differs bool) {
		if differs {
			names = append(names, name)
		}
	}
	note("source", a.Source != b.Source)
	note("layer 0", !slices.Equal(a.Layers[0], b.Layers[0]))
	for i := 1; i < max(len(a.Layers), len(b.Layers)); i++ {
		note("layer 1", len(a.Layers) != len(b.Layers) || !slices.Equal(a.Layers[i], b.Layers[i]))
	}
	note("disk", a.Disk != b.Disk)
	note("outputs", a.Outputs != b.Outputs)
	return strings.Join(names, ", ")
}

func TestWhatChangesAKey(t *testing.T) {
	const web, page, inline = "install.d/web.yml", "install.d/web/page.j2", "install.d/base.yml"
	before := base.parts(t, "web")
	for name, tc := range map[string]struct {
		project project
		want    string
	}{
		"a byte of a command":                 {base.with("commands.d/base.yml", "hello", "hallo"), "layer 0"},
		"an environment":                      {base.with("commands.d/base.yml", "A: b", "A: c"), "layer 0"},
		"order of commands":                   {base.with("commands.d/base.yml", "  - name: Greet\n    run: |\n      echo hello\n  - argv: [echo, bye]\n    environment: {A: b}\n", "  - argv: [echo, bye]\n    environment: {A: b}\n  - name: Greet\n    run: |\n      echo hello\n"), "layer 0"},
		"an early package":                    {base.with(inline, "systemd-sysv", "systemd-sysv, vim"), "source"},
		"a content":                           {base.with(inline, "zone={{", "z={{"), "layer 0"},
		"a mode":                              {base.with(inline, `mode: "0640"`, `mode: "0600"`), "layer 0"},
		"a copied file":                       {base.with("install.d/base/copied", "copied", "copiee"), "layer 0"},
		"a repository's key":                  {base.with("install.d/base/extra.gpg", "extra", "extre"), "layer 0"},
		"a keyring":                           {base.with("install.d/base/mirror.gpg", "keys", "kezs"), "source"},
		"a suite":                             {base.with(inline, "trixie", "bookworm"), "source, outputs"},
		"a layout":                            {base.with(inline, "layout: efi", "layout: bios"), "source, disk, outputs"},
		"a disk's size":                       {base.with(inline, "3G", "4G"), "disk"},
		"a variable":                          {base.with(inline, "zone: UTC", "zone: CET"), "layer 0"},
		"a variable by way of another":        {base.with(web, "colour: red", "colour: blue"), "layer 1"},
		"a template":                          {base.with(page, "{{ greeting }}", "{{ greeting }}!"), "layer 1"},
		"an included template":                {base.with("install.d/web/part.j2", "part", "piece"), "layer 1"},
		"a variable of an included one":       {base.with(web, "colour: red", "colour: red, size: 3"), "layer 1"},
		"a role's file":                       {base.with("roles/stamp/files/stamp", "stamp", "stemp"), "layer 1"},
		"a hostname":                          {base.with(web, "extends: base", "extends: base\nhostname: box"), "layer 1, disk"},
		"no_log, which hides from build.json": {base.with(web, "name: Notes", "name: Notes\n    no_log: true"), "outputs"},
		"a file's place among several":        {base.with(web, "{path: /srv/notes, source: web/notes}, {path: /srv/empty, content: \"\"}", "{path: /srv/notes, content: \"\"}, {path: /srv/empty, source: web/notes}"), "layer 1"},
		"a format":                            {base.with(web, "extends: base", "extends: base\noutputs: [raw]"), "outputs"},
		"a firmware":                          {base.with(web, "extends: base", "extends: base\nfirmware: [uefi]"), "outputs"},
		"a guest's memory":                    {base.with(web, "extends: base", "extends: base\ntest: {memory: 2G}"), "outputs"},

		"a comment":                      {base.with(inline, "# A comment\n", "# Another\n\n\n"), ""},
		"a description":                  {base.with(inline, "Base", "Basis"), ""},
		"an entry's name":                {base.with(web, "name: Notes", "name: Some notes"), ""},
		"order of keys, and quotes":      {base.with(inline, "zone: UTC", `zone: "UTC"`).with(inline, `{path: /etc/copied, source: base/copied}`, `{source: 'base/copied', path: "/etc/copied"}`), ""},
		"a variable that nobody uses":    {base.with(inline, "unused: 1", "unused: 2"), ""},
		"a variable named in plain text": {base.with(web, "colour: red", "colour: red, nginx: 1, notes: 2"), ""},
		"a role that nobody uses":        {base.with("roles/other/tasks/main.yml", "true", "false"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := changed(before, tc.project.parts(t, "web")); got != tc.want {
				t.Errorf("changed is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatTheLayerReadsIndirectly(t *testing.T) {
	const web, page = "install.d/web.yml", "install.d/web/page.j2"
	task := func(text string) project {
		return base.with("roles/stamp/tasks/main.yml", "/etc/stamp}\n", "/etc/stamp}\n"+text)
	}
	command := func(text string) project {
		return base.with("commands.d/web.yml", "nginx -t -q", text)
	}
	late := base.with(web, "colour: red", "colour: red, secret_key: 1")
	for name, tc := range map[string]struct {
		project  project
		name, to string // what is changed: the first one of a file's words
		old      string
		want     string
	}{
		"build.name by way of a variable":  {command(`"echo {{ title }}"`), web, "extends: base\nhostname: box", "extends: base", "layer 1, disk"},
		"a name made by a lookup":          {late.with("commands.d/web.yml", "run: nginx -t -q", "run: |\n      echo {{\n      lookup('vars', 'secret' ~ '_key') }}"), web, "secret_key: 2", "secret_key: 1", "layer 1"},
		"hostvars":                         {late.with("commands.d/web.yml", "nginx -t -q", `"{{ hostvars['image']['secret' ~ '_key'] }}"`), web, "secret_key: 2", "secret_key: 1", "layer 1"},
		"a role's bare condition":          {base.with("roles/stamp/tasks/main.yml", "/etc/stamp}\n", "/etc/stamp}\n  when: colour == 'red'\n"), web, "colour: blue", "colour: red", "layer 1"},
		"a role that another includes":     {task("- include_role: {name: other}\n"), "roles/other/tasks/main.yml", "false", "true", "layer 1"},
		"a role that another depends on":   {base.with("roles/stamp/meta/main.yml", "[]", "[{role: other}]"), "roles/other/tasks/main.yml", "false", "true", "layer 1"},
		"dependencies in several lines":    {base.with("roles/stamp/meta/main.yml", "[]", "\n  - other"), "roles/other/tasks/main.yml", "false", "true", "layer 1"},
		"tasks of a neighbour":             {task("- include_tasks: ../../other/tasks/main.yml\n"), "roles/other/tasks/main.yml", "false", "true", "layer 1"},
		"an include by a variable":         {base.with(page, "'part.j2'", "colour"), "install.d/web/part.j2", "piece", "part", "layer 1"},
		"a list of includes":               {base.with(page, "'part.j2'", `["none.j2", "part.j2"] ignore missing`), "install.d/web/part.j2", "piece", "part", "layer 1"},
		"macros":                           {base.with(page, "{% include 'part.j2' %}", "{%+ from \"part.j2\" import m with context -%}"), "install.d/web/part.j2", "piece", "part", "layer 1"},
		"delimiters of its own":            {base.with(page, "{{ greeting }}\n{% include 'part.j2' %}", "#jinja2: block_start_string:'[%', block_end_string:'%]'\n[% include 'part.j2' %]"), "install.d/web/part.j2", "piece", "part", "layer 1"},
		"a lookup beside a template":       {base.with(page, "{% include 'part.j2' %}", "{{ lookup('file', 'part.j2') }}"), "install.d/web/part.j2", "piece", "part", "layer 1"},
		"a definition beside the template": {base, web, "extends: base # x", "extends: base", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := tc.project.parts(t, "web")
			after := tc.project.with(tc.name, tc.old, tc.to).parts(t, "web")
			if got := changed(before, after); got != tc.want {
				t.Errorf("changed is %q, want %q", got, tc.want)
			}
		})
	}
}

// A layer without files and roles tells all that it reads in its own words.
func TestWhatCommandsAloneRead(t *testing.T) {
	p := project{
		"install.d/base.yml":  "source: {bootstrap: {suite: trixie}}\nvars: {title: \"of {{ build.name }}\", secret_key: 1, other: 2}\ninstall: [{packages: [linux-image-amd64, build-essential]}]\n",
		"commands.d/base.yml": "commands:\n  - run: RUN\n",
		"install.d/one.yml":   "extends: base\n", "install.d/two.yml": "extends: base\n",
	}
	for run, tc := range map[string]struct{ shared, anyVariable bool }{
		`"echo {{ title }}"`: {false, false},
		"|\n      echo {{\n      lookup('vars', 'secret' ~ '_key') }}": {false, true}, // title, too
		"grep -q x y":        {true, false},
		`"echo {{ other }}"`: {true, false},
	} {
		folder := p.with("commands.d/base.yml", "RUN", run).write(t)
		one := partsIn(t, folder, "one", someTools)
		if shared := slices.Equal(one.Layers[0], partsIn(t, folder, "two", someTools).Layers[0]); shared != tc.shared {
			t.Errorf("%s: shared %t", run, shared)
		}
		if differs := !slices.Equal(one.Layers[0], partsIn(t, folder, "one", someTools, "vars.secret_key=5").Layers[0]); differs != tc.anyVariable {
			t.Errorf("%s: reads any variable %t", run, differs)
		}
	}
}

func TestFilesOfTheBuilderThatLookupsName(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "token")
	p := base.with("commands.d/web.yml", "nginx -t -q", `"echo {{ lookup('ansible.builtin.file', '`+outside+`') }}"`)
	var seen []parts
	for _, content := range []string{"a", "b"} {
		if err := os.WriteFile(outside, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, p.parts(t, "web"))
	}
	if got := changed(seen[0], seen[1]); got != "layer 1" {
		t.Errorf("changed is %q", got)
	}
}

func TestFilesThatAPatternNamesCount(t *testing.T) {
	folder := t.TempDir()
	p := base.with("commands.d/web.yml", "nginx -t -q", `"echo {{ query('fileglob', '`+folder+`/*.conf') }}"`)
	before := p.parts(t, "web")
	if err := os.WriteFile(filepath.Join(folder, "a.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := changed(before, p.parts(t, "web")); got != "layer 1" {
		t.Errorf("changed is %q", got)
	}
}

// A tools tree has other files below /usr than the machine, of which keys are made.
func TestLookupsOfWhatAToolsTreeHides(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/usr/share", link); err != nil {
		t.Fatal(err)
	}
	for text, hidden := range map[string]bool{
		`{{ lookup('ansible.builtin.file', '/usr/share/x') }}`:              true,
		`{{ query("fileglob", "/usr/share/*.txt") }}`:                       true,
		`with_fileglob: /usr/share/*.txt`:                                   true,
		"with_file:\n  - /usr/share/x":                                      true,
		`{{ lookup('file', '/srv/x') }} in /usr/share`:                      false,
		`{{ lookup('file', '/usr/share/none-' + name) }}`:                   true,
		`with_items: [/usr/share/x]`:                                        false,
		"with_file:\n  - /srv/a # one\n  # two\n  - \"/usr/share/b\"":       true,
		"with_fileglob: [/srv/*, /usr/share/*.txt]":                         true,
		"with_fileglob:\n- '/srv/*'\n- /usr/share/*.txt\nregister: x":       true,
		"with_file: /srv/x\nloop_control: {label: /usr/share/x}":            false,
		"with_file:\n  - /srv/a\n- name: next\n  command: cat /usr/share/x": false,
		"with_file:\n  - /srv/a\n- copy: {dest: /usr/share/x}":              false,
		`{{ query('fileglob', '/srv/*', '/usr/share/*.txt') }}`:             true,
		`{{ lookup('pipe', '/usr/bin/id') }}`:                               false,
		`# {{ lookup('file', '/usr/share/x') }}`:                            false,
	} {
		for _, overlaid := range []bool{true, false} {
			r := reading{ctx: t.Context(), plan: Plan{overlaid: overlaid}}
			r.text.WriteString(text)
			if _, err := r.outside(); (fail.ExitCode(err) == 2) != (hidden && overlaid) {
				t.Errorf("%s: overlaid %t: %v", text, overlaid, err)
			}
		}
	}
}

func TestAllThatALookupNames(t *testing.T) {
	for text, want := range map[string]string{
		"with_file: /srv/x # why":                             "/srv/x",
		"with_file:\n  - /srv/a\n  - /srv/b c\n  - '/srv/d'":  "/srv/d /srv/a /srv/b c",
		`with_first_found: ["/srv/{{ x }}", /srv/a]`:          "/srv/ /srv/a",
		`q('file', '/srv/a', "/srv/b")`:                       "/srv/a /srv/b",
		`lookup('ansible.builtin.template', '/srv/a' ~ name)`: "/srv/a",
	} {
		if got := strings.Join(outsidePaths(text), " "); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestFilesThatTasksName(t *testing.T) {
	for content, want := range map[string]string{
		"- ansible.builtin.copy: {src: /srv/a, dest: /etc/a}":                                      "/srv/a",
		"- copy: src=/srv/a dest=/etc/a":                                                           "/srv/a",
		"- block: [{template: {src: /srv/a b, dest: /x}}]\n  rescue: [{unarchive: {src: /srv/c}}]": "/srv/a b /srv/c",
		"- copy: {src: /srv/a, dest: /etc/a, remote_src: true}":                                    "",
		"- copy: {src: /srv/a, dest: /etc/a, remote_src: 'no'}":                                    "/srv/a",
		"- copy: src=/srv/a remote_src=yes":                                                        "",
		"- file: {src: /usr/share/a, dest: /etc/a, state: link}":                                   "",
		"- copy: {src: a, dest: /etc/a}":                                                           "",
		"- copy: {src: '/srv/{{ x }}', dest: /etc/a}":                                              "",
		"- script: /srv/run --all":                                                                 "/srv/run",
		"- include_vars: {file: /srv/a.yml}\n- include_vars: /srv/b.yml":                           "/srv/a.yml /srv/b.yml",
		"- hosts: all\n  vars_files: [/srv/a.yml, b.yml]\n  tasks: [{import_tasks: /srv/t.yml}]":   "/srv/a.yml /srv/t.yml",
		"- copy: {src: [": "",
	} {
		absolute, _ := namedByTasks("/p/roles/r/tasks/main.yml", content)
		if got := strings.Join(absolute, " "); got != want {
			t.Errorf("%s: %q", content, got)
		}
	}
	if got, _ := namedByTasks("/p/roles/r/defaults/main.yml", "script: /srv/a"); got != nil {
		t.Errorf("a variable: %q", got)
	}
}

// A role that has a file of the builder copied is applied again when that changes, and does not
// find it below a tools tree.
func TestAFileThatARoleCopiesCounts(t *testing.T) {
	outside, role := filepath.Join(t.TempDir(), "outside"), filepath.Join(t.TempDir(), "role")
	digests := func(source string, overlaid bool) ([]string, error) {
		t.Helper()
		tasks := filepath.Join(role, "tasks/main.yml")
		if err := errors.Join(os.MkdirAll(filepath.Dir(tasks), 0o755), os.WriteFile(tasks, []byte("- copy: {src: "+source+", dest: /etc/a}\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		r := reading{ctx: t.Context(), plan: Plan{overlaid: overlaid}}
		if _, err := r.folder(role); err != nil {
			t.Fatal(err)
		}
		return r.outside()
	}
	before, err := digests(outside, true)
	if err != nil || len(before) != 2 {
		t.Fatal(before, err)
	}
	if err := os.WriteFile(outside, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, err := digests(outside, true); err != nil || slices.Equal(before, after) {
		t.Errorf("%q, %v", after, err)
	}
	if _, err := digests("/usr/share/x", true); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "/usr/share/x") {
		t.Errorf("error %v", err)
	}
}

// Who checks files out decides about their times and, by the umask, their modes.
func TestWhoBuildsChangesNoKey(t *testing.T) {
	folder := base.write(t)
	before := partsIn(t, folder, "web", someTools)
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := changed(before, partsIn(t, folder, "web", someTools)); got != "" {
		t.Errorf("with another umask, changed is %q", got)
	}
	// Roles are often links to elsewhere.
	moved := filepath.Join(t.TempDir(), "stamp")
	role := filepath.Join(folder, "roles", "stamp")
	if err := os.CopyFS(moved, os.DirFS(role)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(role); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(moved, role); err != nil {
		t.Fatal(err)
	}
	if got := changed(before, partsIn(t, folder, "web", someTools)); got != "" {
		t.Errorf("with a link, changed is %q", got)
	}
	if err := os.WriteFile(filepath.Join(moved, "files/stamp"), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := changed(before, partsIn(t, folder, "web", someTools)); got != "layer 1" {
		t.Errorf("with another file behind a link, changed is %q", got)
	}
}

func TestModesOfARolesFiles(t *testing.T) {
	for name, tc := range map[string]struct {
		task string
		mode os.FileMode
		want string
	}{
		"a program":           {"/etc/stamp}", 0o755, "layer 1"},
		"as the umask has it": {"/etc/stamp}", 0o600, ""},
		"preserved":           {"/etc/stamp, mode: preserve}", 0o600, "layer 1"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := base.with("roles/stamp/tasks/main.yml", "/etc/stamp}", tc.task).write(t)
			before := partsIn(t, folder, "web", someTools)
			if err := os.Chmod(filepath.Join(folder, "roles/stamp/files/stamp"), tc.mode); err != nil {
				t.Fatal(err)
			}
			if got := changed(before, partsIn(t, folder, "web", someTools)); got != tc.want {
				t.Errorf("changed is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestLinksInCirclesEnd(t *testing.T) {
	folder := base.write(t)
	for _, name := range []string{"a", "b", "c"} {
		if err := os.Symlink("../..", filepath.Join(folder, "roles/stamp/files", name)); err != nil {
			t.Fatal(err)
		}
	}
	before := partsIn(t, folder, "web", someTools)
	if !slices.Equal(before.Layers[1], partsIn(t, folder, "web", someTools).Layers[1]) {
		t.Error("the digest is another one each time")
	}
}

func TestToolsCountWhereTheyWork(t *testing.T) {
	folder := base.write(t)
	before := partsIn(t, folder, "web", someTools)
	for tool, want := range map[string]string{
		"mmdebstrap": "source", "apt": "source", "ansible-core": "layer 0, layer 1", "ansible": "layer 0, layer 1",
		"e2fsprogs": "outputs", "ovmf": "outputs", "btrfs-progs": "",
	} {
		tools := maps.Clone(someTools)
		tools[tool] += ".1"
		if got := changed(before, partsIn(t, folder, "web", tools)); got != want {
			t.Errorf("%s: changed is %q, want %q", tool, got, want)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if got := partsIn(t, folder, "web", someTools); got.Maker == before.Maker || changed(before, got) != "source, layer 0, layer 1" {
		t.Errorf("SOURCE_DATE_EPOCH: changed is %q", changed(before, got))
	}
}

func TestCollectionsOfAllUsersCount(t *testing.T) {
	folder := t.TempDir()
	digest := func() string {
		d, err := installedCollections(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	put := func(name, content string) {
		path := filepath.Join(folder, "ansible_collections", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	seen := []string{digest()}
	for _, file := range [][2]string{{"a/b/FILES.json", "1"}, {"a/b/FILES.json", "2"}, {"c/d/galaxy.yml", "3"}, {"c/d/plugins/x.py", "4"}} {
		put(file[0], file[1])
		now := digest()
		if slices.Contains(seen, now) {
			t.Errorf("%s with %s changes nothing", file[0], file[1])
		}
		seen = append(seen, now)
	}
}

// Those of the project are edited where they lie, whatever their lists say; folders may be called
// anything.
func TestCollectionsOfTheProjectCountWholly(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a [b]*")
	role := filepath.Join(folder, "collections/ansible_collections/acme/tools/roles/motd/tasks/main.yml")
	list := filepath.Join(folder, "collections/ansible_collections/acme/tools/FILES.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(role), 0o755), os.WriteFile(role, []byte("[]\n"), 0o644), os.WriteFile(list, []byte("{}"), 0o644)); err != nil {
		t.Fatal(err)
	}
	digest := func() string {
		r := reading{ctx: t.Context(), plan: Plan{Project: folder}}
		d, err := r.project(definition.InstallEntry{Roles: []definition.Role{{Name: "acme.tools.motd"}}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := digest()
	if err := os.WriteFile(role, []byte("- command: id\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if digest() == before {
		t.Error("an edited role of a collection changes nothing")
	}
}

func TestATarballCountsByItsBytes(t *testing.T) {
	const name = "install.d/base.yml"
	p := base.with(name, "source: {bootstrap: {suite: trixie, keyring: base/mirror.gpg}}", "source: {tarball: {path: base/root.tar}}")
	p["install.d/base/root.tar"], p["install.d/base/renamed.tar"] = "tar", "tar"
	before := p.parts(t, "web")
	if got := changed(before, p.with(name, "root.tar", "renamed.tar").parts(t, "web")); got != "" {
		t.Errorf("with another name, changed is %q", got)
	}
	if got := changed(before, p.with("install.d/base/root.tar", "tar", "tor").parts(t, "web")); got != "source" {
		t.Errorf("with another byte, changed is %q", got)
	}
}

func TestBuildsShareTheInstallerThatTheyExtend(t *testing.T) {
	const name = "install.d/base.yml"
	bootstrap := "{bootstrap: {suite: trixie, keyring: base/mirror.gpg}}"
	p := base.with(name, bootstrap, "{installer: {suite: trixie, append: 'a={{ zone }}'}}")
	if one, other := p.parts(t, "base"), p.parts(t, "web"); one.Source != other.Source {
		t.Error("what extends another build would install it again")
	}
	p = base.with(name, bootstrap, "{installer: {suite: trixie, append: 'a={{ build.name }}'}}")
	if one, other := p.parts(t, "base"), p.parts(t, "web"); one.Source == other.Source {
		t.Error("the build's name is on the command line, and does not count")
	}
}

// installed is the chain on top of an installer.
func installed() project {
	p := base.with("install.d/base.yml", "source: {bootstrap: {suite: trixie, keyring: base/mirror.gpg}}", `source:
  installer:
    kernel: {file: base/linux}
    initrd: {file: base/initrd}
    answers: base/answers.j2
    append: url={{ build.answers_url }} a={{ zone }}
secrets: {token: {env: HOME}, other: {env: HOME}}`)
	p["install.d/base/linux"], p["install.d/base/initrd"], p["install.d/base/answers.j2"] = "linux", "initrd", "zone {{ site }} {{ token }}\n{% include 'more.j2' %}\n"
	p["install.d/base/more.j2"] = "more {{ build.hostname }}\n"
	return p
}

func TestWhatAnInstallerIsMadeOf(t *testing.T) {
	const name = "install.d/base.yml"
	before := installed().parts(t, "web")
	for what, tc := range map[string]struct {
		file, old, new string
		same           bool
	}{
		"the kernel":                       {"install.d/base/linux", "linux", "linus", false},
		"the initrd":                       {"install.d/base/initrd", "initrd", "inits", false},
		"the answers":                      {"install.d/base/answers.j2", "zone", "zones", false},
		"what the answers include":         {"install.d/base/more.j2", "more", "less", false},
		"a variable of the answers":        {name, "site: Here", "site: There", false},
		"one of the command line":          {name, "zone: UTC", "zone: CET", false},
		"the command line":                 {name, "a={{ zone }}", "b={{ zone }}", false},
		"the disk":                         {name, "    append:", "    disk: 9G\n    append:", false},
		"the memory":                       {name, "    append:", "    memory: 2G\n    append:", true},
		"the time that it may say nothing": {name, "    append:", "    timeout: 1h\n    append:", true},
		"another secret":                   {name, "other: {env: HOME}", "others: {env: PATH}", true},
		"another variable":                 {name, "unused: 1", "unused: 2", true},
	} {
		t.Run(what, func(t *testing.T) {
			got := changed(before, installed().with(tc.file, tc.old, tc.new).parts(t, "web"))
			if strings.Contains(got, "source") == tc.same {
				t.Errorf("changed is %q", got)
			}
		})
	}
	wrong := planIn(t, installed().with(name, "{file: base/linux}", "{file: base/linux, sha256: "+strings.Repeat("0", 64)+"}").write(t), "web")
	if _, err := wrong.keyParts(t.Context(), "maker", toolset{}); fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), "source.installer.kernel: its SHA-256 is ") {
		t.Errorf("%v", err)
	}
}

// The name of a repository's key in the image depends on that of its file.
func TestAnArmouredKeyIsAnotherOne(t *testing.T) {
	p := maps.Clone(base)
	p["install.d/base/extra.asc"] = p["install.d/base/extra.gpg"]
	if got := changed(p.parts(t, "web"), p.with("install.d/base.yml", "extra.gpg", "extra.asc").parts(t, "web")); got != "layer 0" {
		t.Errorf("changed is %q", got)
	}
}

func TestBuildsShareTheLayersThatTheyExtend(t *testing.T) {
	p := project{
		"install.d/one.yml":  "extends: debian\ninstall: [{packages: [vim]}]\n",
		"install.d/two.yml":  "extends: debian\nhostname: box\nfirmware: [bios]\noutputs: [raw, vmdk]\nvars: {site: x, colour: red}\ninstall: [{files: [{path: /a, source: two/file}], roles: [stamp]}]\n",
		"install.d/two/file": "x", "roles/stamp/tasks/main.yml": "[]\n",
		"install.d/mid.yml": "extends: debian\nvars: {size: 1}\ninstall: [{templates: [{path: /a, source: mid/page.j2}]}]\n", "install.d/mid/page.j2": "{{ size }}",
		"install.d/shop.yml": "extends: mid\nvars: {colour: red}\n",
	}
	folder := p.write(t)
	debian := partsIn(t, folder, "debian", someTools)
	for _, name := range []string{"one", "two", "webserver", "mid", "shop"} {
		child := partsIn(t, folder, name, someTools)
		if child.Source != debian.Source || !slices.Equal(child.Layers[0], debian.Layers[0]) {
			t.Errorf("%s does not share debian's layer", name)
		}
	}
	if other := partsIn(t, folder, "two", someTools, "vars.timezone=CET"); slices.Equal(other.Layers[0], debian.Layers[0]) {
		t.Error("another time zone is the same")
	}
	if !slices.Equal(partsIn(t, folder, "mid", someTools).Layers[1], partsIn(t, folder, "shop", someTools).Layers[1]) {
		t.Error("a build that extends one with a template does not share its layer")
	}
}

func TestAnArchivesStateIsPartOfItsKey(t *testing.T) {
	p := parts{Source: "s"}
	a, b := []source.Release{{URL: "u", SHA256: "1"}}, []source.Release{{URL: "u", SHA256: "2"}}
	if p.sourceKey(a) == p.sourceKey(b) || p.sourceKey(a) == p.sourceKey(nil) || p.sourceKey(a) != p.sourceKey(slices.Clone(a)) {
		t.Error("the key does not tell the state")
	}
}

func TestAVariableThatAnsibleCannotGetIsAMistake(t *testing.T) {
	for value, name := range map[string]string{"{80: http}": "ports", ".nan": "ports"} {
		folder := base.with("install.d/web.yml", "colour: red", "colour: red, "+name+": "+value).write(t)
		library, err := definition.NewLibrary(definition.Folder(folder), "", btwimg.Files)
		if err != nil {
			t.Fatal(err)
		}
		d, err := library.Load("web", nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPlan(*d, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.keyParts(t.Context(), "maker", toolset{}); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), name) || fail.Hint(err) == "" {
			t.Errorf("%s: error %v", value, err)
		}
	}
}
