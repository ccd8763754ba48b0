package orchestrator

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/report"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// having is a recipe of a tree with one package.
func having(key, version string) recipe {
	return recipe{title: sourceTitle, key: store.Key(digestOf(key)), work: func(_ context.Context, root string) error {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg"), 0o755); err != nil {
			return err
		}
		status := "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: " + version + "\n"
		return os.WriteFile(filepath.Join(root, dpkgStatus), []byte(status), 0o644)
	}}
}

func TestAStoredLayerTellsWhatANewOneDoes(t *testing.T) {
	needRoot(t)
	w := sharing(t)
	w.host = copying{&hosttest.Fake{}}
	var told [][]gain
	for range 2 {
		grown, err := grow(silent(t.Context()), w, having("source", "1"))
		if err != nil {
			t.Fatal(err)
		}
		r := having("layer", "2")
		r.title, r.below = layerTitle+"web", grown
		r.finished = func(string) (store.Key, any, error) { return r.key, layerFacts{Entries: 3}, nil }
		if grown, err = grow(silent(t.Context()), w, r); err != nil {
			t.Fatal(err)
		}
		gains, err := grown.gains()
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, gains)
	}
	if diff := cmp.Diff(told[0], told[1]); diff != "" {
		t.Errorf("the store tells something else:\n%s", diff)
	}
	first, second := told[0][0], told[0][1]
	if diff := cmp.Diff([]debian.Difference{{Name: "bash", Architecture: "amd64", After: "1"}}, first.Packages); diff != "" {
		t.Errorf("%v\n%s", first, diff)
	}
	if diff := cmp.Diff([]debian.Difference{{Name: "bash", Architecture: "amd64", Before: "1", After: "2"}}, second.Packages); diff != "" || second.Entries != 3 {
		t.Errorf("%v\n%s", second, diff)
	}
}

func TestWhichEntriesALayerIsOf(t *testing.T) {
	d := definition.Definition{
		Source: definition.Source{Bootstrap: &definition.Bootstrap{}},
		Layers: []definition.Layer{{
			Name: "web",
			Install: []definition.InstallEntry{
				{Name: "Kernel", Origin: "install.d/web.yml:2", Packages: []string{"linux-image-amd64"}},
				{Origin: "install.d/web.yml:4", Packages: []string{"nginx"}, Files: []definition.File{{Content: "SECRET"}}},
			},
			Commands: []definition.CommandEntry{{Run: "echo SECRET", Origin: "commands.d/web.yml:2"}, {Name: "Last", Run: "true", Origin: "commands.d/web.yml:3"}},
		}},
	}
	got := reportedLayers(d, []gain{{Stage: sourceTitle}, {Stage: "Layer web", Entries: 1}, {Stage: "Layer web", Entries: 2}, {Stage: "Seal"}})
	want := []report.Layer{
		{Stage: sourceTitle, Entries: []report.Entry{{Origin: "install.d/web.yml:2", Name: "Kernel", Note: "its packages"}, {Origin: "install.d/web.yml:4", Name: "Install", Note: "its packages"}}},
		{Stage: "Layer web", Entries: []report.Entry{{Origin: "install.d/web.yml:4", Name: "Install", Note: "files: 1"}}},
		{Stage: "Layer web", Entries: []report.Entry{{Origin: "commands.d/web.yml:2", Name: "Command"}, {Origin: "commands.d/web.yml:3", Name: "Last"}}},
		{Stage: "Seal", Entries: []report.Entry{}},
	}
	for i := range got {
		if len(got[i].Entries) == 0 {
			got[i].Entries = []report.Entry{}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheReportTellsNoSecrets(t *testing.T) {
	p := plan(t, "debian", "vars.timezone=SECRET")
	p.Definition.Layers = append(p.Definition.Layers, definition.Layer{
		Name: "web", Commands: []definition.CommandEntry{{Name: "Pass on", Run: "echo SECRET", Environment: map[string]string{"A": "SECRET"}, NoLog: true, Origin: "commands.d/web.yml:2"}},
	})
	w := open(t, t.TempDir())
	manifest := Manifest{Name: "debian", Definition: p.Definition.Redacted(), Deferred: []string{"systemctl start x"}}
	if err := writeReport(w, p, manifest, DiskFacts{Layers: []gain{{Stage: layerTitle + "web", Entries: 1}}}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(w.out, ReportName))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(page), "SECRET") || !strings.Contains(string(page), "Pass on") {
		t.Errorf("%s", page)
	}
	if err := w.close(nil); err != nil {
		t.Fatal(err)
	}
}

func TestTheEndOfALongConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot-bios.log")
	if text, cut, err := endOf(path, 4); text != "" || cut || err != nil {
		t.Errorf("%q, %t, %v of no file", text, cut, err)
	}
	if err := os.WriteFile(path, []byte("login"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, cut, err := endOf(path, 4); text != "ogin" || !cut || err != nil {
		t.Errorf("%q, %t, %v", text, cut, err)
	}
	if text, cut, err := endOf(path, 5); text != "login" || cut || err != nil {
		t.Errorf("%q, %t, %v", text, cut, err)
	}
}
