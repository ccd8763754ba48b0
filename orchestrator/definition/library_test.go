package definition_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.yaml.in/yaml/v4"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/golden"
)

// files is a working folder.
func files(content map[string]string) fstest.MapFS {
	folder := fstest.MapFS{}
	for name, text := range content {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return folder
}

func library(content map[string]string) *definition.Library {
	l, err := definition.NewLibrary(files(content), "", btwimg.Files)
	if err != nil {
		panic(err)
	}
	return l
}

func TestShippedBuilds(t *testing.T) {
	l := library(nil)
	for _, name := range l.Names() {
		t.Run(name, func(t *testing.T) {
			definition, err := l.Load(name, nil)
			if err != nil {
				t.Fatal(err)
			}
			out, err := yaml.Dump(definition)
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, name+".golden", string(out))
		})
	}
}

const base = "source: {bootstrap: {suite: trixie}}\n"

func load(t *testing.T, content map[string]string, name string, settings ...string) *definition.Definition {
	t.Helper()
	definition, err := library(content).Load(name, settings)
	if err != nil {
		t.Fatal(err)
	}
	return definition
}

func TestLayersFollowTheChainAndDropInsTheirBuild(t *testing.T) {
	d := load(t, map[string]string{
		"install.d/a.yml":        base + "vars: {x: 1, y: 1}\nhostname: a\ninstall: [{packages: [aa]}]",
		"install.d/a/20.yml":     "install: [{packages: [a20]}]",
		"install.d/a/10.yml":     "vars: {y: 2}\ninstall: [{packages: [a10]}]",
		"install.d/b.yml":        "extends: a\nvars: {z: 3}\ninstall: [{packages: [bb]}]",
		"commands.d/a.yml":       "commands: [{run: a}]",
		"commands.d/b/later.yml": "commands: [{run: later}]",
		"commands.d/b.yml":       "commands: [{run: b}]",
	}, "b")
	var got []string
	for _, layer := range d.Layers {
		for _, e := range layer.Install {
			got = append(got, layer.Name+":"+e.Packages[0]+"@"+e.Origin)
		}
		for _, e := range layer.Commands {
			got = append(got, layer.Name+":"+e.Run+"@"+e.Origin)
		}
	}
	want := "a:aa@install.d/a.yml:4 a:a10@install.d/a/10.yml:2 a:a20@install.d/a/20.yml:1 a:a@commands.d/a.yml:1 " +
		"b:bb@install.d/b.yml:3 b:b@commands.d/b.yml:1 b:later@commands.d/b/later.yml:1"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	if d.Hostname != "a" || d.Vars["x"] != 1 || d.Vars["y"] != 2 || d.Vars["z"] != 3 {
		t.Errorf("hostname %q, vars %v", d.Hostname, d.Vars)
	}
}

func TestAWorkingFolderOverridesWhatIsEmbedded(t *testing.T) {
	whole := load(t, map[string]string{"install.d/debian.yml": base + "description: mine"}, "debian")
	if whole.Description != "mine" || len(whole.Layers[0].Install)+len(whole.Layers[0].Commands) != 0 {
		t.Errorf("parts of the embedded build are left: %+v", whole)
	}
	part := load(t, map[string]string{
		"install.d/debian/local.yml": "disk: {size: 4G}\ninstall: [{packages: [less]}]",
		"commands.d/debian.yml":      "commands: [{run: mine}]",
	}, "debian")
	layer := part.Layers[0]
	if part.Disk.Size != 4*definition.GiB || layer.Install[len(layer.Install)-1].Packages[0] != "less" || len(layer.Install) < 2 {
		t.Errorf("the drop-in did not extend the embedded build: %+v", part)
	}
	if len(layer.Commands) != 1 || layer.Commands[0].Run != "mine" {
		t.Errorf("commands are %+v", layer.Commands)
	}
}

func TestSettingsReachIntoTheDefinition(t *testing.T) {
	d := load(t, nil, "debian", "disk.size=3G", "vars.timezone=Europe/Berlin", "vars.new=[a, b]", "firmware=[bios]", "outputs=[raw]")
	if d.Disk.Size != 3*definition.GiB || d.Vars["timezone"] != "Europe/Berlin" || len(d.Firmware) != 1 || d.Outputs[0] != "raw" {
		t.Errorf("%+v", d)
	}
	_, err := library(nil).Load("debian", []string{"disk.siez=3G", "nonsense", "hostname=-"})
	text := errorText(err)
	for _, want := range []string{`--set disk.siez: unknown key "disk.siez": did you mean "size"?`, "--set nonsense: there is no key=value"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %q", text, want)
		}
	}
}

