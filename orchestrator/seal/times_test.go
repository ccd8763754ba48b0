package seal

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
)

var epoch = time.Unix(1_700_000_000, 0) // day 19675

func TestNothingTellsTheDayOfTheBuild(t *testing.T) {
	tree := host.Tree(t.TempDir())
	old := epoch.Add(-time.Hour)
	for name, text := range map[string]string{"/old/package": "p", "/new/file": "f", "/etc/shadow": "root:*:19676:0:99999:7:::\nold:!:19000::::::\nnever:!:::::::\n"} {
		if err := tree.Write(name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Symlink("nowhere", "/new/link"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old/package", "old"} {
		if err := os.Chtimes(filepath.Join(string(tree), name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time changes nothing
		if err := Clamp(string(tree), epoch); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]time.Time{"": epoch, "new": epoch, "new/file": epoch, "new/link": epoch, "etc/shadow": epoch, "old": old, "old/package": old} {
			info, err := os.Lstat(filepath.Join(string(tree), name))
			if err != nil || !info.ModTime().Equal(want) {
				t.Errorf("/%s has the time %v, want %v, %v", name, info.ModTime(), want, err)
			}
		}
		if got, err := tree.Read("/etc/shadow"); err != nil || string(got) != "root:*:19675:0:99999:7:::\nold:!:19000::::::\nnever:!:::::::\n" {
			t.Errorf("shadow is %q, %v", got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(string(tree), "etc/shadow")); err != nil || info.Mode() != 0o640 {
		t.Errorf("shadow has the mode %v, %v", info.Mode(), err)
	}
}

func TestOnlyWhatChangedIsLookedAt(t *testing.T) {
	tree, changed := t.TempDir(), t.TempDir()
	for _, name := range []string{"old/package", "new/file", "new/other"} {
		for _, root := range []string{tree, changed} {
			if root == changed && filepath.Dir(name) == "old" {
				continue
			}
			if err := host.Tree(root).Write(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Remove(filepath.Join(tree, "new/other")); err != nil { // an overlay has a mark for it
		t.Fatal(err)
	}
	if err := ClampChanged(tree, changed, epoch); err != nil {
		t.Fatal(err)
	}
	for name, clamped := range map[string]bool{"": true, "new": true, "new/file": true, "old": false, "old/package": false} {
		info, err := os.Lstat(filepath.Join(tree, name))
		if err != nil || info.ModTime().Equal(epoch) != clamped {
			t.Errorf("/%s has the time %v, %v", name, info.ModTime(), err)
		}
	}
}

func TestNewestIsOfFilesAlone(t *testing.T) {
	root := t.TempDir() // made now
	for name, at := range map[string]time.Time{"a": epoch.Add(-time.Hour), "b": epoch.Add(-time.Millisecond)} {
		name = filepath.Join(root, name)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if newest, err := Newest(root); err != nil || !newest.Equal(epoch) {
		t.Errorf("%v, %v; want %v, so that no file is newer", newest, err, epoch)
	}
}

// Each change alters one thing of a tree whose digest is independent of its folder.
func TestTreesThatDifferInAnythingDifferInTheirDigest(t *testing.T) {
	grow := func(change func(root string) error) string {
		root := t.TempDir()
		at := func(name string) string { return filepath.Join(root, name) }
		for _, err := range []error{
			os.Mkdir(at("folder"), 0o755), os.WriteFile(at("folder/file"), []byte("text"), 0o644), os.WriteFile(at("other"), []byte("text"), 0o644),
			os.Link(at("other"), at("same")), os.Symlink("target", at("link")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if change != nil {
			if err := change(root); err != nil {
				t.Fatal(err)
			}
		}
		if err := Clamp(root, epoch); err != nil {
			t.Fatal(err)
		}
		sum, err := Digest(root)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	seen := map[string]string{grow(nil): "nothing"}
	if grow(nil) == "" || seen[grow(nil)] == "" {
		t.Fatal("the folder of a tree is in its digest")
	}
	for what, change := range map[string]func(root string) error{
		"content":     func(root string) error { return os.WriteFile(filepath.Join(root, "folder/file"), []byte("tex"), 0o644) },
		"mode":        func(root string) error { return os.Chmod(filepath.Join(root, "folder"), 0o700) },
		"name":        func(root string) error { return os.Rename(filepath.Join(root, "folder"), filepath.Join(root, "fold")) },
		"an old time": func(root string) error { return os.Chtimes(filepath.Join(root, "folder/file"), epoch, epoch.Add(-1)) },
		"a link": func(root string) error {
			return os.Rename(filepath.Join(root, "link"), filepath.Join(root, "folder/link"))
		},
		"a file more": func(root string) error {
			return os.WriteFile(filepath.Join(root, "folder/more"), nil, 0o644)
		},
		"one file that was two names": func(root string) error {
			if err := os.Remove(filepath.Join(root, "same")); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(root, "same"), []byte("text"), 0o644)
		},
	} {
		sum := grow(change)
		if other, known := seen[sum]; known {
			t.Errorf("%s: the digest is that of %s", what, other)
		}
		seen[sum] = what
	}
}
