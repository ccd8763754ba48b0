package catalogue_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/catalogue"
	"github.com/btw-img/btw-img/publish/registry"
)

// fill publishes a build into a layout.
func fill(t *testing.T, root, name string) artifact.Release {
	t.Helper()
	return fillAs(t, root, name, "id")
}

func fillAs(t *testing.T, root, name, build string) artifact.Release {
	t.Helper()
	return fillWith(t, root, name, build, filepath.Base(name)+".qcow2")
}

// fillDisk publishes a disk of that file name.
func fillDisk(t *testing.T, root, name, file string) artifact.Release {
	t.Helper()
	return fillWith(t, root, name, "id", file)
}

func fillWith(t *testing.T, root, name, build, file string) artifact.Release {
	t.Helper()
	disk := []byte("the disk of " + name)
	r := artifact.Release{
		Folder: t.TempDir(), Name: name, Description: "A <b>bold</b> image", Version: "13", Architecture: "arm64", BuildID: build,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tool: "vmctl test", Tested: true,
		Disks:    []artifact.Disk{{Name: file, Format: "qcow2", Size: int64(len(disk)), VirtualSize: 1 << 30, Digest: digest.FromBytes(disk)}},
		Boots:    []artifact.Boot{{Firmware: "uefi", Passed: true, Proof: "report", Accel: "kvm", Seconds: 7}},
		Packages: []debian.Package{{Name: "bash", Version: "5.2", Architecture: "arm64", Source: "bash", SourceVersion: "5.2"}},
	}
	packages, err := json.Marshal(r.Packages)
	if err != nil {
		t.Fatal(err)
	}
	var sums strings.Builder
	for file, content := range map[string][]byte{r.Disks[0].Name: disk, "build.json": []byte("{}"), "packages.json": packages, "report.html": []byte("<p>report</p>"), "boot-uefi.log": []byte("login: <script>alert(1)</script>\xff\n")} {
		fmt.Fprintf(&sums, "%s  %s\n", digest.FromBytes(content).Encoded(), file)
		if err := os.WriteFile(filepath.Join(r.Folder, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.Folder, "SHA256SUMS"), []byte(sums.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ref, err := registry.ParseReference("oci:" + filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	dst, err := registry.Access{}.OpenDestination(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Push(t.Context(), dst, ref, r, publish.PushOptions{ContainerDisk: true}); err != nil {
		t.Fatal(err)
	}
	if err := dst.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

func serve(t *testing.T, root string) *httptest.Server {
	t.Helper()
	return serving(t, newCatalogue(t, root))
}

func newCatalogue(t *testing.T, root string) *catalogue.Catalogue {
	t.Helper()
	c, err := catalogue.New(root)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serving(t *testing.T, pages *catalogue.Catalogue) *httptest.Server {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // not the tester's own
	server := httptest.NewServer(pages)
	t.Cleanup(func() {
		server.Close()
		if err := pages.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPagesTellWhatIsThere(t *testing.T) {
	root := t.TempDir()
	server := serve(t, root)
	if status, page := get(t, server.URL+"/"); status != 200 || !strings.Contains(page, "There is no image yet") {
		t.Errorf("an empty catalogue: %d\n%s", status, page)
	}
	fill(t, root, "debian")
	fill(t, root, "team/web")
	host := strings.TrimPrefix(server.URL, "http://")
	for path, wants := range map[string][]string{
		"/":                                      {"debian", "team/web", "A &lt;b&gt;bold&lt;/b&gt; image", "uefi", "came up after 7 s on kvm", "oras pull --plain-http " + host + "/debian:latest"},
		"/image/team/web":                        {"13-20260102.1", "bash", "login: &lt;script&gt;alert(1)", "boot-uefi.log", "What the build did"},
		"/image/debian?tag=13":                   {"vmctl pull --plain-http " + host + "/debian:13<"},
		"/assets/catalogue.js":                   {"clipboard"},
		"/file/debian?tag=13&name=boot-uefi.log": {"<script>alert(1)</script>"},
	} {
		status, page := get(t, server.URL+path)
		if status != 200 {
			t.Errorf("%s: %d", path, status)
		}
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("%s lacks %q:\n%s", path, want, page)
			}
		}
		if strings.Contains(page, "containerdisk") {
			t.Errorf("%s offers a container disk as a release", path)
		}
	}
	for _, path := range []string{"/image/none", "/image/debian?tag=12", "/image/../../etc", "/file/debian?tag=13&name=none", "/file/..%2f..%2fetc?tag=x&name=passwd", "/none"} {
		if status, _ := get(t, server.URL+path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// opened counts how often files in a folder are opened.
type opened struct {
	t       *testing.T
	inotify int
}

func watch(t *testing.T, dir string) opened {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	return opened{t, fd}
}

// times is how often since it was last asked.
func (o opened) times() int {
	o.t.Helper()
	count, buffer := 0, make([]byte, 64<<10)
	for {
		n, err := unix.Read(o.inotify, buffer)
		if errors.Is(err, unix.EAGAIN) {
			return count
		}
		if err != nil {
			o.t.Fatal(err)
		}
		for at := 0; at < n; count++ {
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buffer[at+12:])) // inotify(7): len
		}
	}
}

// TestLayoutsAreReadWhenTheyChange asks for all pages again and again.
func TestLayoutsAreReadWhenTheyChange(t *testing.T) {
	root := t.TempDir()
	fill(t, root, "debian")
	blobs := watch(t, filepath.Join(root, "debian/blobs/sha256"))
	server := serve(t, root)
	all := func(want string) {
		t.Helper()
		for _, path := range []string{"/", "/image/debian", "/image/debian?tag=13", "/file/debian?tag=13&name=boot-uefi.log"} {
			status, page := get(t, server.URL+path)
			if status != 200 || !strings.HasPrefix(path, "/file") && !strings.Contains(page, want) {
				t.Errorf("%s: %d, without %s", path, status, want)
			}
		}
	}
	blobs.times()
	all("13-20260102.1")
	if blobs.times() == 0 {
		t.Error("the first time, nothing is read")
	}
	for range 3 {
		all("13-20260102.1")
	}
	if n := blobs.times(); n != 0 {
		t.Errorf("pages that were shown before read %d blobs", n)
	}
	fillAs(t, root, "debian", "another build")
	all("13-20260102.2")
}

func TestWhatIsHeldIsLimited(t *testing.T) {
	root := t.TempDir()
	names := []string{"a", "b", "c"}
	for _, name := range names {
		fill(t, root, name)
	}
	pages := newCatalogue(t, root)
	pages.Limit(6 << 10)
	server := serving(t, pages)
	for range 2 {
		for _, name := range names {
			if status, page := get(t, server.URL+"/image/"+name+"?tag=13"); status != 200 || !strings.Contains(page, name+".qcow2") {
				t.Errorf("%s: %d", name, status)
			}
			if n, bytes := pages.Held(); n == 0 || n == len(names) || bytes > 6<<10 {
				t.Errorf("%d images with %d bytes are held", n, bytes)
			}
		}
	}
}

func TestAttachedFilesCannotRunInTheBrowser(t *testing.T) {
	root := t.TempDir()
	fill(t, root, "debian")
	resp, err := http.Get(serve(t, root).URL + "/file/debian?tag=13&name=boot-uefi.log")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", resp.Header)
	}
}

// The report is a page of whoever pushed the image.
func TestTheReportIsAPageThatCanDoNothing(t *testing.T) {
	root := t.TempDir()
	fill(t, root, "debian")
	resp, err := http.Get(serve(t, root).URL + "/file/debian?tag=13&name=report.html")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	policy := resp.Header.Get("Content-Security-Policy")
	if got := resp.Header.Get("Content-Type"); got != "text/html; charset=utf-8" || !strings.HasPrefix(policy, "sandbox; default-src 'none'; style-src 'unsafe-inline';") || strings.Contains(policy, "script-src") || len(resp.Header.Values("Content-Security-Policy")) != 1 {
		t.Errorf("%v", resp.Header)
	}
}

func TestServedIsReadOnlyAndPullable(t *testing.T) {
	root := t.TempDir()
	r := fill(t, root, "debian")
	server := serve(t, root)
	ref, err := registry.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/debian")
	if err != nil {
		t.Fatal(err)
	}
	src, err := registry.Access{}.OpenPlace(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := publish.Pull(t.Context(), src, ref, publish.PullOptions{Folder: dir, ReadOptions: publish.ReadOptions{Selection: publish.Selection{Architecture: "arm64"}}}); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(dir, r.Disks[0].Name)); err != nil || digest.FromBytes(content) != r.Disks[0].Digest {
		t.Errorf("another disk arrived: %v", err)
	}
	if _, err := publish.Verify(t.Context(), src, ref, publish.VerifyOptions{ReadOptions: publish.ReadOptions{Selection: publish.Selection{Architecture: "arm64"}}}); err == nil || !strings.Contains(err.Error(), "verify") {
		t.Errorf("a build record that is empty verifies: %v", err)
	}
	dst, err := registry.Access{}.OpenDestination(t.Context(), ref.With("other"))
	if err != nil {
		t.Fatal(err)
	}
	r.BuildID = "another"
	if _, err := publish.Push(t.Context(), dst, ref, r, publish.PushOptions{Tag: "other", Retry: registry.Retry{Attempts: 1}}); err == nil {
		t.Error("the registry takes what is pushed")
	}
}
