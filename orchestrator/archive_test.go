package orchestrator

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// mirror is a host whose apt-helper gets every file with that content.
type mirror struct {
	*hosttest.Fake
	content string
	err     error
}

func (m mirror) Run(ctx context.Context, c host.Command) error {
	if filepath.Base(c.Path) != "apt-helper" {
		return m.Fake.Run(ctx, c)
	}
	for i := slices.Index(c.Args, "download-file") + 2; i < len(c.Args) && m.err == nil; i += 2 {
		if err := os.WriteFile(c.Args[i], []byte(m.content), 0o600); err != nil {
			return err
		}
	}
	return errors.Join(m.Fake.Run(ctx, c), m.err)
}

// sharing is a workshop with a store of its own.
func sharing(t *testing.T) *workshop {
	t.Helper()
	folder := t.TempDir()
	layers, err := store.Open(filepath.Join(folder, "store"))
	if err != nil {
		t.Fatal(err)
	}
	return &workshop{
		plan: plan(t, "debian"), parts: parts{Source: "source", Layers: [][]entryPart{{{Digest: "debian", Exact: "debian"}}}}, store: layers, log: io.Discard,
		host: mirror{Fake: &hosttest.Fake{}, content: "abc"}, stage: filepath.Join(folder, "stage"), work: filepath.Join(folder, "work"),
	}
}

func silent(ctx context.Context) *stages { return &stages{ctx: ctx, tell: func(Event) {}} }

