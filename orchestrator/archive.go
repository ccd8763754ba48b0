package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// archiveRecord is where the store keeps the state that the archives were in when the
// source was last made.
func (w *workshop) archiveRecord() string {
	return filepath.Join(w.store.Folder(), "archives", w.parts.Source+".json")
}

// bootstrapped says whether the source is an archive.
func (w *workshop) bootstrapped() bool { return w.plan.Definition.Source.Bootstrap != nil }

// begin finds out which source the build starts from, by its key, "" for one that is
// still to be made; and whether anything has changed since the build before.
func (w *workshop) begin(s *stages) (key store.Key, unchanged bool, err error) {
	if w.offline && !w.onlyOld {
		release, err := w.store.HoldDownloads()
		if err != nil {
			return "", false, err
		}
		w.release.Push("release what was downloaded", release)
	}
	key, err = step(s, "Inputs", w.knownSource)
	if err != nil || key == "" || w.before == "" || w.fresh != "" {
		return key, false, err
	}
	outcome, err := w.outcome(key)
	return key, outcome == w.before, err
}

const (
	hintOnline  = "build once without --offline, which stores what is missing"
	hintOffline = "try again later, or build with --offline, which takes the archive for what it was"
)

// knownSource is the key of the source's tree, "" where only making it can tell.
func (w *workshop) knownSource(ctx context.Context) (store.Key, error) {
	if !w.plan.Definition.Source.Archived() {
		return w.parts.sourceKey(nil), nil
	}
	if w.plan.Lock != nil {
		return w.storedSource(w.plan.Lock.Archives)
	}
	archive, err := w.rememberedArchive()
	if w.offline && err == nil {
		return w.storedSource(archive)
	}
	if err != nil || len(archive) == 0 {
		return "", err
	}
	current, err := source.Current(ctx, w.host, archive, filepath.Join(w.work, "releases"))
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case fail.ExitCode(err) == fail.Host.ExitCode(): // it has no apt-helper
		fmt.Fprintf(w.log, "the archive's state is not known: %v\n", err)
		return "", nil
	case err != nil:
		return "", &fail.Error{Kind: fail.Build, Op: "ask whether the archive has changed", Hint: hintOffline, Err: err}
	case !current:
		return "", nil
	}
	return w.parts.sourceKey(archive), nil
}

// missed tells why a layer may have failed that the store does not have.
func (w *workshop) missed(err error) error {
	if err == nil || !w.offline || fail.Hint(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	wrapped := &fail.Error{Kind: fail.Build, Op: "not in the store, and without network (--offline)", Hint: hintOnline, Err: err}
	if inner, ok := errors.AsType[*fail.Error](err); ok {
		wrapped.Kind = inner.Kind
	}
	return wrapped
}

// storedSource is the key of the source's tree as the store has it.
func (w *workshop) storedSource(archive []source.Release) (store.Key, error) {
	key := w.parts.sourceKey(archive)
	found, err := w.store.Get(key)
	if err != nil {
		return "", err
	}
	if found == nil {
		return "", nil // it is made of what was downloaded
	}
	return key, found.Release()
}

// rememberedArchive is what rememberArchive has written last, nil where it has not.
func (w *workshop) rememberedArchive() (archive []source.Release, err error) {
	content, err := os.ReadFile(w.archiveRecord())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(content, &archive) != nil {
		return nil, nil // it is written anew
	}
	return archive, nil
}

func (w *workshop) rememberArchive(archive []source.Release) error {
	content, err := json.Marshal(archive)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(w.archiveRecord()), 0o700); err != nil {
		return err
	}
	return replaceFile(w.archiveRecord(), content)
}
