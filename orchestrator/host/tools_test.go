package host_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestWhatATreeOfToolsHides(t *testing.T) {
	for path, want := range map[string]bool{"/usr": true, "/usr/local/src/lab": true, "/usrlocal": false, "/home/usr/lab": false, "/": false} {
		if got := host.HiddenByTools(path); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestProgramsOfATreeOfTools(t *testing.T) {
	tree := t.TempDir()
	for path, mode := range map[string]os.FileMode{"usr/sbin/mke2fs": 0o755, "usr/bin/notes": 0o644, "opt/bin/elsewhere": 0o755} {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for tool, want := range map[string]string{"mke2fs": "/usr/sbin/mke2fs", "notes": "", "elsewhere": "", "sh": ""} {
		if got := host.FindIn(tree, tool); got != want {
			t.Errorf("%s: %q", tool, got)
		}
	}
}
