package publish

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
	} {
		if got, err := ParseReference(s); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

// TestLayoutsInFoldersWithOddNames is pushed to, read and shown as it is named.
func TestLayoutsInFoldersWithOddNames(t *testing.T) {
	r := newRelease(t, 1)
	for _, name := range []string{"job@2", "a:b", "a@" + someDigest, "a b", "[a]", "{{ a }}", "#a", "a:13", "*", "%41", "ä"} {
		dir := filepath.Join(t.TempDir(), name, name)
		ref, err := Layout(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		pushed := mustPush(t, ref, r, PushOptions{})
		again := parse(t, pushed[0].Reference)
		if again.path != dir {
			t.Errorf("%s was pushed to, and %s is told", dir, pushed[0].Reference)
		}
		for _, ref := range []Reference{again, parse(t, ref.String())} {
			pulled, err := pullTo(t, ref, PullOptions{Folder: t.TempDir()})
			if err != nil {
				t.Errorf("%s: %v", ref, err)
				continue
			}
			sameAsDisk(t, pulled.Path, r, 0)
		}
	}
	if _, err := Layout("a\nb", ""); fail.ExitCode(err) != 2 {
		t.Errorf("a path on two lines: %v", err)
	}
}

func TestATagThatIsAPartOfThePathIsTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a:b")
	ref, err := Layout(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	_, err = Access{}.OpenPlace(t.Context(), parse(t, "oci:"+dir))
	if fail.ExitCode(err) != 6 || !strings.Contains(fail.Hint(err), dir+":TAG") {
		t.Errorf("%v; hint %s", err, fail.Hint(err))
	}
}
