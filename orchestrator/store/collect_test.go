package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

func verify(t *testing.T, s *store.Store) []store.Info {
	t.Helper()
	infos, err := s.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

// names is the builds of all layers, sorted.
func names(t *testing.T, s *store.Store) string {
	t.Helper()
	infos, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, info := range infos {
		all = append(all, info.About.Build)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// family makes a ← b ← c and a ← d, of a megabyte each, last used in the order d, a, c, b.
func family(t *testing.T) *store.Store {
	t.Helper()
	s := open(t, t.TempDir())
	const megabyte = "head -c 1000000 /dev/zero > "
	a := layer(t, s, "a", megabyte+"a")
	b := layer(t, s, "b", megabyte+"b", a)
	c := layer(t, s, "c", megabyte+"c", a, b)
	d := layer(t, s, "d", megabyte+"d", a)
	for i, l := range []*store.Layer{d, a, c, b} {
		when := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(s.Folder(), "layers", string(l.Key()), "used"), when, when); err != nil {
			t.Fatal(err)
		}
		release(t, l.Release)
	}
	return s
}

func TestEvictionTakesWhatWasNotUsedForLongestAndNothingFromBelowOthers(t *testing.T) {
	needsRoot(t)
	const megabyte = 1_100_000 // and its folder
	for limit, want := range map[int64]string{
		0: "a b c d", 4 * megabyte: "a b c d", 3 * megabyte: "a b c", 2 * megabyte: "a b", megabyte: "a", 1: "",
	} {
		s := family(t)
		freed, removed, err := s.Collect(limit)
		if got := names(t, s); err != nil || got != want {
			t.Errorf("limit %d: left %q, want %q: %v", limit, got, want, err)
		}
		if gone := 4 - len(strings.Fields(want)); len(removed) != gone || freed < int64(gone)*1_000_000 || freed > int64(gone)*megabyte {
			t.Errorf("limit %d: freed %d bytes of %d layers, want %d", limit, freed, len(removed), gone)
		}
		empty(t, s)
	}
}

func TestGetIsUse(t *testing.T) {
	needsRoot(t)
	s := family(t)
	release(t, get(t, s, "d", true).Release)
	if _, _, err := s.Collect(3_300_000); err != nil || names(t, s) != "a b d" {
		t.Errorf("left %q: %v", names(t, s), err)
	}
}

func TestNothingInUseIsRemoved(t *testing.T) {
	needsRoot(t)
	for name, use := range map[string]func(t *testing.T, s *store.Store) func() error{
		"gotten": func(t *testing.T, s *store.Store) func() error { return get(t, s, "b", true).Release },
		"built on": func(t *testing.T, s *store.Store) func() error {
			a, b := get(t, s, "a", true), get(t, s, "b", true)
			w := begin(t, s, a, b)
			release(t, a.Release)
			release(t, b.Release)
			return w.Discard
		},
		"mounted": func(t *testing.T, s *store.Store) func() error {
			a, b := get(t, s, "a", true), get(t, s, "b", true)
			unmount, err := s.Mount(&host.Local{}, []*store.Layer{a, b}, filepath.Join(t.TempDir(), "at"))
			if err != nil {
				t.Fatal(err)
			}
			release(t, a.Release)
			release(t, b.Release)
			return unmount
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := family(t)
			end := use(t, s)
			for _, key := range []store.Key{key("a"), key("b")} {
				err := s.Remove(key)
				if fail.ExitCode(err) != fail.Host.ExitCode() || !strings.Contains(err.Error(), "in use") || fail.Hint(err) == "" {
					t.Errorf("error %v", err)
				}
			}
			if err := s.Remove(key("d"), key("b")); err == nil || names(t, s) != "a b c d" {
				t.Errorf("left %q: %v", names(t, s), err)
			}
			if _, _, err := s.Collect(1); err != nil || names(t, s) != "a b" {
				t.Errorf("left %q: %v", names(t, s), err)
			}
			infos, err := s.List()
			if err != nil || !slices.ContainsFunc(infos, func(i store.Info) bool { return i.InUse }) {
				t.Errorf("nothing is in use: %v %v", infos, err)
			}
			release(t, end)
			if _, _, err := s.Collect(1); err != nil || names(t, s) != "" {
				t.Errorf("left %q: %v", names(t, s), err)
			}
		})
	}
}

func TestRemoveTakesWhatIsBuiltOnIt(t *testing.T) {
	needsRoot(t)
	s := family(t)
	err := s.Remove(key("d"), key("never made"))
	if fail.ExitCode(err) != fail.Usage.ExitCode() || names(t, s) != "a b c d" {
		t.Errorf("left %q: %v", names(t, s), err)
	}
	for _, step := range []struct {
		remove []store.Key
		left   string
	}{{[]store.Key{key("b"), key("c"), key("b")}, "a d"}, {[]store.Key{key("a")}, ""}} {
		if err := s.Remove(step.remove...); err != nil || names(t, s) != step.left {
			t.Errorf("left %q, want %q: %v", names(t, s), step.left, err)
		}
	}
	empty(t, s)
}

func TestFindTakesTheStartOfAKey(t *testing.T) {
	needsRoot(t)
	s := family(t)
	a := string(key("a"))
	shell(t, s.Folder(), "mkdir layers/"+a[:20]+strings.Repeat("0", 44))
	for prefix, problem := range map[string]string{
		a: "", a[:21]: "", strings.ToUpper(a[:21]): "", a[:8]: "2 layers", a[:7]: "no key", "../../..": "no key", "ffffffff": "no layer",
	} {
		key, err := s.Find(prefix)
		if problem == "" && (err != nil || string(key) != a) {
			t.Errorf("%s: %s, %v", prefix, key, err)
		}
		if problem != "" && (fail.ExitCode(err) != fail.Usage.ExitCode() || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%s: error %v, want %q", prefix, err, problem)
		}
	}
}

// damages is what can happen to layer b, and whether that shows without digests.
var damages = map[string]struct {
	script string // in its folder
	quick  bool
}{
	"a file is truncated":      {"truncate -s 10 tree/b", true},
	"a file is gone":           {"rm tree/b", true},
	"a file is new":            {"touch -r tree/b tree/c; touch -r inventory.gz tree", true},
	"a mode":                   {"chmod 600 tree/b", true},
	"an owner":                 {"chown 5 tree/b", true},
	"a target":                 {"ln -sfn other tree/link; touch -h -d @5 tree/link; touch -d @5 tree", true},
	"a whiteout is gone":       {"rm tree/whited; touch -d @5 tree", true},
	"no record":                {"rm layer.json", true},
	"an empty record":          {"truncate -s 0 layer.json", true},
	"an empty inventory":       {"truncate -s 0 inventory.gz", true},
	"half an inventory":        {"truncate -s 100 inventory.gz", true},
	"another inventory":        {"echo | gzip > inventory.gz", true},
	"no tree":                  {"rm -r tree", true},
	"no lock and no record":    {"rm lock layer.json", true},
	"content of the same size": {"printf y | dd of=tree/b bs=1 seek=99 conv=notrunc status=none; touch -d @5 tree/b", false},
}

func damaged(t *testing.T, script string) *store.Store {
	t.Helper()
	s := open(t, t.TempDir())
	a := layer(t, s, "a", "echo x > whited")
	b := layer(t, s, "b", "seq 1000 > b; ln -s target link; rm whited; touch -h -d @5 b link .", a)
	c := layer(t, s, "c", "echo c > c", a, b)
	for _, l := range []*store.Layer{a, b, c} {
		release(t, l.Release)
	}
	shell(t, filepath.Join(s.Folder(), "layers", string(key("b"))), script)
	return s
}

func TestADamagedLayerIsDroppedAndMadeAgain(t *testing.T) {
	needsRoot(t)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s := damaged(t, damage.script)
			if !damage.quick {
				if err := s.Remove(key("b")); err != nil { // as Verify's caller does
					t.Fatal(err)
				}
			}
			var notes []string
			s.Note = func(text string) { notes = append(notes, text) }
			get(t, s, "b", false)
			if damage.quick && (len(notes) != 1 || !strings.Contains(notes[0], "removed")) {
				t.Errorf("told %q", notes)
			}
			a := get(t, s, "a", true)
			layer(t, s, "b", "echo made again > b", a)
			// What stood on the layer before stands on nothing.
			get(t, s, "c", false)
			get(t, s, "b", true)
			empty(t, s)
		})
	}
}

