package orchestrator

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// A secret of few possible values cannot be found out by trying them all.
func TestInputsTellNothingOfWhatIsHidden(t *testing.T) {
	inputs := func(pin string) map[string]string {
		p := plan(t, "debian", "vars.pin="+pin)
		p.Assets = map[string]string{"install.d/public": filepath.Join(t.TempDir(), "public"), "install.d/pin": filepath.Join(t.TempDir(), "pin")}
		for _, path := range p.Assets {
			if err := os.WriteFile(path, []byte(filepath.Base(path)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p.Definition.Layers = append(p.Definition.Layers, definition.Layer{Install: []definition.InstallEntry{
			{Files: []definition.File{{Path: "/a", Source: "install.d/public"}}},
			{Files: []definition.File{{Path: "/b", Source: "install.d/pin", Content: pin}}, Debconf: []definition.Debconf{{Value: pin}}, NoLog: true},
		}})
		return inputDigests(t.Context(), p)
	}
	one, other := inputs("1234"), inputs("4321")
	if !reflect.DeepEqual(one, other) {
		t.Errorf("%v is not %v", one, other)
	}
	if _, public := one["install.d/public"]; !public || len(one) != 2 || one["definition"] == "" {
		t.Errorf("%v", one)
	}
}

// What is not Debian's has no version that dpkg knows.
func TestToolsFromElsewhereTellTheirVersions(t *testing.T) {
	folder := t.TempDir()
	script := "#!/bin/sh\necho 'ansible-playbook [core 2.99]'\necho '  config file = None'\n"
	if err := os.WriteFile(filepath.Join(folder, "ansible-playbook"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder)
	versions := toolVersions(t.Context(), &host.Local{})
	if versions["ansible-playbook"] != "ansible-playbook [core 2.99]" || versions["ansible-core"] != "" {
		t.Errorf("%v", versions)
	}
	before := base.parts(t, "web")
	folderOf := base.write(t)
	tools := map[string]string{"mmdebstrap": "1.5", "ansible": "11", "apt": "3", "e2fsprogs": "1.47", "ovmf": "2025", "ansible-playbook": versions["ansible-playbook"]}
	if got := changed(before, partsIn(t, folderOf, "web", tools)); got != "layer 0, layer 1" {
		t.Errorf("changed is %q", got)
	}
}
