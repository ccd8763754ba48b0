package publish

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/registry"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

func TestInterruptedPullIsResumedByTheNext(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	f := newFault(0, http.MethodGet, slow)
	ref := in(t, registrytest.Start(t, f.front), "debian")
	mustPush(t, ref, r, PushOptions{})
	f.times.Store(1000)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	_, err := pullWithin(ctx, t, ref.With("13"), PullOptions{Folder: dir, ReadOptions: ReadOptions{Tell: func(e registry.Event) {
		if e.Done > 1<<20 {
			once.Do(cancel)
		}
	}}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	names := folderNames(t, dir)
	if len(names) != 1 || !strings.HasSuffix(names[0], ".part") {
		t.Fatalf("left are %v", names)
	}
	f.times.Store(0)
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
	if pulled.Received >= r.Disks[0].Size || pulled.Received == 0 {
		t.Errorf("the second pull received %d of %d bytes", pulled.Received, r.Disks[0].Size)
	}
	if names := folderNames(t, dir); len(names) != 1 {
		t.Errorf("left are %v", names)
	}
}

func TestResumeWithoutRangeRequests(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	f := newFault(3, http.MethodGet, cut(0.5))
	ref := in(t, registrytest.Start(t, func(next http.Handler) http.Handler {
		whole := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req.Header.Del("Range")
			next.ServeHTTP(noRanges{w}, req)
		})
		return onlyOf(r.Disks[0], f.front(whole), whole)
	}), "debian")
	mustPush(t, ref, r, PushOptions{})
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
}

type noRanges struct{ http.ResponseWriter }

func (w noRanges) WriteHeader(status int) {
	w.Header().Del("Accept-Ranges")
	w.ResponseWriter.WriteHeader(status)
}

func TestPulledDiskIsSparse(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, r, PushOptions{})
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Format: "raw"}}})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 1)
	var stat unix.Stat_t
	if err := unix.Stat(pulled.Path, &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > 5<<19 { // 2 of 4 MiB are a hole
		t.Errorf("%d of %d bytes are on disk", used, stat.Size)
	}
}

func TestPullKeepsFilesOfOthers(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	ref := in(t, registrytest.Start(t, nil), "debian").With("13")
	mustPush(t, ref.With(""), r, PushOptions{})
	dir := t.TempDir()
	path := filepath.Join(dir, r.Disks[0].Name)
	if err := os.WriteFile(path, []byte("the disk of a machine that runs"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := pullTo(t, ref, PullOptions{Folder: dir})
	if fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), "--overwrite") {
		t.Errorf("%v", err)
	}
	if _, err := pullTo(t, ref, PullOptions{Folder: dir, Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	again, err := pullTo(t, ref, PullOptions{Folder: dir})
	if err != nil || again.Received != 0 {
		t.Errorf("what is there was received again: %+v, %v", again, err)
	}
	sameAsDisk(t, path, r, 0)
}

func TestPullNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	for name, tc := range map[string]struct {
		ref    registry.Reference
		format string
		want   string
	}{
		"tag":    {ref.With("12"), "", "not found"},
		"format": {ref.With("13"), "vmdk", "only as qcow2"},
	} {
		_, err := pullTo(t, tc.ref, PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Format: tc.format}}})
		if fail.ExitCode(err) != 6 || !strings.Contains(err.Error(), tc.want) || fail.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
