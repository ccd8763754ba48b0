package orchestrator

import (
	"bytes"
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

// archiveRecords is where the store keeps the states that the archives were in: when this build
// was last made, and when its source last was, whatever build that was for.
func (w *workshop) archiveRecords() []string {
	folder := filepath.Join(w.store.Folder(), "archives")
	return []string{filepath.Join(folder, digestOf(w.parts.Source, w.plan.Definition.Name)+".json"), filepath.Join(folder, w.parts.Source+".json")}
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
	remembered, err := w.rememberedArchives()
	if w.offline && err == nil {
		for _, archive := range remembered {
			if key, err := w.storedSource(archive); key != "" || err != nil {
				return key, err
			}
		}
		return "", nil
	}
	if err != nil || len(remembered) == 0 {
		return "", err
	}
	archive := remembered[len(remembered)-1]
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
	return w.parts.sourceKey(archive), w.rememberArchive(archive)
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

// rememberedArchives is what rememberArchive has written last: for this build, and for any.
func (w *workshop) rememberedArchives() (all [][]source.Release, err error) {
	for _, record := range w.archiveRecords() {
		content, err := os.ReadFile(record)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var archive []source.Release
		if json.Unmarshal(content, &archive) == nil && len(archive) > 0 { // else it is written anew
			all = append(all, archive)
		}
	}
	return all, nil
}

func (w *workshop) rememberArchive(archive []source.Release) error {
	content, err := json.Marshal(archive)
	if err != nil {
		return err
	}
	for _, record := range w.archiveRecords() {
		if before, err := os.ReadFile(record); err == nil && bytes.Equal(before, content) {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(record), 0o700), replaceFile(record, content)); err != nil {
			return err
		}
	}
	return nil
}
