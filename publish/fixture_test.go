package publish

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/artifact/artifacttest"
	"github.com/btw-img/btw-img/publish/registry"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

// quick repeats without waiting.
var quick = registry.Retry{Attempts: 4, Wait: time.Millisecond}

func TestMain(m *testing.M) { registrytest.Main(m) }

// newRelease is a folder as a build leaves it.
func newRelease(t *testing.T, seed uint64) artifact.Release {
	t.Helper()
	r, files := artifacttest.New(seed)
	return left(t, r, files)
}

// left writes the files of a release into a folder.
func left(t *testing.T, r artifact.Release, files fstest.MapFS) artifact.Release {
	t.Helper()
	r.Folder = t.TempDir()
	if err := os.CopyFS(r.Folder, files); err != nil {
		t.Fatal(err)
	}
	return r
}

// amd64 is how most tests read: the disk for that architecture, without waiting.
func amd64() ReadOptions {
	return ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: quick}
}

func parse(t *testing.T, s string) registry.Reference {
	t.Helper()
	ref, err := registry.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// in is a repository of a server.
func in(t *testing.T, server *httptest.Server, repository string) registry.Reference {
	t.Helper()
	return parse(t, registrytest.Repository(server, repository))
}

func pushTo(t *testing.T, ref registry.Reference, r artifact.Release, o PushOptions) ([]Pushed, error) {
	t.Helper()
	return pushWith(t, registry.Access{}, ref, r, o)
}

func pushWith(t *testing.T, a registry.Access, ref registry.Reference, r artifact.Release, o PushOptions) ([]Pushed, error) {
	t.Helper()
	dst, err := a.OpenDestination(t.Context(), ref)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := dst.Close(); err != nil {
			t.Error(err)
		}
	}()
	o.Retry = quick
	if o.Tag, err = ref.Tag(); err != nil {
		return nil, err
	}
	pushed, err := Push(t.Context(), dst, ref, r, o)
	if err != nil {
		return nil, err
	}
	return pushed, dst.Commit(t.Context())
}

func mustPush(t *testing.T, ref registry.Reference, r artifact.Release, o PushOptions) []Pushed {
	t.Helper()
	pushed, err := pushTo(t, ref, r, o)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

func place(t *testing.T, ref registry.Reference) registry.Place {
	t.Helper()
	src, err := registry.Access{}.OpenPlace(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func pullTo(t *testing.T, ref registry.Reference, o PullOptions) (Pulled, error) {
	t.Helper()
	return pullWithin(t.Context(), t, ref, o)
}

func pullWithin(ctx context.Context, t *testing.T, ref registry.Reference, o PullOptions) (Pulled, error) {
	t.Helper()
	if o.Architecture == "" {
		o.Architecture = "amd64"
	}
	o.Retry = quick
	return Pull(ctx, place(t, ref), ref, o)
}

func sameAsDisk(t *testing.T, path string, r artifact.Release, disk int) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(r.Folder, r.Disks[disk].Name))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not the disk that was pushed", path)
	}
}

// folderNames is what is in a folder.
func folderNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