func TestCollectRemovesDamagedLayersAndWhatStandsOnThem(t *testing.T) {
	needsRoot(t)
	for name, damage := range damages {
		if !damage.quick {
			continue // it shows in digests alone: TestVerifyFindsAllDamage
		}
		t.Run(name, func(t *testing.T) {
			s := damaged(t, damage.script)
			_, removed, err := s.Collect(0)
			if err != nil || len(removed) != 2 || names(t, s) != "a" {
				t.Errorf("removed %v, left %q: %v", removed, names(t, s), err)
			}
			empty(t, s)
		})
	}
}

func TestVerifyFindsAllDamage(t *testing.T) {
	needsRoot(t)
	all := damages
	all["an attribute"] = struct {
		script string
		quick  bool
	}{"setcap cap_chown+ep tree/b", false}
	for name, damage := range all {
		t.Run(name, func(t *testing.T) {
			s := damaged(t, damage.script)
			for _, info := range verify(t, s) {
				if (info.Problem != "") != (info.Key == key("b")) && info.Key != key("c") {
					t.Errorf("layer %s: %q", info.About.Build, info.Problem)
				}
			}
		})
	}
}

// TestADamagedLayerInUseIsNotMixedUp keeps a layer in use while it turns out to be
// damaged: it can be neither used, nor removed, nor made again now.
func TestADamagedLayerInUseIsNotMixedUp(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	a := layer(t, s, "a", "echo x > file")
	shell(t, s.Folder(), "echo more | tee layers/*/tree/file")
	get(t, s, "a", false)
	w := begin(t, s)
	if _, err := w.Commit(t.Context(), key("a"), store.About{}); fail.ExitCode(err) != fail.Host.ExitCode() || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v", err)
	}
	release(t, w.Discard)
	release(t, a.Release)
	layer(t, s, "a", "echo z > file")
	get(t, s, "a", true)
}

