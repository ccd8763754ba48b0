package orchestrator

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/store"
)

func fetchedPackage(name string) aptmethod.Fetched {
	return aptmethod.Fetched{Name: name, SHA256: digestOf(name), URI: "http://mirror.example/debian/pool/" + name, Base: "http://mirror.example/debian/"}
}

func fetchedList(name, content string) aptmethod.Fetched {
	return aptmethod.Fetched{Name: name, SHA256: digestOf(content), URI: "http://mirror.example/debian/dists/trixie/" + name, Base: "http://mirror.example/debian/", List: true}
}

func lockOf(stages ...StageFiles) *Lock {
	return &Lock{Name: "web", Materials: Materials{Archives: []source.Release{{URL: "http://mirror.example/debian/dists/trixie/InRelease", SHA256: digestOf("x")}}, Fetched: stages}}
}

func TestALockIsWrittenAndRead(t *testing.T) {
	folder := t.TempDir()
	if l, err := ReadLock(folder, "web"); l != nil || err != nil {
		t.Errorf("%v, %v", l, err)
	}
	want := lockOf(StageFiles{sourceTitle, []aptmethod.Fetched{fetchedPackage("a_1%3a2_amd64.deb")}})
	path, err := want.Write(folder)
	if err != nil || path != filepath.Join(folder, "locks/web.json") {
		t.Fatal(path, err)
	}
	got, err := ReadLock(folder, "web")
	if err != nil || digestOf(got) != digestOf(want) {
		t.Errorf("%+v, %v", got, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"another build's": {`"name": "web"`, `"name": "other"`},
		"a path":          {"a_1%3a2_amd64.deb", "../a.deb"},
		"a digest":        {digestOf("a_1%3a2_amd64.deb"), "0123"},
		"an address":      {"http://mirror.example/debian/pool", "file:///etc/passwd"},
		"an option":       {`"uri": "http://`, `"uri": "-o http://`},
		"no JSON":         {"{", "["},
	} {
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(content), change[0], change[1])), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLock(folder, "web"); fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), "vmctl lock") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewLock(Manifest{Name: "web"}); fail.ExitCode(err) != 2 {
		t.Errorf("a record without packages made a lock: %v", err)
	}
}

func TestPackagesThatTheLockDoesNotName(t *testing.T) {
	a, b, c := fetchedPackage("a_1_amd64.deb"), fetchedPackage("b_1_amd64.deb"), fetchedPackage("c_1_amd64.deb")
	list := fetchedList("x_InRelease", "x")
	l := lockOf(StageFiles{sourceTitle, []aptmethod.Fetched{a, b, list}}, StageFiles{layerTitle + "web", []aptmethod.Fetched{c}})
	var same, other Materials
	same.add(sourceTitle, []aptmethod.Fetched{b, a, a})
	same.add(layerTitle+"web", []aptmethod.Fetched{c})
	w := sharing(t)
	w.plan.Lock = l
	if err := w.obey(same); err != nil {
		t.Error(err)
	}
	other.add(sourceTitle, []aptmethod.Fetched{a, c})
	other.add(layerTitle+"web", []aptmethod.Fetched{c})
	err := w.obey(other)
	if fail.ExitCode(err) != 4 || !strings.HasSuffix(err.Error(), ": +c 1, -b 1") {
		t.Error(err)
	}
	w.plan.Lock = nil
	if err := w.obey(other); err != nil {
		t.Error(err)
	}
}

func TestMaterialsAreThoseOfAllLayers(t *testing.T) {
	var m Materials
	one, two := fetchedPackage("a_1_amd64.deb"), fetchedPackage("b_1_amd64.deb")
	one.From = aptmethod.FromCache
	m.add("Layer web", []aptmethod.Fetched{two})
	m.add("Layer web", []aptmethod.Fetched{one, two}) // another part of the layer
	if files := m.of("Layer web"); len(files) != 2 || files[0].Name != "a_1_amd64.deb" || files[0].From != "" || len(m.of("Source")) != 0 {
		t.Errorf("%+v", m)
	}
}

func TestPreferencesOfALock(t *testing.T) {
	got := preferences(lockOf(StageFiles{sourceTitle, []aptmethod.Fetched{fetchedPackage("a_1%3a2-3+b1_amd64.deb"), fetchedList("x_InRelease", "x")}}).Materials)
	want := "Package: *\nPin: release *\nPin-Priority: -1\n\nPackage: a\nPin: version 1:2-3+b1\nPin-Priority: 1001\n"
	if got != want {
		t.Errorf("%q", got)
	}
}

