package chroot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// A tree knows the machine's name while it is entered. Nothing of that is left, but what a layer
// has written is.
func TestTheMachineKnowsItself(t *testing.T) {
	const localhost, other = "127.0.0.1\tlocalhost\n\n::1\tlocalhost\n", "10.0.0.5\tdb\n"
	const own = "127.0.1.1\tweb.example.org web"
	edit := func(old, new string) func(string) string {
		return func(text string) string { return strings.Replace(text, old, new, 1) }
	}
	for name, tc := range map[string]struct {
		before, entered string
		layer           func(string) string // what it makes of the file
		after           string
	}{
		"untouched":      {localhost, "127.0.0.1\tlocalhost\n" + own + ownMark + "\n\n::1\tlocalhost\n", nil, localhost},
		"another line":   {localhost, "", func(text string) string { return text + other }, localhost + other},
		"all of it":      {localhost, "", func(string) string { return "127.0.0.1\tlocalhost\n" + own + "\n" + other }, "127.0.0.1\tlocalhost\n" + own + "\n" + other},
		"its own line":   {localhost, "", edit(own+ownMark, own), "127.0.0.1\tlocalhost\n" + own + "\n\n::1\tlocalhost\n"},
		"with an alias":  {localhost, "", edit("web\t", "web shop\t"), "127.0.0.1\tlocalhost\n" + own + " shop\n\n::1\tlocalhost\n"},
		"known":          {"192.0.2.1 shop web.example.org\n", "192.0.2.1 shop web.example.org\n", nil, "192.0.2.1 shop web.example.org\n"},
		"a comment":      {"# not web.example.org\n", own + ownMark + "\n# not web.example.org\n", nil, "# not web.example.org\n"},
		"without an end": {"127.0.0.1 localhost", own + ownMark + "\n127.0.0.1 localhost", nil, "127.0.0.1 localhost"},
	} {
		root := t.TempDir()
		path := filepath.Join(root, hostsFile)
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		read := func() string {
			t.Helper()
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
		write(tc.before)
		long := time.Unix(1_000_000_000, 0)
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
		release, err := knowItself(host.Tree(root), "web.example.org")
		if err != nil {
			t.Fatal(err)
		}
		if got := read(); tc.entered != "" && got != tc.entered {
			t.Errorf("%s: while it is entered: %q", name, got)
		}
		if tc.layer != nil {
			write(tc.layer(read()))
		}
		if err := release(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if got := read(); got != tc.after || err != nil || (tc.layer == nil) != info.ModTime().Equal(long) {
			t.Errorf("%s: %q, %v, %v", name, got, info.ModTime(), err)
		}
	}
	if release, err := knowItself(host.Tree(t.TempDir()), "web"); err != nil || release() != nil {
		t.Errorf("without the file: %v", err)
	}
}