func TestFullStore(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "size=4m,mode=700")
	s := open(t, filepath.Join(dir, "store"))
	base := layer(t, s, "base", "echo x > file")
	w := begin(t, s, base)
	if _, err := runShell(w.Root(), "cat /dev/zero > zeros"); err == nil || !strings.Contains(err.Error(), "No space left") {
		t.Fatalf("the store is not full: %v", err)
	}
	if _, err := w.Commit(t.Context(), key("top"), store.About{}); !isFull(err) {
		t.Errorf("%v, hint %q", err, fail.Hint(err))
	}
	release(t, w.Discard)
	get(t, s, "top", false)
	layer(t, s, "top", "echo y > file", get(t, s, "base", true))
	get(t, s, "top", true)
	empty(t, s)
}

// isFull says whether an error tells what to do about a full store.
func isFull(err error) bool {
	return fail.ExitCode(err) == fail.Host.ExitCode() && strings.Contains(fail.Hint(err), "vmctl cache gc")
}

// TestStoreWithoutInodes is TestFullStore for all that makes folders.
func TestStoreWithoutInodes(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "nr_inodes=120,mode=700")
	s := open(t, filepath.Join(dir, "store"))
	base := layer(t, s, "base", "echo x > file")
	filler := filepath.Join(dir, "filler")
	for i := 0; os.MkdirAll(filepath.Join(filler, fmt.Sprint(i)), 0o700) == nil; i++ {
	}
	s = open(t, s.Folder())
	if _, err := s.Begin(t.Context(), &host.Local{}, []*store.Layer{base}, filepath.Join(t.TempDir(), "at")); !isFull(err) {
		t.Errorf("begin: %v, hint %q", err, fail.Hint(err))
	}
	empty(t, s)
	if _, err := store.Open(filepath.Join(dir, "a", "b", "c", "d", "e", "store")); !isFull(err) {
		t.Errorf("open: %v, hint %q", err, fail.Hint(err))
	}
	for free := range 30 { // wherever a layer is when nothing is left
		if err := os.Remove(filepath.Join(filler, fmt.Sprint(free))); err != nil {
			t.Fatal(err)
		}
		s = open(t, s.Folder())
		w, err := s.Begin(t.Context(), &host.Local{}, []*store.Layer{base}, filepath.Join(t.TempDir(), "at"))
		if err == nil {
			var l *store.Layer
			if l, err = w.Commit(t.Context(), key("top"), store.About{}); err == nil {
				release(t, l.Release)
			}
			release(t, w.Discard)
		}
		if err != nil && !isFull(err) || s.Mode() == store.Copy {
			t.Errorf("%d inodes: mode %q, %v, hint %q", free, s.Mode(), err, fail.Hint(err))
		}
		empty(t, s)
	}
	get(t, s, "top", true)
}

