package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// Materials is what archives of packages gave to a build. It holds nothing secret.
type Materials struct {
	Archives []source.Release `json:"archives,omitempty"` // the state that they were in when the source was made
	Fetched  []StageFiles     `json:"fetched,omitempty"`
	Pinned   *Pinned          `json:"pinned,omitempty"` // what was downloaded to be the source
}

// StageFiles is what apt fetched for a stage: packages, and lists of packages.
type StageFiles struct {
	Stage string              `json:"stage"`
	Files []aptmethod.Fetched `json:"files"`
}

// of is the files of a stage.
func (m Materials) of(stage string) []aptmethod.Fetched {
	for _, s := range m.Fetched {
		if s.Stage == stage {
			return s.Files
		}
	}
	return nil
}

// add adds files to a stage. Those that were there already are not added again.
func (m *Materials) add(stage string, fetched []aptmethod.Fetched) {
	at := slices.IndexFunc(m.Fetched, func(s StageFiles) bool { return s.Stage == stage })
	if at < 0 {
		m.Fetched = append(m.Fetched, StageFiles{Stage: stage})
		at = len(m.Fetched) - 1
	}
	for _, f := range fetched {
		f.From = "" // of one run, and not of what was made
		if !slices.ContainsFunc(m.Fetched[at].Files, func(known aptmethod.Fetched) bool { return known.Kept() == f.Kept() }) {
			m.Fetched[at].Files = append(m.Fetched[at].Files, f)
		}
	}
	slices.SortFunc(m.Fetched[at].Files, func(a, b aptmethod.Fetched) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.SHA256, b.SHA256))
	})
}

// Lock is locks/NAME.json: what a build is to get from archives.
type Lock struct {
	Name  string `json:"name"`
	Vmctl string `json:"vmctl,omitempty"` // version of vmctl that it comes from
	Materials
	// Requirements is which roles and collections from elsewhere it is to get.
	Requirements []Installed `json:"requirements,omitempty"`
}

// LockPath is where the lock of a build lies in the folder of the definitions.
func LockPath(definitions, name string) string {
	return filepath.Join(definitions, "locks", name+".json")
}

// NewLock is the lock that gives a build what the one before got. The error is wrong usage
// where that is not known.
func NewLock(m Manifest) (*Lock, error) {
	l := &Lock{Name: m.Name, Vmctl: m.Vmctl, Materials: m.Materials, Requirements: m.Requirements}
	if len(l.Fetched) == 0 && l.Pinned == nil {
		return nil, fail.New(fail.Usage, "", "build it again with this vmctl", "the record of %s names no packages", m.Name)
	}
	return l, l.check()
}

// ReadLock reads the lock of a build, nil where there is none.
func ReadLock(definitions, name string) (*Lock, error) {
	path := LockPath(definitions, name)
	l := &Lock{}
	err := readJSON(path, l)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && l.Name != name {
		err = fmt.Errorf("%s is the lock of %q", path, l.Name)
	}
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return nil, fail.New(fail.Usage, path, "write it anew with 'vmctl lock "+name+"', or build with --no-lock", "%w", err)
	}
	return l, nil
}

