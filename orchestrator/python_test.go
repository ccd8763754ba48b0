package orchestrator

import "testing"

func TestEntriesThatInstallPython(t *testing.T) {
	for name, tc := range map[string]struct{ entry, want string }{
		"a command":      {"commands: [{run: 'apt-get install -y python3'}]", "python3"},
		"another line":   {"commands: [{run: \"apt update\\npython3 -V\"}]", "python3"},
		"its own use":    {"commands: [{run: 'python3 /opt/x.py'}]", ""},
		"a path":         {"commands: [{run: 'apt-get install x; /usr/bin/python3 y'}]", ""},
		"other packages": {"commands: [{run: 'apt-get install python3-yaml python3.13'}]", ""},
		"arguments":      {"commands: [{argv: [apt-get, install, python3-apt]}]", "python3-apt"},
		"a variable":     {"commands: [{run: 'apt-get install {{ wanted | join(\" \") }}'}]", "python3"},
	} {
		p := project{"install.d/x.yml": "source: {bootstrap: {suite: trixie}}\nvars: {wanted: [python3]}\n", "commands.d/x.yml": tc.entry}
		if got := p.parts(t, "x").Layers[0][0].Python; got != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for text, want := range map[string]string{"- apt: {name: [python3, python3-apt]}": "python3 python3-apt", "- apt: {name: curl}\n  vars: {ansible_python_interpreter: /usr/bin/python3}": ""} {
		p := project{"install.d/x.yml": "source: {bootstrap: {suite: trixie}}\ninstall: [{roles: [r]}]\n", "roles/r/tasks/main.yml": text}
		if got := p.parts(t, "x").Layers[0][0].Python; got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestWhatTheDefinitionInstallsOfPython(t *testing.T) {
	p := project{"install.d/x.yml": "source: {bootstrap: {suite: trixie, packages: ['python3-apt']}}\npython: transient\ninstall: [{packages: ['python3=3.13.5-1', vim]}]\n"}
	w := &workshop{plan: planIn(t, p.write(t), "x"), parts: p.parts(t, "x")}
	if got := pythonStays(w.pythonNamed(), nil); got != "the definition installs python3, python3-apt" {
		t.Error(got)
	}
	w = &workshop{plan: planIn(t, base.write(t), "web"), parts: base.parts(t, "web")}
	if named := w.pythonNamed(); len(named) > 0 {
		t.Error(named)
	}
}
