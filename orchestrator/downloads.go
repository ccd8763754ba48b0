package orchestrator

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// fetching is how apt gets packages while one stage makes a tree: what the store has is
// not downloaded, and what is downloaded the store has afterwards. A program of the tree
// can change none of what the store has: it gets that read-only, and what comes from it is
// taken by its digest.
type fetching struct {
	w        *workshop
	folder   string // of apt's method, here and in the tree
	settings aptmethod.Settings
	inGuest  string // its folder in a guest, "" for none
	mounts   scope.Stack
}

// sourceScope is whose lists the source's are. No program of a tree has touched them.
const sourceScope = "source"

// fetch does the work with a method for apt, nil where there is none, and remembers for
// the layer what came through it. Lists that no other file vouches for are the scope's.
func (w *workshop) fetch(ctx context.Context, stage, scope string, work func(*fetching) error) error {
	if err := canFetch(); err != nil {
		if w.plan.Lock != nil {
			return fail.Wrap(fail.Host, "--no-lock builds without the lock", err)
		}
		fmt.Fprintf(w.log, "packages are downloaded, and not kept: %v\n", err)
		return work(nil)
	}
	settings, err := w.fetchSettings(scope)
	if err == nil {
		settings, err = w.replay(ctx, stage, settings)
	}
	if err != nil {
		return err
	}
	incoming, err := w.store.Receive()
	if err != nil {
		return err
	}
	f := &fetching{w: w, folder: w.scratch("apt"), settings: settings}
	f.mounts.Push("remove the folder of downloads", incoming.Discard)
	err = f.prepare(incoming.Folder())
	if err != nil {
		f.mounts.CloseInto(&err)
		return err
	}
	working := work(f)
	record, err := aptmethod.ReadRecord(incoming.Folder())
	if err != nil {
		fmt.Fprintf(w.log, "what was downloaded is not known: %v\n", err)
	}
	w.harvest(record, incoming.Take, scope)
	err = w.lacking(working, stage, record)
	f.mounts.CloseInto(&err)
	return err
}

// fetchFor is fetch for a source, of which only archives are asked by apt.
func (w *workshop) fetchFor(ctx context.Context, s definition.Source, work func(*fetching) error) error {
	if !s.Archived() {
		return work(nil)
	}
	return w.fetch(ctx, sourceTitle, sourceScope, work)
}

// prepare makes the method's folder.
func (f *fetching) prepare(incoming string) error {
	if err := aptmethod.Prepare(f.folder, f.folder, f.settings); err != nil {
		return err
	}
	if err := copyOfItself(aptmethod.Program(f.folder)); err != nil {
		return err
	}
	for _, m := range []host.Mount{
		host.Bind(f.w.store.DownloadsFolder(), aptmethod.KeptFolder(f.folder), true),
		host.Bind(incoming, aptmethod.NewFolder(f.folder), false),
	} {
		unmount, err := f.w.host.Mount(m)
		if err != nil {
			return err
		}
		f.mounts.Push("unmount "+m.Target, unmount)
	}
	return nil
}

// in gives the method to the tree at root, which is entered, until it is released.
func (f *fetching) in(root string) (release func() error, err error) {
	if f == nil {
		return func() error { return nil }, nil
	}
	var stack scope.Stack
	target := filepath.Join(root, f.folder)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return nil, err
	}
	for _, m := range []host.Mount{
		host.BindAll(f.folder, target),
		{Source: aptmethod.NewFolder(f.folder), Target: aptmethod.NewFolder(target), Flags: unix.MS_BIND | unix.MS_REC},
	} {
		unmount, err := f.w.host.Mount(m)
		if err != nil {
			stack.CloseInto(&err)
			return nil, err
		}
		stack.Push("unmount "+m.Target, unmount)
	}
	return stack.Close, nil
}

// config is apt's settings for the method, "" for none.
func (f *fetching) config() string {
	if f == nil {
		return ""
	}
	return filepath.Join(f.folder, aptmethod.ConfigName)
}

// env is the environment of programs in the tree.
func (f *fetching) env() []string {
	if f == nil {
		return host.CleanEnv()
	}
	return append(host.CleanEnv(), "APT_CONFIG="+f.config())
}

// canFetch is why this vmctl cannot be apt's method in a tree, or nil.
func canFetch() error {
	program, err := elf.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP { // it needs libraries that a tree may lack
			return errors.New("this vmctl was built with cgo: build it with 'make vmctl', or with CGO_ENABLED=0")
		}
	}
	return nil
}

// copyOfItself puts this program at a path. A bind mount of it is not always possible:
// the file may belong to another mount namespace.
func copyOfItself(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer program.Close()
	copied, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(copied, program)
	return errors.Join(err, copied.Chmod(0o755), copied.Close())
}

