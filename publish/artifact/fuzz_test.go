package artifact

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// FuzzCheckFileName makes files of all names that are let through: each is a new file
// in the folder itself, and in a list of SHA256SUMS it is found.
func FuzzCheckFileName(f *testing.F) {
	for _, s := range []string{"debian.qcow2", "..", ".", "", "a/b", `a\b`, "/etc/passwd", "-o", "a\x00b", "a\nb", "\u202ea", " a", "a ", "…", strings.Repeat("x", 256), "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if files.CheckFileName(name) != nil {
			return
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "."+name+".0123456789abcdef.part"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "."+name+".0123456789abcdef.part"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != name {
			t.Errorf("%q makes %v, %v", name, entries, err)
		}
		want := digest.FromString(name)
		if got := sumOf([]byte(want.Encoded()+"  "+name+"\n"), name); got != want && strings.TrimSpace(name) == name {
			t.Errorf("%q is not found in its list: %q", name, got)
		}
	})
}
