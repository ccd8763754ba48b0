package registry

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

var someDigest = "sha256:" + strings.Repeat("ab", 32)

func TestLocalReferences(t *testing.T) {
	for s, want := range map[string]Reference{
		"oci:job@2/images/oci/debian":       {path: "job@2/images/oci/debian"},
		"oci:debian@2":                      {path: "debian@2"},
		"oci:debian@2:13":                   {path: "debian@2", Name: "13"},
		"oci:debian@" + someDigest:          {path: "debian", Name: someDigest},
		"oci:job@2/debian@" + someDigest:    {path: "job@2/debian", Name: someDigest},
		"oci:a b/[c]/{{ d }}/#e/$f/'g'%h:1": {path: "a b/[c]/{{ d }}/#e/$f/'g'%h", Name: "1"},
		"oci:C:/debian":                     {path: "C:/debian"},
		"oci:a:b:13":                        {path: "a:b", Name: "13"},
		"oci:a:b/":                          {path: "a:b/"},
		"oci:a@" + someDigest + "/":         {path: "a@" + someDigest + "/"},
	} {
		want.kind = inLayout
		got, err := ParseReference(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if got.String() != s {
			t.Errorf("%s becomes %s", s, got)
		}
	}
	for s, want := range map[string]string{
		"oci:":                        "no path",
		"oci-archive::13":             "no path",
		"oci:debian:":                 "there is no tag",
		"oci:debian:a b":              "there is no tag",
		"oci:debian@sha256:13":        "is no digest",
		"oci:debian@sha256:" + "zz":   "is no digest",
		"oci:a\nb":                    "control character",
		"oci:a\x1b[2J:13":             "control character",
		"registry.example/debian@2":   "invalid",
		"registry.example/Debian:13":  "invalid",
		"registry.example/a b":        "holds a character",
		"\u0080/0":                    "holds a character",
		"https://registry.example/a":  "no scheme",
		"user@registry.example/a":     "no user",
		"registry.example/a@sha256:1": "invalid",
		"./debian.qcow2":              "a path is no reference",
		"../debian/a:13":              "a path is no reference",
		"/srv/debian.qcow2":           "a path is no reference",
	} {
		if got, err := ParseReference(s); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func TestATagThatIsAPartOfThePathIsTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a:b")
	ref, err := Layout(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, Access{}, ref, "disk"); err != nil {
		t.Fatal(err)
	}
	_, err = Access{}.OpenPlace(t.Context(), parse(t, "oci:"+dir))
	if fail.ExitCode(err) != 6 || !strings.Contains(fail.Hint(err), dir+":TAG") {
		t.Errorf("%v; hint %s", err, fail.Hint(err))
	}
}

func TestParseReference(t *testing.T) {
	for s, want := range map[string]string{
		"registry.example/debian":         "registry.example/debian",
		"localhost:5000/a/b:13":           "localhost:5000/a/b:13",
		"oci:dir":                         "oci:dir",
		"oci:./a/b:13":                    "oci:./a/b:13",
		"oci-archive:/x/debian.tar:13":    "oci-archive:/x/debian.tar:13",
		"oci:dir@sha256:" + zeros(64):     "oci:dir@sha256:" + zeros(64),
		"h.example/r@sha256:" + zeros(64): "h.example/r@sha256:" + zeros(64),
		"[::1]:5000/debian:13-20260102.1": "[::1]:5000/debian:13-20260102.1",
	} {
		ref, err := ParseReference(s)
		if err != nil || ref.String() != want {
			t.Errorf("%s: %s, %v", s, ref, err)
		}
	}
	for _, s := range []string{"", "debian", "oci:", "https://registry.example/debian", "registry.example/Debian", "registry.example/debian:a b", "user:hunter2@registry.example/debian"} {
		_, err := ParseReference(s)
		if fail.ExitCode(err) != 2 || fail.Hint(err) == "" {
			t.Errorf("%q: %v", s, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func zeros(n int) string { return strings.Repeat("0", n) }

// TestLayoutsInFoldersWithOddNames is pushed to, read and shown as it is named.
func TestLayoutsInFoldersWithOddNames(t *testing.T) {
	for _, name := range []string{"job@2", "a:b", "a@" + someDigest, "a b", "[a]", "{{ a }}", "#a", "a:13", "*", "%41", "ä"} {
		dir := filepath.Join(t.TempDir(), name, name)
		ref, err := Layout(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := send(t, Access{}, ref, "disk"); err != nil {
			t.Fatal(err)
		}
		again := parse(t, ref.With("13-20260102.1").String()) // as a push tells it
		if again.path != dir {
			t.Errorf("%s was pushed to, and %s is told", dir, again)
		}
		for _, ref := range []Reference{again, parse(t, ref.String())} {
			src, err := Access{}.OpenPlace(t.Context(), ref)
			if err != nil {
				t.Errorf("%s: %v", ref, err)
				continue
			}
			if content, err := FetchAll(t.Context(), src, blob("disk"), 100); err != nil || string(content) != "disk" {
				t.Errorf("%s: %q, %v", ref, content, err)
			}
		}
	}
	if _, err := Layout("a\nb", ""); fail.ExitCode(err) != 2 {
		t.Errorf("a path on two lines: %v", err)
	}
}