// fetchSettings is what the method of a stage is told.
func (w *workshop) fetchSettings(scope string) (aptmethod.Settings, error) {
	if !w.offline {
		return aptmethod.Settings{}, nil
	}
	lists := map[string]string{}
	for _, of := range []string{scope, sourceScope} { // whose lists nobody could touch win
		if err := w.readLists(of, lists); err != nil {
			return aptmethod.Settings{}, err
		}
	}
	return aptmethod.Settings{Offline: true, Lists: lists}, nil
}

// layerScope is whose lists a layer's are: it may have changed them, and must not change
// those of others.
func (w *workshop) layerScope(layer string) string {
	return digestOf(w.project, layer)
}

func (w *workshop) listsFolder(scope string) string {
	return filepath.Join(w.store.Folder(), "archives", "lists", scope)
}

// readLists adds the digests of lists, by apt's names for them.
func (w *workshop) readLists(scope string, into map[string]string) error {
	entries, err := os.ReadDir(w.listsFolder(scope))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(w.listsFolder(scope), entry.Name()))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		into[entry.Name()] = string(content)
	}
	return nil
}

// harvest takes what was downloaded into the store. What cannot be taken is downloaded
// again another time.
func (w *workshop) harvest(record []aptmethod.Fetched, take func(file string) error, scope string) {
	for _, f := range record {
		switch f.From {
		case aptmethod.FromCache:
			w.store.Used(f.Kept())
		case aptmethod.FromArchive:
			if err := take(f.Kept()); err != nil {
				fmt.Fprintf(w.log, "%s is not kept: %v\n", f.Name, err)
			}
		default:
			continue
		}
		if f.List {
			f.Date = w.dateOf(f)
			if err := w.rememberList(scope, f); err != nil {
				fmt.Fprintf(w.log, "%s is not remembered: %v\n", f.Name, err)
			}
		}
		w.fetched = append(w.fetched, f)
	}
}

// dateOf is the date that a list of the store says of itself, "" where it says none.
func (w *workshop) dateOf(f aptmethod.Fetched) string {
	if !strings.HasSuffix(f.Name, "Release") {
		return ""
	}
	content, err := os.ReadFile(filepath.Join(w.store.DownloadsFolder(), f.Kept()))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(content) {
		if date, ok := bytes.CutPrefix(line, []byte("Date: ")); ok {
			return text.Line(strings.TrimSpace(string(date)))
		}
	}
	return ""
}

// rememberList remembers which file was the list of a name last.
func (w *workshop) rememberList(scope string, f aptmethod.Fetched) error {
	if !strings.HasSuffix(f.Name, "Release") && !strings.HasSuffix(f.Name, "Release.gpg") {
		return nil // another list names it by digest
	}
	folder := w.listsFolder(scope)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	return replaceFile(filepath.Join(folder, f.Name), []byte(f.SHA256))
}

// replaceFile gives a file its content at once. A name that begins with a dot is none of
// apt's lists.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".*.new")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), path)
}

// lacking is the error of work that lacked files, by their names, where it could not fetch
// what the archive has now.
func (w *workshop) lacking(err error, stage string, record []aptmethod.Fetched) error {
	if err == nil || !w.offline && w.plan.Lock == nil {
		return err
	}
	names := missingNames(record)
	if len(names) == 0 && w.plan.Lock != nil {
		names = atMost(w.gone(stage, w.root()))
	}
	if len(names) == 0 {
		return err
	}
	if !w.offline {
		return &fail.Error{
			Kind: fail.Build, Op: "the lock of " + w.plan.Lock.Name, Hint: hintSnapshot, Tail: fail.Tail(err),
			Err: fmt.Errorf("gone from the archive, and not in the store: %s", strings.Join(names, ", ")),
		}
	}
	return &fail.Error{
		Kind: fail.Build, Op: "--offline", Hint: hintOnline, Tail: fail.Tail(err),
		Err: fmt.Errorf("the store lacks %s", strings.Join(names, ", ")),
	}
}

const hintSnapshot = "name a snapshot of the archive of that day with --snapshot URL, or build with --no-lock"

const mostMissing = 20 // that are named

// missingNames is what did not come, for people.
func missingNames(record []aptmethod.Fetched) []string {
	var names []string
	for _, f := range record {
		name := f.Name
		switch {
		case f.From != aptmethod.Missing:
			continue
		case f.List && !strings.HasSuffix(f.Name, "InRelease"):
			continue // the InRelease that is missing says it
		case f.List:
			name = f.URI
		case f.IsPackage():
			name = packageName(f.Name)
		}
		if name = text.Line(name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return atMost(names)
}

// packageName is name and version of a package, by the name of its file (deb(5)).
func packageName(file string) string {
	parts := strings.Split(strings.TrimSuffix(file, ".deb"), "_")
	if len(parts) != 3 {
		return file
	}
	version, err := url.PathUnescape(parts[1])
	if err != nil || version == "" {
		return file
	}
	return parts[0] + " " + version
}

// fetchedJSON is what was downloaded for the layer that is made.
func (w *workshop) fetchedJSON() (json.RawMessage, error) {
	if len(w.fetched) == 0 {
		return nil, nil
	}
	return json.Marshal(w.fetched)
}