// Write writes the lock into the folder of the definitions, for its owner.
func (l *Lock) Write(definitions string) (path string, err error) {
	path = LockPath(definitions, l.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	if err := writeJSON(path+".new", l); err != nil {
		return "", errors.Join(err, os.Remove(path+".new"))
	}
	return path, errors.Join(os.Rename(path+".new", path), files.Caller().GiveFolder(filepath.Dir(path)))
}

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check refuses names and digests that would be more than that in paths and settings.
func (l *Lock) check() error {
	if err := definition.CheckName(l.Name); err != nil {
		return err
	}
	for _, stage := range l.Fetched {
		for _, f := range stage.Files {
			if _, _, plain := aptmethod.SplitKept(f.Kept()); !plain {
				return fmt.Errorf("%q, SHA-256 %q, is no file of an archive", f.Name, f.SHA256)
			}
			if !strings.HasPrefix(f.URI, "http://") && !strings.HasPrefix(f.URI, "https://") || strings.ContainsAny(f.URI+f.Base, " \n\"") {
				return fmt.Errorf("%q is no address of a file", f.URI)
			}
		}
	}
	if err := l.Pinned.check(); err != nil {
		return err
	}
	for _, release := range l.Archives {
		if !digestPattern.MatchString(release.SHA256) {
			return fmt.Errorf("%q is no digest of %s", release.SHA256, release.URL)
		}
	}
	return nil
}

// lists is the digests of the lists that a stage had, by apt's names for them: its own, and
// those of the stages before.
func (m Materials) lists(stage string) map[string]string {
	digests := map[string]string{}
	for _, s := range m.Fetched {
		for _, f := range s.Files {
			if f.List {
				digests[f.Name] = f.SHA256
			}
		}
		if s.Stage == stage {
			break
		}
	}
	return digests
}

// preferences has apt install these versions, and no other packages (apt_preferences(5)).
func preferences(m Materials) string {
	var b strings.Builder
	b.WriteString("Package: *\nPin: release *\nPin-Priority: -1\n")
	for _, stage := range m.Fetched {
		for _, f := range stage.Files {
			name, version, _ := strings.Cut(packageName(f.Name), " ")
			if f.IsPackage() && version != "" {
				fmt.Fprintf(&b, "\nPackage: %s\nPin: version %s\nPin-Priority: 1001\n", name, version)
			}
		}
	}
	return b.String()
}

// differences is the packages that came and are not in the lock, and those that did not come.
func (l *Lock) differences(got Materials) []string {
	var all []string
	tell := func(sign string, these, others Materials) {
		for _, stage := range these.Fetched {
			for _, f := range stage.Files {
				same := func(other aptmethod.Fetched) bool { return other.SHA256 == f.SHA256 }
				if f.IsPackage() && !slices.ContainsFunc(others.of(stage.Stage), same) {
					all = append(all, sign+packageName(f.Name))
				}
			}
		}
	}
	tell("+", got, l.Materials)
	tell("-", l.Materials, got)
	slices.Sort(all)
	return all
}

// obey refuses a tree that is not made of what the lock says.
func (w *workshop) obey(got Materials) error {
	if w.plan.Lock == nil {
		return nil
	}
	different := w.plan.Lock.differences(got)
	if len(different) == 0 {
		return nil
	}
	return fail.New(fail.Build, "the lock of "+w.plan.Lock.Name, "write it anew with 'vmctl lock' after a build with --no-lock", "other packages than the lock says came (+), or did not come (-): %s", strings.Join(atMost(different), ", "))
}

// atMost is the first of many.
func atMost(names []string) []string {
	if more := len(names) - mostMissing; more > 0 {
		return append(names[:mostMissing:mostMissing], fmt.Sprintf("and %d more", more))
	}
	return names
}

// replay is what the method of a stage is told where there is a lock: the lists that its
// archives had then, or else the versions of the packages alone.
func (w *workshop) replay(ctx context.Context, stage string, s aptmethod.Settings) (aptmethod.Settings, error) {
	lock := w.plan.Lock
	if lock == nil {
		return s, nil
	}
	s.Mirrors = w.plan.Snapshots
	wanted := lock.of(stage)
	for _, f := range wanted {
		if !f.List {
			continue
		}
		if err := w.obtainFile(ctx, f); err != nil {
			fmt.Fprintf(w.log, "%s is not what it was, and packages are chosen by their versions: %v\n", f.URI, err)
			s.Preferences = preferences(lock.Materials)
			return s, ctx.Err()
		}
	}
	s.Pinned, s.Lists = true, lock.lists(stage)
	return s, nil
}

// obtainFile makes sure that the store has a file: it is there, or comes from where it was, or
// from a snapshot.
func (w *workshop) obtainFile(ctx context.Context, f aptmethod.Fetched) error {
	if _, err := os.Lstat(filepath.Join(w.store.DownloadsFolder(), f.Kept())); err == nil {
		return nil
	}
	if w.offline {
		return errors.New("the store lacks it, and there is no network")
	}
	incoming, err := w.store.Receive()
	if err != nil {
		return err
	}
	for _, address := range append([]string{f.URI}, f.Elsewhere(w.plan.Snapshots)...) {
		if err = source.Fetch(ctx, w.host, address, filepath.Join(incoming.Folder(), f.Kept()), f.SHA256); err == nil {
			break
		}
	}
	if err == nil {
		err = incoming.Take(f.Kept())
	}
	return errors.Join(err, incoming.Discard())
}

// gone names the packages of a stage that the tree's lists do not know, where they were
// chosen by their versions.
func (w *workshop) gone(stage, root string) []string {
	listed, err := source.Listed(root)
	if err != nil || len(listed) == 0 {
		return nil
	}
	var names []string
	for _, f := range w.plan.Lock.of(stage) {
		if f.IsPackage() && !listed[f.SHA256] {
			names = append(names, packageName(f.Name))
		}
	}
	return names
}

// materialsOf is what archives gave for a tree, as its layers remember.
func materialsOf(t tree) (m Materials, err error) {
	for _, layer := range t.layers {
		about := layer.About()
		if about.Title == sourceTitle {
			var facts sourceFacts
			if err := json.Unmarshal(about.Data, &facts); err != nil {
				return m, err
			}
			m.Archives, m.Pinned = facts.Archives, facts.Pinned
		}
		for j := range m.Archives {
			m.Archives[j].URL = aptmethod.PublicAddress(m.Archives[j].URL)
		}
		var fetched []aptmethod.Fetched
		if len(about.Fetched) == 0 {
			continue
		}
		if err := json.Unmarshal(about.Fetched, &fetched); err != nil {
			return m, err
		}
		m.add(about.Title, fetched)
	}
	return m, nil
}

// ageLists has apt in the tree, which goes by the age of its lists, read them anew where
// it did when the lock was made; without a lock, where they may be older than this build. Those
// of a bootstrap are not: it was made of what the archive has now.
func (g *growing) ageLists(root string) error {
	age := time.Now()
	if g.plan.Lock != nil {
		if slices.ContainsFunc(g.plan.Lock.of(layerTitle+g.name), func(f aptmethod.Fetched) bool { return f.List }) {
			age = time.Unix(0, 0)
		}
	} else if !g.listed && (!g.bootstrapped() || !g.debianAlone()) {
		age = time.Unix(0, 0)
	}
	path, err := host.Tree(root).Path("/var/lib/apt/lists")
	if err != nil {
		return err
	}
	if err := os.Chtimes(path, age, age); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// debianAlone is whether all packages are of the archives of the source.
func (w *workshop) debianAlone() bool {
	return !slices.ContainsFunc(w.plan.Definition.Layers, func(l definition.Layer) bool {
		return slices.ContainsFunc(l.Install, func(e definition.InstallEntry) bool { return len(e.Repositories) > 0 })
	})
}