func TestEachBuildIsCalledByItsOwnName(t *testing.T) {
	long := strings.Repeat("a", 63)
	content := map[string]string{
		"install.d/mine.yml":         "extends: debian",
		"install.d/" + long + ".yml": "extends: mine",
		"install.d/web-1.2.yml":      "extends: mine",
		"install.d/named.yml":        "extends: mine\nhostname: other.example.org",
		"install.d/child.yml":        "extends: named",
		"install.d/scaffold.yml":     definition.InstallScaffold("scaffold", "named"),
	}
	for name, want := range map[string]string{
		"debian": "debian", "debian-12": "debian-12", "webserver": "webserver", "mine": "mine", long: long, "web-1.2": "web-1.2",
		"named": "other.example.org", "child": "other.example.org",
	} {
		if got := load(t, content, name).Hostname; got != want {
			t.Errorf("%s is called %s, want %s", name, got, want)
		}
	}
}

func TestAnotherSourceReplacesTheParents(t *testing.T) {
	d := load(t, map[string]string{
		"install.d/x.yml":      "extends: debian\nsource: {tarball: {path: root.tar}}",
		"install.d/root.tar":   "x",
		"install.d/later.yml":  "extends: debian\nsource: {bootstrap: {suite: sid}}",
		"install.d/unused.yml": base,
	}, "x")
	if d.Source.Bootstrap != nil || d.Source.Tarball.Path != "install.d/root.tar" {
		t.Errorf("%+v", d.Source)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// mistakes is what is reported of the build x, a line for each problem.
func mistakes(content map[string]string, settings ...string) []string {
	_, err := library(content).Load("x", settings)
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// beginWith wants each of got to begin with its part of want.
func beginWith(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) || !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string // "file:line: text" that the report must hold
	}{
		"unknown keys, all at once": {
			map[string]string{"install.d/x.yml": base + "hostnam: a\ninstall:\n  - pakages: [a]\n  - packages: [b]\n    nonsense: 1\n"},
			[]string{
				`install.d/x.yml:2: unknown key "hostnam": did you mean "hostname"?`,
				`install.d/x.yml:4: unknown key "install[0].pakages": did you mean "packages"?`,
				`install.d/x.yml:6: unknown key "install[1].nonsense": known here: debconf, files,`,
			},
		},
		"mistakes of several files": {
			map[string]string{"install.d/x.yml": base + "a: 1", "install.d/x/1.yml": "b: 1", "commands.d/x.yml": "c: 1"},
			[]string{"install.d/x.yml:2: ", "install.d/x/1.yml:1: ", "commands.d/x.yml:1: "},
		},
		"wrong types": {
			map[string]string{"install.d/x.yml": "source: 5\nfirmware: bios\nvars: [a]\ndisk: {size: big}\nboot: {timeout: soon}\ninstall: [{packages: {a: b}, recommends: perhaps}]"},
			[]string{
				"install.d/x.yml:1: source: expected keys with values, found a single value",
				"install.d/x.yml:2: firmware: expected a list, found a single value: write '- item' lines",
				"install.d/x.yml:3: vars: expected keys with values, found a list",
				`install.d/x.yml:4: disk.size: "big" is not a size: write a number with a unit`,
				`install.d/x.yml:5: boot.timeout: "soon" is not a whole number`,
				"install.d/x.yml:6: install[0].packages: expected a list",
				`install.d/x.yml:6: install[0].recommends: "perhaps" is neither true nor false`,
			},
		},
		"unquoted Jinja": {
			map[string]string{"install.d/x.yml": base, "commands.d/x.yml": "commands:\n  - run: {{ a }}"},
			[]string{"commands.d/x.yml:2: commands[0].run: expected a single value, found keys with values: put Jinja expressions in quotes"},
		},
		"a circle":                {map[string]string{"install.d/x.yml": "extends: y", "install.d/y.yml": "\nextends: x"}, []string{"install.d/y.yml:2: extends goes in a circle: x → y → x"}},
		"itself":                  {map[string]string{"install.d/x.yml": "extends: x"}, []string{"install.d/x.yml:1: extends goes in a circle"}},
		"a missing parent":        {map[string]string{"install.d/x.yml": "extends: debain"}, []string{`install.d/x.yml:1: extends: there is no build "debain": did you mean "debian"?`}},
		"keys twice":              {map[string]string{"install.d/x.yml": base + "hostname: a\nhostname: b"}, []string{`install.d/x.yml:3: key "hostname" is given twice: keep one; the first is on line 2`}},
		"vars twice":              {map[string]string{"install.d/x.yml": base + "vars: {a: {b: 1, b: 2}}"}, []string{`install.d/x.yml:2: key "b" is given twice`}},
		"no source":               {map[string]string{"install.d/x.yml": "hostname: a"}, []string{"install.d/x.yml:1: source: no source is given"}},
		"two sources":             {map[string]string{"install.d/x.yml": "source:\n  bootstrap: {suite: sid}\n  tarball: {path: x.yml}"}, []string{"install.d/x.yml:2: source: bootstrap and tarball exclude each other"}},
		"an empty file":           {map[string]string{"install.d/x.yml": " \n"}, []string{"install.d/x.yml:1: the file is empty"}},
		"comments alone":          {map[string]string{"install.d/x.yml": "# nothing\n"}, []string{"install.d/x.yml:1: the file"}},
		"a list":                  {map[string]string{"install.d/x.yml": "- a\n"}, []string{"install.d/x.yml:1: the file expected keys with values, found a list"}},
		"no YAML":                 {map[string]string{"install.d/x.yml": base + "a: [\n"}, []string{"install.d/x.yml:"}},
		"a key without":           {map[string]string{"install.d/x.yml": base + "hostname:\n"}, []string{"install.d/x.yml:2: hostname: has no value"}},
		"not UTF-8":               {map[string]string{"install.d/x.yml": base + "hostname: caf\xe9"}, []string{"install.d/x.yml:2: the file is not UTF-8"}},
		"a large file":            {map[string]string{"install.d/x.yml": base + strings.Repeat("#", 1<<20)}, []string{"install.d/x.yml: the file has"}},
		"a bomb":                  {map[string]string{"install.d/x.yml": bomb()}, []string{"aliases expand to too much"}},
		"deep nesting":            {map[string]string{"install.d/x.yml": "vars: {a: " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}"}, []string{"install.d/x.yml:1: "}},
		"a small disk":            {map[string]string{"install.d/x.yml": base + "disk: {size: 300M}"}, []string{"install.d/x.yml:2: disk.size: the partitions need 643M, the disk has 300M"}},
		"a crooked disk":          {map[string]string{"install.d/x.yml": base + "disk: {size: 2000000001}"}, []string{"install.d/x.yml:2: disk.size: 2000000001 is not a multiple of 1 MiB"}},
		"a huge disk":             {map[string]string{"install.d/x.yml": base + "disk: {size: 9000T}"}, []string{"install.d/x.yml:2: disk.size: 9000T is more than"}},
		"a root that cannot grow": {map[string]string{"install.d/x.yml": base + "disk:\n  layout: [{type: bios}, {filesystem: ext4, mount: /}, {size: 1G, filesystem: swap}]\n  grow: true\n"}, []string{"install.d/x.yml:4: disk.grow: only a root file system on the last partition can grow"}},
		"an unknown layout":       {map[string]string{"install.d/x.yml": base + "disk: {layout: raid}"}, []string{`install.d/x.yml:2: disk.layout: unknown "raid"`}},
		"firmware that cannot be": {
			map[string]string{"install.d/x.yml": base + "disk: {layout: efi}\nfirmware: [bios, uefi]"},
			[]string{"install.d/x.yml:3: firmware: bios needs a BIOS boot partition"},
		},
		"partitions": {
			map[string]string{"install.d/x.yml": base + `disk:
  size: 4G
  layout:
    - {label: a, filesystem: ext4, mount: /srv, size: 1G}
    - {label: a, filesystem: zfs, mount: /srv, size: 1G}
    - {filesystem: swap, mount: /swap, size: 10M}
    - {filesystem: xfs, mount: relative, size: 10M}
    - {filesystem: vfat, mount: /boot/efi, label: much-too-long}
    - {filesystem: btrfs, mount: /x}
firmware: [uefi]
`},
			[]string{
				`install.d/x.yml:6: disk.layout: unknown file system "zfs"`,
				`install.d/x.yml:6: disk.layout: label "a" is used twice`,
				"install.d/x.yml:6: disk.layout: /srv is mounted twice",
				"install.d/x.yml:7: disk.layout: swap is not mounted",
				`install.d/x.yml:8: disk.layout: "relative" is no mount point`,
				"install.d/x.yml:8: disk.layout: 10M is too small for xfs",
				`install.d/x.yml:9: disk.layout: label "much-too-long" is too long for vfat`,
				"install.d/x.yml:10: disk.layout: two partitions have no size",
				"disk.layout: no partition is mounted on /",
			},
		},
		"variables": {
			map[string]string{"install.d/x.yml": base + "vars: {a-b: 1}\nhostname: -a-"},
			[]string{`install.d/x.yml:2: vars: "a-b" is no variable name`, `install.d/x.yml:3: hostname: "-a-" is no host name`},
		},
		"a mirror with a query": {
			map[string]string{"install.d/x.yml": "source: {bootstrap: {suite: sid, mirror: 'http://h/debian?key=hunter2'}}"},
			[]string{`install.d/x.yml:1: source.bootstrap.mirror: "http://h/debian" goes on with ? or #`},
		},
		"a mirror with a password": {
			map[string]string{"install.d/x.yml": "source: {bootstrap: {suite: sid, mirror: 'http://me:hunter2@h/debian'}}"},
			[]string{"install.d/x.yml:1: source.bootstrap.mirror:"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := library(tc.files).Load("x", nil)
			if fail.ExitCode(err) != 2 {
				t.Errorf("exit code %d, want 2", fail.ExitCode(err))
			}
			text := errorText(err)
			if strings.Contains(text, "hunter2") {
				t.Error("the report holds a password")
			}
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("lacks %q in\n%s", want, text)
				}
			}
		})
	}
}

