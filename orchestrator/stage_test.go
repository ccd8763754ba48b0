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
	for _, dir := range []string{odd + "/roles/own", odd + "/roles/not {{ plain }}", elsewhere} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, odd+"/roles/linked"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"page.j2", "included.j2", "$HOME.asc", "{{ x }}"} {
		if err := os.WriteFile(filepath.Join(odd, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fake := &hosttest.Fake{}
	s := stager{h: fake, root: filepath.Join(t.TempDir(), "stage"), folders: map[string]string{}}
	want := map[string]string{"page.j2": "assets/0/page.j2", "included.j2": "assets/0/included.j2", "$HOME.asc": "assets/1/file.asc", "{{ x }}": "assets/2/file"}
	for _, name := range []string{"page.j2", "included.j2", "$HOME.asc", "{{ x }}"} {
		if got, err := s.asset(filepath.Join(odd, name)); err != nil || got != filepath.Join(s.root, want[name]) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := s.roles(filepath.Join(odd, "roles")); err != nil {
		t.Fatal(err)
	}
	calls := strings.Join(fake.Calls, "\n")
	for _, bound := range []string{odd + "/roles/own on " + s.root + "/roles/own", elsewhere + " on " + s.root + "/roles/linked"} {
		if !strings.Contains(calls, bound) {
			t.Errorf("not bound: %s\n%s", bound, calls)
		}
	}
	if strings.Contains(calls, "roles/not") {
		t.Errorf("a role that no definition can name is bound:\n%s", calls)
	}
}