// What the archives had is told to the method where all of that is to be had, else the
// versions.
func TestALockReplaysTheArchivesState(t *testing.T) {
	list, pkg := fetchedList("x_InRelease", "x"), fetchedPackage("a_1_amd64.deb")
	for name, there := range map[string]bool{"there": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			w := sharing(t)
			fake := &hosttest.Fake{Failures: map[string]error{"/usr/lib/apt/apt-helper": os.ErrNotExist}}
			w.host = fake
			w.plan.Lock = lockOf(StageFiles{sourceTitle, []aptmethod.Fetched{list, pkg}})
			w.plan.Snapshots = []string{"http://snapshot.example/then/"}
			if there {
				if err := os.WriteFile(filepath.Join(w.store.DownloadsFolder(), list.Kept()), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s, err := w.replay(t.Context(), sourceTitle, aptmethod.Settings{})
			if err != nil || s.Pinned != there || (s.Preferences == "") != there || !slices.Equal(s.Mirrors, w.plan.Snapshots) {
				t.Errorf("%+v, %v", s, err)
			}
			if there && s.Lists["x_InRelease"] != list.SHA256 {
				t.Errorf("%v", s.Lists)
			}
			asked := strings.Join(fake.Calls, "\n")
			for _, address := range []string{list.URI, "http://snapshot.example/then/dists/trixie/x_InRelease"} {
				if strings.Contains(asked, address+" ") == there {
					t.Errorf("it asks\n%s", asked)
				}
			}
			if !there && !strings.Contains(asked, "SHA256:"+list.SHA256) {
				t.Errorf("any file will do:\n%s", asked)
			}
		})
	}
}

func TestALockNamesWhatIsGone(t *testing.T) {
	w := sharing(t)
	a, b := fetchedPackage("a_1_amd64.deb"), fetchedPackage("b_1_amd64.deb")
	w.plan.Lock = lockOf(StageFiles{sourceTitle, []aptmethod.Fetched{a, b}})
	failure := fail.New(fail.Build, "mmdebstrap", "", "exit status 25")
	err := w.lacking(failure, sourceTitle, []aptmethod.Fetched{{Name: a.Name, From: aptmethod.Missing}})
	if !strings.HasSuffix(err.Error(), "not in the store: a 1") || !strings.Contains(fail.Hint(err), "--snapshot") {
		t.Errorf("%v", err)
	}
	if err := host.Tree(w.root()).Write("/var/lib/apt/lists/m_main_Packages", []byte("Package: a\nSHA256: "+a.SHA256+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.lacking(failure, sourceTitle, nil); !strings.HasSuffix(err.Error(), "not in the store: b 1") {
		t.Errorf("%v", err)
	}
}

// Builds with a lock and without share no layer, but a source whose archive was the same.
func TestALockIsPartOfTheKeysOfLayers(t *testing.T) {
	p := plan(t, "debian")
	free, err := p.keyParts(t.Context(), "maker", toolset{})
	if err != nil {
		t.Fatal(err)
	}
	p.Lock = lockOf(StageFiles{sourceTitle, []aptmethod.Fetched{fetchedPackage("a_1_amd64.deb")}})
	bound, err := p.keyParts(t.Context(), "maker", toolset{})
	if err != nil || bound.Source != free.Source || digestOf(bound.Layers) == digestOf(free.Layers) || bound.Maker != free.Maker {
		t.Errorf("%+v, %+v, %v", free, bound, err)
	}
	w := sharing(t)
	w.plan.Lock = p.Lock
	putSource(t, w, p.Lock.Archives)
	t.Cleanup(func() { _ = w.release.Close() })
	if key, err := w.knownSource(t.Context()); err != nil || key != w.parts.sourceKey(p.Lock.Archives) {
		t.Errorf("%s, %v", key, err)
	}
	w.plan.Lock.Archives[0].SHA256 = digestOf("gone")
	if key, err := w.knownSource(t.Context()); err != nil || key != store.Key("") {
		t.Errorf("%s, %v", key, err)
	}
}

func TestWhatARecordSaysOtherwise(t *testing.T) {
	p := plan(t, "webserver")
	m := Manifest{Definition: p.Definition.Redacted(), Inputs: inputDigests(t.Context(), p)}
	if got := m.Differences(t.Context(), p); len(got) > 0 {
		t.Errorf("%v", got)
	}
	m.Inputs["some.file"] = digestOf("it")
	m.Definition.Hostname = "other"
	m.Definition.Disk.Size++
	got := m.Differences(t.Context(), p)
	if !slices.Contains(got, "some.file") || len(got) != 3 {
		t.Errorf("%v", got)
	}
}