func TestEveryMistakeOfEntriesIsReportedAtOnce(t *testing.T) {
	_, err := library(map[string]string{
		"install.d/x.yml": base + `install:
  - name: nothing
  - packages: [Bad Name, good, good]
  - files: [{path: relative, content: a}, {path: /a, content: a, source: b}, {path: /b}, {path: /c, source: missing}]
  - files: [{path: /d, content: a, mode: rwx}]
  - users: [{name: "a b"}, {name: u, password_hash: plain}, {name: u}]
  - repositories: [{name: r, uris: ["http://u:hunter2@h/"], suites: [s], components: [c], key: no.asc}]
  - roles: [absent]
  - services: {enabled: ["a b"]}
  - {packages: [good], on: install}
`,
		"commands.d/x.yml": "commands:\n  - name: nothing\n  - run: a\n    argv: [b]\n  - run: a\n    creates: relative\n    environment: {a-b: c}\n  - {run: a, on: tree}\n",
	}).Load("x", nil)
	text := errorText(err)
	for _, want := range []string{
		"install.d/x.yml:3: the entry installs nothing",
		`install.d/x.yml:4: packages: "Bad Name" is no package`,
		`install.d/x.yml:4: packages: "good" is named twice`,
		`install.d/x.yml:5: files: "relative" is not an absolute path`,
		"install.d/x.yml:5: files: source and content exclude each other",
		"install.d/x.yml:5: files: neither source nor content is given",
		"install.d/x.yml:5: there is no file install.d/missing",
		`install.d/x.yml:6: install[3].files[0].mode: "rwx" are no file permissions`,
		`install.d/x.yml:7: users: "a b" is no account name`,
		"install.d/x.yml:7: users: password_hash is not a hash",
		`install.d/x.yml:7: users: "u" is named twice`,
		"install.d/x.yml:8: repositories.uris:",
		"install.d/x.yml:8: there is no file install.d/no.asc",
		`install.d/x.yml:9: roles: there is no role "absent"`,
		`install.d/x.yml:10: services.enabled: "a b" is no unit`,
		`install.d/x.yml:11: on: unknown "install"`,
		`commands.d/x.yml:8: on: unknown "tree"`,
		"commands.d/x.yml:2: the entry runs nothing",
		"commands.d/x.yml:4: run and argv exclude each other",
		`commands.d/x.yml:6: creates: "relative" is not an absolute path`,
		`commands.d/x.yml:7: environment: "a-b" is no variable name`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Error("the report holds a password")
	}
}

