package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/opencontainers/go-digest"

	"github.com/btw-img/btw-img/orchestrator/debian"
)

// quick repeats without waiting.
var quick = Retry{Attempts: 4, Wait: time.Millisecond}

// diskBytes is a disk of random data with a hole in the middle, 4 MiB long.
func diskBytes(seed uint64) []byte {
	content := make([]byte, 4<<20)
	source := rand.New(rand.NewPCG(seed, seed))
	for i := range content[:1<<20] {
		content[i] = byte(source.Uint32())
		content[3<<20+i] = byte(source.Uint32())
	}
	return content
}

// newRelease is a folder as a build leaves it.
func newRelease(t *testing.T, seed uint64) Release {
	t.Helper()
	r := Release{
		Folder: t.TempDir(), Name: "debian", Description: "Minimal Debian", Version: "13", Architecture: "amd64",
		BuildID: fmt.Sprintf("build-%d", seed), Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tool: "vmctl test", Tested: true,
		Packages: []debian.Package{{Name: "g++", Version: "4:14.2.0-1", Architecture: "amd64", Source: "gcc-defaults", SourceVersion: "1.220"}, {Name: "base-files", Version: "13.8", Architecture: "amd64", Source: "base-files", SourceVersion: "13.8"}},
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(r.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw := diskBytes(seed)
	qcow2 := append([]byte("QFI\xfb"), raw...)
	r.RawDigest = digest.FromBytes(raw)
	for _, d := range []struct {
		format  string
		content []byte
	}{{"qcow2", qcow2}, {"raw", raw}} {
		disk := Disk{Name: "debian-13-amd64." + d.format, Format: d.format, Size: int64(len(d.content)), VirtualSize: int64(len(raw)), Digest: digest.FromBytes(d.content)}
		write(disk.Name, d.content)
		r.Disks = append(r.Disks, disk)
	}
	for _, firmware := range []string{"bios", "uefi"} {
		r.Boots = append(r.Boots, Boot{Firmware: firmware, Passed: true, Proof: "report", Accel: "tcg", Seconds: 30, Report: json.RawMessage(`{"state":"running"}`)})
		write(consoleName(firmware), []byte("Debian GNU/Linux 13 debian ttyS0 "+firmware+"\n"))
	}
	packages, err := json.Marshal(r.Packages)
	if err != nil {
		t.Fatal(err)
	}
	write(packagesName, packages)
	write(manifestName, fmt.Appendf(nil, `{"id": %q, "outputs": [{"sha256": %q}, {"sha256": %q}]}`, r.BuildID, r.Disks[0].Digest.Encoded(), r.Disks[1].Digest.Encoded()))
	seal(t, r)
	return r
}

// seal writes SHA256SUMS anew.
func seal(t *testing.T, r Release) {
	t.Helper()
	var sums strings.Builder
	names, err := filepath.Glob(r.path("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if filepath.Base(name) == checksumsName {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), filepath.Base(name))
	}
	if err := os.WriteFile(r.path(checksumsName), []byte(sums.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// registryWith starts a registry in this process, with something in front.
func registryWith(t *testing.T, front func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	registry := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}})
	var handler http.Handler = registry
	if front != nil {
		handler = front(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		_ = registry.Close()
	})
	return server
}

// TestMain keeps the tester's own credentials out.
func TestMain(m *testing.M) {
	for _, variable := range []string{"DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "CI_REGISTRY", "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD", "CI_SERVER_HOST"} {
		if err := os.Unsetenv(variable); err != nil {
			panic(err)
		}
	}
	home, err := os.MkdirTemp("", "publish-test-")
	if err != nil {
		panic(err)
	}
	for _, variable := range []string{"HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(variable, home); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(home)
	os.Exit(code)
}

// ownConfig gives the test a configuration of Docker that it can write.
func ownConfig(t *testing.T) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
}

func parse(t *testing.T, s string) Reference {
	t.Helper()
	ref, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// in is a repository of a server.
func in(t *testing.T, server *httptest.Server, repository string) Reference {
	t.Helper()
	return parse(t, strings.TrimPrefix(strings.TrimPrefix(server.URL, "http://"), "https://")+"/"+repository)
}

func pushTo(t *testing.T, ref Reference, r Release, o PushOptions) ([]Pushed, error) {
	t.Helper()
	return pushWith(t, Access{}, ref, r, o)
}

func pushWith(t *testing.T, a Access, ref Reference, r Release, o PushOptions) ([]Pushed, error) {
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

func mustPush(t *testing.T, ref Reference, r Release, o PushOptions) []Pushed {
	t.Helper()
	pushed, err := pushTo(t, ref, r, o)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

func place(t *testing.T, ref Reference) Place {
	t.Helper()
	src, err := Access{}.OpenPlace(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func pullTo(t *testing.T, ref Reference, o PullOptions) (Pulled, error) {
	t.Helper()
	return pullWithin(t.Context(), t, ref, o)
}

func pullWithin(ctx context.Context, t *testing.T, ref Reference, o PullOptions) (Pulled, error) {
	t.Helper()
	if o.Architecture == "" {
		o.Architecture = "amd64"
	}
	o.Retry = quick
	return Pull(ctx, place(t, ref), ref, o)
}

func sameAsDisk(t *testing.T, path string, r Release, disk int) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(r.path(r.Disks[disk].Name))
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
