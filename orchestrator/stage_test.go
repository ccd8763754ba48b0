package orchestrator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func TestTheStageHasPlainNamesAlone(t *testing.T) {
	odd := filepath.Join(t.TempDir(), "j {{ lookup('pipe', 'id') }} $HOME\n'\"")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, dir := range []string{odd + "/roles/own", odd + "/roles/not {{ plain }}", odd + "/vars", odd + "/images/x", elsewhere} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, odd+"/roles/linked"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"page.j2", "included.j2", "$HOME.asc", "{{ x }}", "images/x/build.json"} {
		if err := os.WriteFile(filepath.Join(odd, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fake := &hosttest.Fake{}
	s := stager{h: fake, root: filepath.Join(t.TempDir(), "stage"), staged: map[string]string{}}
	want := map[string]string{"page.j2": "assets/0/page.j2", "included.j2": "assets/0/included.j2", "$HOME.asc": "assets/1/file.asc", "{{ x }}": "assets/2/file"}
	for range 2 { // what is asked for again has its place
		for _, name := range []string{"page.j2", "included.j2", "$HOME.asc", "{{ x }}"} {
			if got, err := s.asset(filepath.Join(odd, name)); err != nil || got != filepath.Join(s.root, want[name]) {
				t.Errorf("%s: %s, %v", name, got, err)
			}
		}
	}
	if len(fake.Calls) != 3 {
		t.Errorf("mounts: %v", fake.Calls)
	}
	if _, err := s.project(odd); err != nil {
		t.Fatal(err)
	}
	calls := strings.Join(fake.Calls, "\n")
	for _, bound := range []string{odd + "/roles/own on " + s.root + "/project/roles/own", elsewhere + " on " + s.root + "/project/roles/linked", odd + "/vars on " + s.root + "/project/vars", odd + "/page.j2 on " + s.root + "/project/page.j2"} {
		if !strings.Contains(calls, bound) {
			t.Errorf("not bound: %s\n%s", bound, calls)
		}
	}
	if strings.Contains(calls, "roles/not") || strings.Contains(calls, "/images") {
		t.Errorf("a role that no definition can name is bound, or a folder of images:\n%s", calls)
	}
}

func TestPlainPathsStayAsTheyAre(t *testing.T) {
	fake := &hosttest.Fake{}
	s := stager{h: fake, root: filepath.Join(t.TempDir(), "stage"), staged: map[string]string{}}
	for _, path := range []string{"/home/alice/.config/defs/install.d/key-2024.asc", "/srv/job@2/page.j2"} {
		if got, err := s.asset(path); got != path || err != nil {
			t.Errorf("%s, %v", got, err)
		}
	}
	if got, err := s.project("/srv/defs"); got != "/srv/defs" || err != nil || len(fake.Calls) > 0 {
		t.Errorf("%s, %v, %v", got, err, fake.Calls)
	}
	for _, path := range []string{"/srv/a b/x", "/srv/~alice/x", "/srv/a:b/x", "/srv/$HOME/x", "/srv/{{x}}/x", "/srv/a,b/x", "/srv/-x/x", "/srv/a\nb/x", "/srv/%s/x"} {
		if plain(path) {
			t.Errorf("%q is taken for plain", path)
		}
	}
}
