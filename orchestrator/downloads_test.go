package orchestrator

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func TestWhatOneBuildDownloadsTheNextOneHas(t *testing.T) {
	w := sharing(t)
	w.host = &hosttest.Fake{}
	const list = "mirror.example_debian_dists_trixie_InRelease"
	inRelease := digestOf("InRelease")
	record := []aptmethod.Fetched{
		{Name: list, URI: "http://mirror.example/debian/dists/trixie/InRelease", SHA256: inRelease, List: true, From: aptmethod.FromArchive},
		{Name: "mirror.example_debian_dists_trixie_Packages.xz", SHA256: digestOf("Packages"), List: true, From: aptmethod.FromArchive},
		{Name: "a_1_amd64.deb", SHA256: digestOf("a"), From: aptmethod.FromArchive},
		{Name: "b_1_amd64.deb", SHA256: digestOf("b"), From: aptmethod.FromCache},
		{Name: "c_1_amd64.deb", From: aptmethod.Missing},
	}
	var taken []string
	w.harvest(record, func(file string) error { taken = append(taken, file); return nil }, sourceScope)
	if len(taken) != 3 || len(w.fetched) != 4 {
		t.Errorf("taken %v, fetched %+v", taken, w.fetched)
	}
	w.offline = true
	for scope, want := range map[string]string{sourceScope: inRelease, w.layerScope("web"): inRelease} {
		s, err := w.fetchSettings(scope)
		if err != nil || !s.Offline || s.Lists[list] != want || len(s.Lists) != 1 {
			t.Errorf("%s: %+v, %v", scope, s, err)
		}
	}
}

// A layer may have changed what it downloaded: the lists of others are not its to give.
func TestALayersListsAreItsOwn(t *testing.T) {
	w := sharing(t)
	w.host, w.offline = &hosttest.Fake{}, true
	theirs := func(name, digest string) []aptmethod.Fetched {
		return []aptmethod.Fetched{{Name: name, SHA256: digest, List: true, From: aptmethod.FromArchive}}
	}
	take := func(string) error { return nil }
	w.harvest(theirs("debian_InRelease", "good"), take, sourceScope)
	w.harvest(append(theirs("debian_InRelease", "bad"), theirs("extra_InRelease", "extra")...), take, w.layerScope("web"))
	for layer, want := range map[string]string{"web": "extra", "other": ""} {
		s, err := w.fetchSettings(w.layerScope(layer))
		if err != nil || s.Lists["debian_InRelease"] != "good" || s.Lists["extra_InRelease"] != want {
			t.Errorf("%s: %+v, %v", layer, s, err)
		}
	}
	other := *w
	other.project = "/another/folder/roles"
	if other.layerScope("web") == w.layerScope("web") {
		t.Error("layers of one name in two folders share lists")
	}
}

func TestWithoutNetworkAnErrorNamesWhatIsMissing(t *testing.T) {
	w := sharing(t)
	cause := &fail.Error{Kind: fail.Build, Op: "mmdebstrap", Tail: "E: Failed to fetch", Err: errors.New("exit status 25")}
	record := []aptmethod.Fetched{
		{Name: "hello_1%3a2.10-3_amd64.deb", From: aptmethod.Missing}, {Name: "hello_1%3a2.10-3_amd64.deb", From: aptmethod.Missing},
		{Name: "sl_5_amd64.deb", From: aptmethod.FromCache}, {Name: "x_InRelease", URI: "http://x/InRelease", List: true, From: aptmethod.Missing},
		{Name: "x_Release", URI: "http://x/Release", List: true, From: aptmethod.Missing},
	}
	if err := w.lacking(cause, sourceTitle, record); !errors.Is(err, cause) {
		t.Error(err)
	}
	w.offline = true
	if err := w.lacking(nil, sourceTitle, record); err != nil {
		t.Error(err)
	}
	err := w.missed(w.lacking(cause, sourceTitle, record))
	if err == nil || err.Error() != "--offline: the store lacks hello 1:2.10-3, http://x/InRelease" || fail.Hint(err) != hintOnline || fail.ExitCode(err) != 4 || fail.Tail(err) == "" {
		t.Errorf("%v, hint %q", err, fail.Hint(err))
	}
	for i := range 30 {
		record = append(record, aptmethod.Fetched{Name: "p" + strings.Repeat("x", i), From: aptmethod.Missing})
	}
	if names := missingNames(record); len(names) != mostMissing+1 || names[mostMissing] != "and 12 more" {
		t.Errorf("%d names: %v", len(names), names)
	}
}

// A stage that fails keeps what it downloaded, too; nothing else is left of it.
func TestAFailedStageKeepsItsDownloads(t *testing.T) {
	if err := canFetch(); err != nil {
		t.Fatal(err) // run the tests with CGO_ENABLED=0
	}
	w := sharing(t)
	fake := &hosttest.Fake{}
	w.host = fake
	failure := errors.New("no")
	err := w.fetch(t.Context(), sourceTitle, sourceScope, func(f *fetching) error {
		if !slices.Contains(f.env(), "APT_CONFIG="+f.config()) {
			t.Error(f.env())
		}
		mount := fake.Calls[len(fake.Calls)-1]
		incoming := strings.Fields(strings.TrimPrefix(mount, "mount "))[0]
		file := digestOf("x") + "-x.deb" // which it is not
		return errors.Join(failure, os.WriteFile(filepath.Join(incoming, file), nil, 0o600))
	})
	if !errors.Is(err, failure) {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(w.store.Folder(), "work")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if n := len(fake.Calls); n != 4 || !strings.HasPrefix(fake.Calls[n-1], "unmount") {
		t.Errorf("%q", fake.Calls)
	}
}