// TestFullStoreOfCopies is TestFullStore for what cp says.
func TestFullStoreOfCopies(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "size=4m,mode=700")
	shell(t, dir, "mkdir lower upper work at")
	mount(t, "overlay", filepath.Join(dir, "at"), fmt.Sprintf("userxattr,lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
	s := open(t, filepath.Join(dir, "at", "store"))
	base := layer(t, s, "base", "head -c 3000000 /dev/zero > zeros")
	_, err := s.Begin(t.Context(), &host.Local{}, []*store.Layer{base}, filepath.Join(t.TempDir(), "at"))
	if !isFull(err) {
		t.Errorf("%v, hint %q", err, fail.Hint(err))
	}
	empty(t, s)
}

func TestAStoreThatCannotBeUsedIsRefused(t *testing.T) {
	needsRoot(t)
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, dir string)
		problem string
	}{
		"somebody else's":       {func(t *testing.T, dir string) { shell(t, dir, "mkdir store; chown 54321 store") }, "belongs to somebody else"},
		"everybody's":           {func(t *testing.T, dir string) { shell(t, dir, "mkdir store; chmod 777 store") }, "written by everybody"},
		"a file":                {func(t *testing.T, dir string) { shell(t, dir, "touch store") }, "is no folder"},
		"layers are elsewhere":  {func(t *testing.T, dir string) { shell(t, dir, "mkdir store; ln -s / store/layers") }, "not a directory"},
		"layers of others":      {func(t *testing.T, dir string) { shell(t, dir, "mkdir -p store/layers; chown 54321 store/layers") }, "belongs to somebody else"},
		"read-only and there":   {readOnly("mkdir -p store/layers store/work"), "read-only"},
		"read-only and missing": {readOnly("true"), "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tc.prepare(t, dir)
			_, err := store.Open(filepath.Join(dir, "store"))
			if fail.ExitCode(err) != fail.Host.ExitCode() || !strings.Contains(err.Error(), tc.problem) || fail.Hint(err) == "" {
				t.Errorf("error %v, hint %q", err, fail.Hint(err))
			}
		})
	}
}

// Layers of an ordinary user hold files of that user's subordinate ids, which are no
// layers of root's.
func TestRootLeavesTheLayersOfWhoCalledSudo(t *testing.T) {
	needsRoot(t)
	t.Setenv("SUDO_UID", "54321")
	t.Setenv("SUDO_GID", "54321")
	dir := t.TempDir()
	shell(t, dir, "mkdir -p store/layers store/work; chown -R 54321:54321 store")
	_, err := store.Open(filepath.Join(dir, "store"))
	if fail.ExitCode(err) != fail.Host.ExitCode() || !strings.Contains(fmt.Sprint(err), "layers belongs to user 54321") || fail.Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
}

func readOnly(script string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		shell(t, dir, script)
		unmount, err := (&host.Local{}).Mount(host.Bind(dir, dir, true))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { release(t, unmount) })
	}
}

// TestAStoreIsRootsAlone keeps other users from the programs in its trees, and from
// a store that root made when one of them called sudo.
func TestAStoreIsRootsAlone(t *testing.T) {
	needsRoot(t)
	t.Setenv("SUDO_UID", "54321")
	t.Setenv("SUDO_GID", "54321")
	dir := t.TempDir()
	open(t, filepath.Join(dir, "made", "store"))
	if out := shell(t, dir, "stat -c '%U %a' made/store made/store/layers made/store/work; stat -c %u made"); out != "root 755\nroot 700\nroot 700\n54321\n" {
		t.Errorf("got %q", out)
	}
}

func TestAStoreWithoutProgramsIsRefused(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release(t, func() error { return unix.Unmount(dir, 0) }) })
	s := open(t, dir)
	_, err := s.Begin(t.Context(), &host.Local{}, nil, filepath.Join(t.TempDir(), "at"))
	if fail.ExitCode(err) != fail.Host.ExitCode() || !strings.Contains(err.Error(), "noexec") || fail.Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
	empty(t, s)
}