// bomb is a document whose aliases expand to 10^9 nodes.
func bomb() string {
	var b strings.Builder
	b.WriteString("vars:\n  a0: &a0 [x]\n")
	for i := range 9 {
		b.WriteString("  a" + string(rune('1'+i)) + ": &a" + string(rune('1'+i)) + " [" + strings.Repeat("*a"+string(rune('0'+i))+", ", 9) + "*a" + string(rune('0'+i)) + "]\n")
	}
	return b.String()
}

func TestStraysAreReported(t *testing.T) {
	l := library(map[string]string{
		"install.d/a.yaml": base, "commands.d/alone.yml": "commands: [{run: a}]", "install.d/.hidden.yaml": "",
		"install.d/fine.yml":  base + `install: [{files: [{path: /a, source: fine/content.yaml}, {path: /b, source: data/content.yml}]}]`,
		"commands.d/fine.yml": "commands: [{run: a}]", "commands.d/fine/1.yml": "commands: [{run: b}]",
		"install.d/fine/notes.txt": "", "install.d/fine/content.yaml": "", "install.d/data/content.yml": "", "install.d/debian/1.yml": "vars: {a: b}",
		"install.d/fine/dropin.yaml": "vars: {a: b}", "install.d/debain/1.yml": "vars: {a: b}", "commands.d/nosuch/1.yml": "commands: [{run: a}]",
	})
	want := []string{
		"commands.d/alone.yml: there is no install.d/alone.yml: write it, or rename this to the build it belongs to",
		"commands.d/nosuch/1.yml: there is no install.d/nosuch.yml: write it, or rename this to the build it belongs to",
		"install.d/a.yaml: the file is ignored: rename it to end in .yml",
		`install.d/debain/1.yml: there is no install.d/debain.yml: write it, or rename this to the build it belongs to; did you mean "debian"?`,
		"install.d/fine/dropin.yaml: the file is ignored: rename it to end in .yml",
	}
	got := strings.Split(l.Strays().Error(), "\n")
	slices.Sort(got)
	beginWith(t, got, want)
}

