package catalogue_test

import (
	"encoding/json"
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

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/catalogue"
)

// fill publishes a build into a layout.
func fill(t *testing.T, root, name string) publish.Release {
	t.Helper()
	disk := []byte("the disk of " + name)
	r := publish.Release{
		Folder: t.TempDir(), Name: name, Description: "A <b>bold</b> image", Version: "13", Architecture: "arm64", BuildID: "id",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tool: "vmctl test", Tested: true,
		Disks:    []publish.Disk{{Name: filepath.Base(name) + ".qcow2", Format: "qcow2", Size: int64(len(disk)), VirtualSize: 1 << 30, Digest: digest.FromBytes(disk)}},
		Boots:    []publish.Boot{{Firmware: "uefi", Passed: true, Proof: "report", Accel: "kvm", Seconds: 7}},
		Packages: []debian.Package{{Name: "bash", Version: "5.2", Architecture: "arm64", Source: "bash", SourceVersion: "5.2"}},
	}
	packages, err := json.Marshal(r.Packages)
	if err != nil {
		t.Fatal(err)
	}
	var sums strings.Builder
	for file, content := range map[string][]byte{r.Disks[0].Name: disk, "build.json": []byte("{}"), "packages.json": packages, "boot-uefi.log": []byte("login: <script>alert(1)</script>\xff\n")} {
		fmt.Fprintf(&sums, "%s  %s\n", digest.FromBytes(content).Encoded(), file)
		if err := os.WriteFile(filepath.Join(r.Folder, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.Folder, "SHA256SUMS"), []byte(sums.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ref, err := publish.ParseReference("oci:" + filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	dst, err := publish.Access{}.OpenDestination(t.Context(), ref)
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
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // not the tester's own
	pages := catalogue.New(root)
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
		"/image/team/web":                        {"13-20260102.1", "bash", "login: &lt;script&gt;alert(1)", "boot-uefi.log"},
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

func TestServedIsReadOnlyAndPullable(t *testing.T) {
	root := t.TempDir()
	r := fill(t, root, "debian")
	server := serve(t, root)
	ref, err := publish.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/debian")
	if err != nil {
		t.Fatal(err)
	}
	src, err := publish.Access{}.OpenSource(t.Context(), ref)
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
	dst, err := publish.Access{}.OpenDestination(t.Context(), ref.With("other"))
	if err != nil {
		t.Fatal(err)
	}
	r.BuildID = "another"
	if _, err := publish.Push(t.Context(), dst, ref, r, publish.PushOptions{Tag: "other", Retry: publish.Retry{Attempts: 1}}); err == nil {
		t.Error("the registry takes what is pushed")
	}
}
