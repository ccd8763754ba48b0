package source

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// The names are what 'apt-get update --print-uris' shows.
func TestListsHaveTheNamesThatAptGivesThem(t *testing.T) {
	for address, want := range map[string]string{
		"http://mirror.example/debian/dists/trixie/InRelease":                "mirror.example_debian_dists_trixie_InRelease",
		"http://h.example:8080/~me/deb_ian=x&y/dists/trixie-a,b+c/InRelease": "h.example:8080_%7eme_deb%5fian%3dx%26y_dists_trixie-a,b+c_InRelease",
		"https://h.example/debian/dists/trixie/InRelease":                    "h.example_debian_dists_trixie_InRelease",
	} {
		if got := listName(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

// treeOf is a tree whose sources name an archive, with those lists of it.
func treeOf(t *testing.T, archive string, lists map[string]string) string {
	t.Helper()
	tree := host.Tree(t.TempDir())
	if err := tree.Write(sourcesFile, []byte("Types: deb\nURIs: "+archive+"\nSuites: trixie trixie-updates\nComponents: main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, content := range lists {
		if err := tree.Write(listsFolder+listName(archive+"/dists/"+name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return string(tree)
}

func TestTheStateOfAnArchive(t *testing.T) {
	served := map[string]string{"trixie/InRelease": "one", "trixie-updates/Release": "two"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := served[strings.TrimPrefix(r.URL.Path, "/de_b/dists/")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(content))
	}))
	defer server.Close()
	state, err := Archive(treeOf(t, server.URL+"/de_b", served))
	if err != nil || len(state) != 2 || state[0].URL != server.URL+"/de_b/dists/trixie/InRelease" || state[1].URL != server.URL+"/de_b/dists/trixie-updates/Release" {
		t.Fatalf("%+v, %v", state, err)
	}
	var log bytes.Buffer
	current := func() (bool, error) { return Current(t.Context(), &host.Local{Log: &log}, state, t.TempDir()) }
	if same, err := current(); !same || err != nil {
		t.Errorf("unchanged: %t, %v\n%s", same, err, &log)
	}
	served["trixie-updates/Release"] = "new"
	if same, err := current(); same || err != nil {
		t.Errorf("changed: %t, %v", same, err)
	}
	delete(served, "trixie/InRelease")
	if same, err := current(); same || err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(fail.Tail(err), "404") {
		t.Errorf("gone: %t, %v", same, err)
	}
	server.Close()
	if same, err := current(); same || err == nil || !strings.Contains(err.Error(), "Connection refused") && !strings.Contains(err.Error(), "Could not connect") {
		t.Errorf("out of reach: %t, %v", same, err)
	}
}

// A tree of such an archive must never be taken for that of another state.
func TestAnArchiveThatListsDoNotTellIsLikeNoOther(t *testing.T) {
	tree := treeOf(t, "http://mirror.example/debian", map[string]string{"trixie/InRelease": "one"})
	first, err := Archive(tree)
	if err != nil || len(first) != 2 {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := Archive(tree)
	if err != nil || first[0] != second[0] || first[1] == second[1] {
		t.Errorf("%+v, %+v, %v", first, second, err)
	}
}

func TestTheDateIsThatOfTheNewestArchive(t *testing.T) {
	tree := host.Tree(t.TempDir())
	if err := tree.Write(sourcesFile, []byte("Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates gone\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if date, err := Date(string(tree)); err != nil || !date.IsZero() {
		t.Errorf("%v, %v from no list", date, err)
	}
	for suite, date := range map[string]string{"trixie": "Sat, 06 Sep 2025 10:12:00 UTC", "trixie-updates": "Tue, 18 Nov 2025 2:17:08 UTC"} {
		content := "-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Debian\nDate: " + date + "\nValid-Until: Tue, 25 Nov 2037 02:17:08 UTC\n"
		if err := tree.Write(listsFolder+listName("http://mirror.example/debian/dists/"+suite+"/InRelease"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := time.Date(2025, 11, 18, 2, 17, 8, 0, time.UTC)
	if date, err := Date(string(tree)); err != nil || !date.Equal(want) {
		t.Errorf("%v, %v; want %v", date, err, want)
	}
}
