//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/btw-img/btw-img/orchestrator"
)

// mirror is one of Debian's, as long as it is open, that this machine serves.
type mirror struct {
	*httptest.Server
	mu     sync.Mutex
	closed bool
	asked  []string // paths
}

func newMirror(t *testing.T, of string) *mirror {
	t.Helper()
	target, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	a := &mirror{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.asked = append(a.asked, r.URL.Path)
		closed := a.closed
		a.mu.Unlock()
		if closed {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// debianArchive is the first archive of this machine's apt that has Debian 13.
func debianArchive(t *testing.T) string {
	t.Helper()
	for _, base := range strings.Fields(tool(t, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")) {
		response, err := http.Get(base + "dists/trixie/InRelease")
		if err != nil {
			continue
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return base
		}
	}
	t.Fatal("no archive of this machine's apt has Debian 13")
	return ""
}

// set opens or closes the archive, and forgets what it was asked for.
func (a *mirror) set(closed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed, a.asked = closed, nil
}

// packages is how many packages were asked for.
func (a *mirror) packages() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, path := range a.asked {
		if strings.HasSuffix(path, ".deb") {
			n++
		}
	}
	return n
}

// TestPackagesAreDownloadedOnceAndLocked builds from an archive that then has nothing more.
func TestPackagesAreDownloadedOnceAndLocked(t *testing.T) {
	t.Parallel()
	base := debianArchive(t)
	a, snapshot := newMirror(t, base), newMirror(t, base)
	folder := t.TempDir()
	in := caller{folder, []string{"no_proxy=127.0.0.1", "VMCTL_CACHE=" + filepath.Join(t.TempDir(), "cache")}} // the shared store has most of these packages
	write(t, filepath.Join(folder, "install.d/base.yml"), `source: {bootstrap: {suite: trixie, variant: minbase, mirror: "`+a.URL+`"}}
disk: {layout: bios, size: 1G}
install: [{packages: [linux-image-cloud-amd64, systemd-sysv]}]
`)
	write(t, filepath.Join(folder, "install.d/greeter.yml"), "extends: base\ninstall: [{packages: [hello]}]\n")
	build := func(t *testing.T, code int, args ...string) result {
		t.Helper()
		r := in.run(t, append([]string{"build", "greeter", "--no-test", "--format", "raw"}, args...)...)
		if r.code != code {
			t.Fatalf("exit code %d\n%s", r.code, r.stderr)
		}
		return r
	}
	build(t, 0)
	image := filepath.Join(folder, "images/greeter/greeter-13-amd64.raw")
	var first orchestrator.Manifest
	readJSON(t, filepath.Join(folder, "images/greeter/build.json"), &first)
	hello := ""
	for _, stage := range first.Fetched {
		for _, f := range stage.Files {
			if strings.HasPrefix(f.Name, "hello_") && stage.Stage == "Layer greeter" {
				hello = f.SHA256
			}
		}
	}
	if hello == "" || len(first.Fetched) != 2 || a.packages() < 50 {
		t.Fatalf("the record tells of %d stages, the archive was asked for %d packages", len(first.Fetched), a.packages())
	}
	d := openDisk(t, copyDisk(t, image).raw)
	if names := append(d.ls("/etc/apt/apt.conf.d"), d.ls("/var/cache/apt/archives")...); strings.Contains(strings.Join(names, " "), "vmctl") || strings.Contains(strings.Join(names, " "), ".deb") {
		t.Errorf("the image holds %v", names)
	}
	in.good(t, "lock", "greeter")
	a.set(true)

	t.Run("rebuild without network", func(t *testing.T) {
		r := in.run(t, "rebuild", image, "--offline", "-o", filepath.Join(folder, "again"), "--json")
		var images []struct {
			Same          bool
			SHA256, Built string
		}
		r.read(t, &images)
		if len(images) != 2 || r.code != 0 || !images[0].Same || !images[1].Same {
			t.Errorf("exit code %d, %+v\n%s", r.code, images, r.stderr)
		}
		var again orchestrator.Manifest
		readJSON(t, filepath.Join(folder, "again/greeter/build.json"), &again)
		if len(again.Archives) != 1 || again.Archives[0] != first.Archives[0] || len(again.Fetched) != 2 {
			t.Errorf("another state of the archive: %+v", again.Archives)
		}
	})
	t.Run("a package that is gone", func(t *testing.T) {
		in.good(t, "cache", "rm", hello[:12])
		for flag, says := range map[string]string{"--offline": "--offline: the store lacks hello ", "--refresh=greeter": "not in the store: hello "} {
			if r := build(t, 4, "--refresh", "greeter", flag); !strings.Contains(r.stderr, says) || !strings.Contains(r.stderr, "hint: ") {
				t.Errorf("%s: %s", flag, r.stderr)
			}
		}
	})
	t.Run("a snapshot", func(t *testing.T) {
		build(t, 0, "--refresh", "greeter", "--snapshot", snapshot.URL)
		if snapshot.packages() != 1 {
			t.Errorf("the snapshot was asked for %v", snapshot.asked)
		}
	})
	t.Run("lists that are gone", func(t *testing.T) {
		path := filepath.Join(folder, "locks/greeter.json")
		var lock orchestrator.Lock
		readJSON(t, path, &lock)
		list := lock.Fetched[0].Files[0]
		list.Name, list.URI, list.SHA256, list.List = "gone_InRelease", a.URL+"/dists/gone/InRelease", strings.Repeat("0", 64), true
		lock.Fetched[0].Files = append(lock.Fetched[0].Files, list)
		if lock.Fetched[0].Stage != "Layer greeter" {
			lock.Fetched[1].Files = append(lock.Fetched[1].Files, list)
		}
		content, err := json.Marshal(lock)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(content))
		a.set(false)
		build(t, 0, "--refresh", "greeter")
	})
	in.good(t, "cache", "verify")
	nothingLeft(t, folder)
}