// abc is a state of an archive: the digest of those letters (FIPS 180-2, B.1).
var abc = []source.Release{{URL: "http://mirror.example/debian/dists/trixie/InRelease", SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}

// putSource stores a tree as the source's in that state.
func putSource(t *testing.T, w *workshop, archive []source.Release) *store.Layer {
	t.Helper()
	needRoot(t) // for files of all users
	made, err := grow(silent(t.Context()), w, recipe{
		title: sourceTitle, work: func(context.Context, string) error { return nil },
		finished: func(string) (store.Key, any, error) { return w.parts.sourceKey(archive), nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return made.top()
}

// A build is found as it was made, whatever state of the archive another one has begun with since.
func TestEachBuildRemembersItsArchive(t *testing.T) {
	def := []source.Release{{URL: abc[0].URL, SHA256: digestOf("def")}}
	site := sharing(t)
	site.plan.Definition.Name = "site"
	putSource(t, site, abc)
	if err := site.rememberArchive(abc); err != nil {
		t.Fatal(err)
	}
	debian := *site
	debian.plan.Definition.Name = "debian"
	putSource(t, &debian, def)
	if err := debian.rememberArchive(def); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(site.release.Close(), debian.release.Close()) })
	other := *site
	other.plan.Definition.Name = "other"
	for w, want := range map[*workshop][]source.Release{site: abc, &debian: def, &other: def} {
		w.offline = true
		if key, err := w.knownSource(t.Context()); err != nil || key != w.parts.sourceKey(want) {
			t.Errorf("%s: %s, %v", w.plan.Definition.Name, key, err)
		}
	}
	if err := site.rememberArchive([]source.Release{{URL: abc[0].URL, SHA256: digestOf("gone")}}); err != nil {
		t.Fatal(err)
	}
	if err := debian.rememberArchive(def); err != nil {
		t.Fatal(err)
	}
	if key, err := site.knownSource(t.Context()); err != nil || key != site.parts.sourceKey(def) {
		t.Errorf("what is no longer stored: %s, %v", key, err)
	}
}

func TestWhichSourceABuildStartsFrom(t *testing.T) {
	missing := &fail.Error{Kind: fail.Host, Op: "apt-helper", Err: exec.ErrNotFound}
	refused := &fail.Error{Kind: fail.Build, Op: "apt-helper", Tail: "E: Failed to fetch http://mirror.example/: no route", Err: errors.New("exit status 100")}
	for name, tc := range map[string]struct {
		record, stored, offline bool
		mirror                  mirror
		known                   bool
		problem, hint           string
	}{
		"never made":                      {},
		"as it was":                       {record: true, mirror: mirror{content: "abc"}, known: true},
		"changed":                         {record: true, mirror: mirror{content: "abd"}},
		"no apt-helper":                   {record: true, mirror: mirror{err: missing}},
		"out of reach":                    {record: true, mirror: mirror{err: refused}, problem: "no route", hint: "--offline"},
		"offline":                         {record: true, stored: true, offline: true, mirror: mirror{err: refused}, known: true},
		"offline, never made":             {offline: true},
		"offline, removed from the store": {record: true, offline: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := sharing(t)
			tc.mirror.Fake = &hosttest.Fake{}
			if tc.record {
				if err := w.rememberArchive(abc); err != nil {
					t.Fatal(err)
				}
			}
			if tc.stored {
				putSource(t, w, abc)
				t.Cleanup(func() { _ = w.release.Close() })
			}
			w.host, w.offline = tc.mirror, tc.offline
			key, unchanged, err := w.begin(silent(t.Context()))
			if unchanged || (key == w.parts.sourceKey(abc)) != tc.known || key != "" && !tc.known {
				t.Errorf("key %q, unchanged %t", key, unchanged)
			}
			if tc.problem == "" && err != nil {
				t.Error(err)
			}
			if tc.problem != "" && (fail.ExitCode(err) != 4 || !strings.Contains(err.Error()+fail.Tail(err), tc.problem) || !strings.Contains(fail.Hint(err), tc.hint)) {
				t.Errorf("error %v, hint %s", err, fail.Hint(err))
			}
			if calls := tc.mirror.Calls; tc.offline && len(calls) > 0 {
				t.Errorf("offline, it calls %v", calls)
			}
		})
	}
}

func TestAnUnchangedBuildIsKnownByItsOutcome(t *testing.T) {
	w := sharing(t)
	if err := w.rememberArchive(abc); err != nil {
		t.Fatal(err)
	}
	outcome, err := w.outcome(w.parts.sourceKey(abc))
	if err != nil {
		t.Fatal(err)
	}
	w.before = outcome
	if _, unchanged, err := w.begin(silent(t.Context())); !unchanged || err != nil {
		t.Errorf("unchanged %t, %v", unchanged, err)
	}
	w.host = mirror{Fake: &hosttest.Fake{}, content: "abd"}
	if _, unchanged, err := w.begin(silent(t.Context())); unchanged || err != nil {
		t.Errorf("another archive: unchanged %t, %v", unchanged, err)
	}
	// build.json is published: nobody else can find out from it what was built.
	other := sharing(t)
	if elsewhere, err := other.outcome(other.parts.sourceKey(abc)); err != nil || elsewhere == outcome {
		t.Errorf("another store has the same outcome, %v", err)
	}
}

func TestMakingAnewReplacesWhatTheStoreHas(t *testing.T) {
	w := sharing(t)
	t.Cleanup(func() { _ = w.release.Close() })
	first := putSource(t, w, abc)
	if again := putSource(t, w, abc); !again.Made().Equal(first.Made()) {
		t.Error("what the store has was made again")
	}
	if err := w.release.Close(); err != nil {
		t.Fatal(err)
	}
	w.fresh, w.since = Everything, time.Now()
	second := putSource(t, w, abc)
	if second.Made().Equal(first.Made()) {
		t.Error("what the store had came back")
	}
	if third := putSource(t, w, abc); !third.Made().Equal(second.Made()) {
		t.Error("what is fresh was made again, for another build of this run")
	}
}

func TestATarballsKeyIsKnownBefore(t *testing.T) {
	w := sharing(t)
	w.plan.Definition.Source = definition.Source{Tarball: &definition.Tarball{Path: "root.tar"}}
	key, err := w.knownSource(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree := host.Tree(t.TempDir()) // with sources of its own
	if err := tree.Write("/etc/apt/sources.list.d/debian.sources", []byte("Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if made, _, err := w.source(key).finished(string(tree)); err != nil || made != key {
		t.Errorf("key %s, known as %s, %v", made, key, err)
	}
}

func TestALayerWhoseFilesChangeMeanwhileIsRefused(t *testing.T) {
	w := sharing(t)
	w.entryPart = func(context.Context, int, int) (entryPart, error) {
		return entryPart{Digest: "of the whole project, too", Exact: "debian"}, nil
	}
	if err := w.settled(t.Context(), 0, 0); err != nil {
		t.Error(err)
	}
	w.entryPart = func(context.Context, int, int) (entryPart, error) {
		return entryPart{Digest: "debian", Exact: "other"}, nil
	}
	if err := w.settled(t.Context(), 0, 0); fail.ExitCode(err) != 4 || fail.Hint(err) == "" {
		t.Errorf("error %v", err)
	}
}

func TestAFailureWithoutNetworkSaysSo(t *testing.T) {
	w := sharing(t)
	cause := &fail.Error{Kind: fail.Build, Op: "apt", Tail: "E: no route", Err: errors.New("failed")}
	if err := w.missed(cause); !errors.Is(err, cause) || fail.Hint(err) != "" {
		t.Errorf("with network: %v", err)
	}
	w.offline = true
	if err := w.missed(nil); err != nil {
		t.Errorf("nothing failed: %v", err)
	}
	if err := w.missed(cause); !errors.Is(err, cause) || !strings.Contains(fail.Hint(err), "--offline") || fail.Tail(err) == "" || fail.ExitCode(err) != 4 {
		t.Errorf("without: %v", err)
	}
}

func TestARefreshIsForBuildsThatHaveTheLayer(t *testing.T) {
	for fresh, want := range map[string]string{"debian": "debian", "webserver": "", Everything: Everything, "": ""} {
		if got := (How{Fresh: fresh, Offline: true}).of(plan(t, "debian")); got.Fresh != want || !got.Offline {
			t.Errorf("%q: %+v", fresh, got)
		}
	}
}