func TestAnUnknownBuildGetsASuggestion(t *testing.T) {
	_, err := library(nil).Load("debain", nil)
	if fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), `did you mean "debian"?`) {
		t.Errorf("%v, hint %q", err, fail.Hint(err))
	}
}

func TestProblemsAreFoundByType(t *testing.T) {
	_, err := library(map[string]string{"install.d/x.yml": base + "a: 1\nb: 2"}).Load("x", nil)
	problems, ok := errors.AsType[definition.Problems](err)
	if !ok || len(problems) != 2 || problems[1].Line != 3 {
		t.Errorf("%#v", problems)
	}
}

func TestAScaffoldExtendsWhatLooksLikeANumber(t *testing.T) {
	for extends, want := range map[string]string{"debian": "extends: debian\n", "null": "extends: \"null\"\n", "42": "extends: \"42\"\n"} {
		if got := definition.InstallScaffold("mine", extends); !strings.Contains(got, want) {
			t.Errorf("%s: %s", extends, got)
		}
	}
}

func TestScaffoldsAreValid(t *testing.T) {
	if _, err := library(map[string]string{
		"install.d/mine.yml": definition.InstallScaffold("mine", "debian"), "commands.d/mine.yml": definition.CommandsScaffold(),
	}).Load("mine", nil); err != nil {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{base, "extends: debian\ndisk: {layout: [{mount: /, filesystem: ext4}]}", bomb(), "a: {{ b }}", "&a [*a]"} {
		f.Add(seed, "commands: [{run: a}]", "disk.size=1G")
	}
	f.Fuzz(func(t *testing.T, install, commands, setting string) {
		definition, err := library(map[string]string{"install.d/x.yml": install, "commands.d/x.yml": commands}).Load("x", []string{setting})
		if err == nil {
			if _, err := json.Marshal(definition); err != nil {
				t.Error(err)
			}
			return
		}
		if fail.ExitCode(err) != 2 {
			t.Errorf("exit code %d for %v", fail.ExitCode(err), err)
		}
	})
}
