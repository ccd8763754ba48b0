package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/artifact"
)

// ranOut is what a run of vmctl left.
type ranOut struct {
	code           int
	stdout, stderr string
}

const mostMemory = 1 << 30 // bytes of data (setrlimit(2), RLIMIT_DATA)

// vmctl runs the real binary, which gets no more than mostMemory. It is killed after
// a minute.
func vmctl(t *testing.T, dir string, args ...string) ranOut {
	t.Helper()
	limited := fmt.Sprintf(`ulimit -d %d; exec vmctl "$@"`, mostMemory>>10)
	cmd := exec.Command("sh", append([]string{"-c", limited, "sh"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "VMCTL_REGISTRY=", "CI_REGISTRY_IMAGE=", "DOCKER_CONFIG="+dir, "GITLAB_CI=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatalf("vmctl %v: %v\n%s", args, err, &stderr)
	}
	return ranOut{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// inside is all that is below a folder, with its contents.
func inside(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			all[name] = entry.Type().String()
			return err
		}
		content, err := os.ReadFile(name)
		all[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestPushStaysInItsLayout has links, planted where a push writes, that lead out.
func TestPushStaysInItsLayout(t *testing.T) {
	for _, planted := range []string{"index.json", "oci-layout", "blobs", "blobs/sha256", ".push", ".lock", "ingest"} {
		for _, target := range []string{"folder", "file", "none"} {
			dir := t.TempDir()
			outside, layout := filepath.Join(dir, "outside"), filepath.Join(dir, "layout")
			must(t, writeBuild(filepath.Join(dir, "images/debian")), os.MkdirAll(filepath.Join(outside, "folder"), 0o755), os.WriteFile(filepath.Join(outside, "file"), []byte("{}"), 0o644),
				os.MkdirAll(filepath.Dir(filepath.Join(layout, planted)), 0o755), os.Symlink(filepath.Join(outside, target), filepath.Join(layout, planted)))
			if planted != "oci-layout" {
				must(t, os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion": "1.0.0"}`), 0o644))
			}
			if planted != "index.json" && planted != "oci-layout" {
				must(t, os.WriteFile(filepath.Join(layout, "index.json"), []byte(`{"schemaVersion": 2, "manifests": []}`), 0o644))
			}
			before := inside(t, outside)
			got := vmctl(t, dir, "push", "debian", "oci:layout")
			if after := inside(t, outside); !maps.Equal(before, after) {
				t.Errorf("%s -> %s: exit code %d, outside is now %v", planted, target, got.code, slices.Sorted(maps.Keys(after)))
			}
			if got.code != 0 && (!strings.Contains(got.stderr, "hint: ") || strings.Contains(got.stderr, "goroutine")) {
				t.Errorf("%s -> %s: exit code %d, %s", planted, target, got.code, got.stderr)
			}
		}
	}
}

// TestLinksInLayoutsAreNotReadThrough says where the link is.
func TestLinksInLayoutsAreNotReadThrough(t *testing.T) {
	for _, planted := range []string{"oci-layout", "index.json", "blobs"} {
		dir := t.TempDir()
		must(t, writeBuild(filepath.Join(dir, "images/debian")))
		if got := vmctl(t, dir, "push", "debian", "oci:layout"); got.code != 0 {
			t.Fatal(got.stderr)
		}
		must(t, os.Rename(filepath.Join(dir, "layout", planted), filepath.Join(dir, "moved")), os.Symlink("../moved", filepath.Join(dir, "layout", planted)))
		if got := vmctl(t, dir, "inspect", "oci:layout"); got.code != 3 || !strings.Contains(got.stderr, "layout/"+planted) || !strings.Contains(got.stderr, "a link is in the way") {
			t.Errorf("%s: exit code %d: %s", planted, got.code, got.stderr)
		}
	}
}

// TestPullStaysInItsFolder has planted what a pull could write through.
func TestPullStaysInItsFolder(t *testing.T) {
	dir := t.TempDir()
	must(t, writeBuild(filepath.Join(dir, "images/debian")))
	if got := vmctl(t, dir, "push", "debian", "oci:layout"); got.code != 0 {
		t.Fatal(got.stderr)
	}
	disk, err := os.ReadFile(filepath.Join(dir, "images/debian/debian.qcow2"))
	must(t, err)
	part := ".debian.qcow2." + digest.FromBytes(disk).Encoded()[:16] + ".part"
	for name, tc := range map[string]struct {
		plant func(folder, victim string) error
		args  []string
		code  int
		hint  string
	}{
		"a link as the part":       {func(f, v string) error { return os.Symlink(v, filepath.Join(f, part)) }, nil, 3, "a link is in the way"},
		"a dangling link":          {func(f, v string) error { return os.Symlink(v+".new", filepath.Join(f, part)) }, nil, 3, "a link is in the way"},
		"a link within the folder": {func(f, _ string) error { return os.Symlink("victim", filepath.Join(f, part)) }, nil, 3, "a link is in the way"},
		"another name of a file":   {func(f, v string) error { return os.Link(v, filepath.Join(f, part)) }, nil, 3, "may have planted it"},
		"a FIFO":                   {func(f, _ string) error { return unix.Mkfifo(filepath.Join(f, part), 0o666) }, nil, 3, "something else has that name"},
		"a link as the disk":       {func(f, v string) error { return os.Symlink(v, filepath.Join(f, "debian.qcow2")) }, nil, 2, "--overwrite"},
		"a link that is replaced":  {func(f, v string) error { return os.Symlink(v, filepath.Join(f, "debian.qcow2")) }, []string{"--overwrite"}, 0, ""},
		"a folder, to be replaced": {func(f, _ string) error { return os.Mkdir(filepath.Join(f, "debian.qcow2"), 0o755) }, []string{"--overwrite"}, 3, "something else has that name"},
		"another's disk, linked to": {func(f, v string) error {
			return errors.Join(os.WriteFile(v, disk, 0o644), os.Symlink(v, filepath.Join(f, "debian.qcow2")))
		}, nil, 2, "--overwrite"},
	} {
		t.Run(name, func(t *testing.T) {
			folder, victims := t.TempDir(), t.TempDir()
			victim := filepath.Join(victims, "victim")
			must(t, os.WriteFile(victim, []byte("mine"), 0o644), tc.plant(folder, victim))
			before := inside(t, victims)
			got := vmctl(t, dir, append([]string{"pull", "oci:layout", "-o", folder}, tc.args...)...)
			if got.code != tc.code || !strings.Contains(got.stderr, tc.hint) {
				t.Errorf("exit code %d: %s", got.code, got.stderr)
			}
			if after := inside(t, victims); !maps.Equal(before, after) {
				t.Errorf("what was linked to is changed: %v", slices.Sorted(maps.Keys(after)))
			}
		})
	}
	if os.Geteuid() == 0 {
		folder := t.TempDir()
		must(t, os.WriteFile(filepath.Join(folder, part), nil, 0o666), os.Chown(filepath.Join(folder, part), 54321, 54321))
		if got := vmctl(t, dir, "pull", "oci:layout", "-o", folder); got.code != 3 || !strings.Contains(got.stderr, "belongs to somebody else") {
			t.Errorf("a part of another user: exit code %d: %s", got.code, got.stderr)
		}
	}
}

// TestBuildsOfOthersStayInTheirFolder has names in build.json that lead out.
func TestBuildsOfOthersStayInTheirFolder(t *testing.T) {
	for name, tc := range map[string]struct{ old, evil string }{
		"build":    {`"name": "debian",`, `"name": "../../../planted",`},
		"output":   {`"name": "debian.qcow2"`, `"name": "../../outside/secret"`},
		"firmware": {`"firmware": "bios"`, `"firmware": "x/../../../outside/secret"`},
	} {
		dir := t.TempDir()
		record := filepath.Join(dir, "a/images/debian/build.json")
		must(t, writeBuild(filepath.Dir(record)))
		content, err := os.ReadFile(record)
		must(t, err)
		changed := bytes.ReplaceAll(content, []byte(tc.old), []byte(tc.evil))
		sums := filepath.Join(filepath.Dir(record), "SHA256SUMS")
		list, err := os.ReadFile(sums)
		must(t, err, os.WriteFile(record, changed, 0o644),
			os.WriteFile(sums, bytes.ReplaceAll(list, []byte(digest.FromBytes(content).Encoded()), []byte(digest.FromBytes(changed).Encoded())), 0o644))
		got := vmctl(t, filepath.Join(dir, "a"), "push", "debian")
		if _, err := os.Lstat(filepath.Join(dir, "planted")); err == nil || got.code != 2 {
			t.Errorf("%s: exit code %d, %s", name, got.code, got.stderr)
		}
	}
}

// TestLinkedFilesAreNotPublished has a console that is a link to a file which the
// publisher can read, and whose digest was known to whoever planted it.
func TestLinkedFilesAreNotPublished(t *testing.T) {
	dir := t.TempDir()
	must(t, writeBuild(filepath.Join(dir, "images/debian")), os.Rename(filepath.Join(dir, "images/debian/boot-bios.log"), filepath.Join(dir, "secret")),
		os.Symlink("../../secret", filepath.Join(dir, "images/debian/boot-bios.log")))
	if got := vmctl(t, dir, "push", "debian", "oci:layout"); got.code != 3 || !strings.Contains(got.stderr, "a link is in the way") {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
}

// evil is a registry with one image, whose parts a test replaces.
type evil struct {
	t         *testing.T
	manifests map[string][]byte // by tag or digest
	blobs     map[string][]byte
	referrers func(w http.ResponseWriter, r *http.Request)
	image     ocispec.Manifest
	title     string
}

func newEvil(t *testing.T, title string) *evil {
	e := &evil{t: t, manifests: map[string][]byte{}, blobs: map[string][]byte{}, title: title}
	disk := e.blob("application/octet-stream", []byte("disk"))
	disk.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	config := e.blob(artifact.MediaTypeConfig, e.json(artifact.Config{Name: "evil", Architecture: "amd64", OS: "linux", Format: "qcow2"}))
	e.image = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifact.ArtifactType,
		Config: config, Layers: []ocispec.Descriptor{disk},
	}
	e.referrers = func(w http.ResponseWriter, _ *http.Request) { e.list(w) }
	return e
}

func (e *evil) json(v any) []byte {
	content, err := json.Marshal(v)
	must(e.t, err)
	return content
}

func (e *evil) blob(mediaType string, content []byte) ocispec.Descriptor {
	d := digest.FromBytes(content)
	e.blobs[d.String()] = content
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (e *evil) manifest(content []byte) ocispec.Descriptor {
	d := digest.FromBytes(content)
	e.manifests[d.String()] = content
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(content))}
}

func (e *evil) attach(layers ...ocispec.Descriptor) ocispec.Descriptor {
	subject := e.manifest(e.json(e.image))
	return e.manifest(e.json(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.btw-img.boot.v1",
		Config: ocispec.DescriptorEmptyJSON, Layers: layers, Subject: &subject,
	}))
}

func (e *evil) list(w http.ResponseWriter, some ...ocispec.Descriptor) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_, _ = w.Write(e.json(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: some}))
}

// serve starts the registry and returns the reference of its image.
func (e *evil) serve() string {
	if e.manifests["latest"] == nil {
		e.manifests["latest"] = e.json(e.image)
	}
	e.manifest(e.manifests["latest"])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, name := filepath.Base(filepath.Dir(r.URL.Path)), filepath.Base(r.URL.Path)
		content, mediaType := e.blobs[name], "application/octet-stream"
		switch kind {
		case "referrers":
			e.referrers(w, r)
			return
		case "manifests":
			content, mediaType = e.manifests[name], ocispec.MediaTypeImageManifest
		}
		if content == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(content).String())
		if r.Method != http.MethodHead {
			_, _ = w.Write(content)
		}
	}))
	e.t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/evil"
}

// TestRegistriesCannotExhaust has registries that send what never ends, or more than
// anybody needs. Each is refused with the limit, in little memory and time.
func TestRegistriesCannotExhaust(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(e *evil)
		want    string // "" where it is not refused
	}{
		"one blob with many titles": {func(e *evil) {
			console := e.blob("text/plain", make([]byte, 48<<20))
			var layers []ocispec.Descriptor
			for i := range 60 {
				console.Annotations = map[string]string{ocispec.AnnotationTitle: fmt.Sprintf("boot-%d.log", i)}
				layers = append(layers, console)
			}
			one := e.attach(layers...)
			e.referrers = func(w http.ResponseWriter, _ *http.Request) { e.list(w, one) }
		}, ""},
		"many large attachments": {func(e *evil) {
			var all []ocispec.Descriptor
			for i := range 8 {
				console := e.blob("text/plain", bytes.Repeat([]byte{byte(i)}, 40<<20))
				console.Annotations = map[string]string{ocispec.AnnotationTitle: fmt.Sprintf("boot-%d.log", i)}
				all = append(all, e.attach(console))
			}
			e.referrers = func(w http.ResponseWriter, _ *http.Request) { e.list(w, all...) }
		}, "the limit is 67108864"},
		"too many layers": {func(e *evil) {
			one := e.attach(slices.Repeat([]ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, 101)...)
			e.referrers = func(w http.ResponseWriter, _ *http.Request) { e.list(w, one) }
		}, "layers of sha256:"},
		"referrers without end": {func(e *evil) {
			one, n := e.attach(), 0
			e.referrers = func(w http.ResponseWriter, r *http.Request) {
				n++
				w.Header().Set("Link", fmt.Sprintf(`<%s?n=%d>; rel="next"`, r.URL.Path, n))
				e.list(w, slices.Repeat([]ocispec.Descriptor{one}, 50)...)
			}
		}, "referrers of sha256:"},
		"empty pages without end": {func(e *evil) {
			e.referrers = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, r.URL.Path))
				e.list(w)
			}
		}, "pages of /v2/evil/referrers/"},
		"a large manifest": {func(e *evil) {
			e.image.Annotations = map[string]string{"a": strings.Repeat("x", 5<<20)}
		}, "the limit is 4194304"},
		"a manifest of empty layers": {func(e *evil) {
			e.manifests["latest"] = append(append([]byte(`{"layers":[`), bytes.Repeat([]byte("{},"), 1<<20)...), "{}]}"...)
		}, "elements of JSON"},
		"deep JSON": {func(e *evil) {
			e.manifests["latest"] = append(append([]byte(`{"a":`), bytes.Repeat([]byte("["), 9000)...), append(bytes.Repeat([]byte("]"), 9000), '}')...)
		}, "nested elements of JSON"},
		"many annotations": {func(e *evil) {
			e.image.Annotations = map[string]string{}
			for i := range 1001 {
				e.image.Annotations[fmt.Sprint("annotation", i)] = strings.Repeat("value", 5)
			}
		}, "annotations of sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvil(t, "disk.qcow2")
			tc.prepare(e)
			ref := e.serve()
			got := vmctl(t, t.TempDir(), "inspect", ref)
			if want := 6; tc.want == "" && got.code != 0 || tc.want != "" && (got.code != want || !strings.Contains(got.stderr, tc.want)) {
				t.Errorf("exit code %d: %s", got.code, got.stderr)
			}
		})
	}
}

// escapes is what moves cursors, hides and forges.
const escapes = "\x1b[2J\x1b]0;x\x07\u009b31m\u202e\u2066\u200b\nvmctl: all is well\r\x7f"

// TestWhatRegistriesSayIsShownHarmless lets a registry say it wherever it may.
func TestWhatRegistriesSayIsShownHarmless(t *testing.T) {
	harmless := func(t *testing.T, got ranOut) {
		t.Helper()
		for _, shown := range []string{got.stdout, got.stderr} {
			if strings.ContainsFunc(shown, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) || strings.Contains(shown, "\nvmctl: all is well") {
				t.Errorf("shown is %q", shown)
			}
		}
	}
	t.Run("inspect", func(t *testing.T) {
		e := newEvil(t, "disk.qcow2")
		config := e.blob(artifact.MediaTypeConfig, e.json(artifact.Config{
			Name: "n" + escapes, Build: escapes, Architecture: "amd64" + escapes, OS: escapes, Format: "qcow2" + escapes, Version: escapes, Untested: escapes,
		}))
		e.image.Config, e.image.Annotations = config, map[string]string{"a" + escapes: escapes}
		report := e.blob("application/json", e.json(artifact.BootReport{Results: []artifact.Boot{{Firmware: escapes, Problem: escapes, Accel: escapes, Proof: escapes}}}))
		report.Annotations = map[string]string{ocispec.AnnotationTitle: "boot.json"}
		one := e.attach(report)
		e.referrers = func(w http.ResponseWriter, _ *http.Request) { e.list(w, one) }
		ref := e.serve()
		got := vmctl(t, t.TempDir(), "inspect", ref)
		if got.code != 0 || !strings.Contains(got.stdout, `\x1b[2J`) {
			t.Errorf("exit code %d: %s", got.code, got.stderr)
		}
		harmless(t, got)
		harmless(t, vmctl(t, t.TempDir(), "verify", ref))
		exact := vmctl(t, t.TempDir(), "inspect", "--json", ref)
		var doc struct{ Result publish.Inspection }
		if err := json.Unmarshal([]byte(exact.stdout), &doc); err != nil || doc.Result.Config.Name != "n"+escapes {
			t.Errorf("JSON says %q, %v", doc.Result.Config.Name, err)
		}
	})
	for _, title := range []string{"disk" + escapes, "../disk", "/etc/passwd", ".hidden", "-o", "a/b", "", strings.Repeat("x", 300), "disk\u202egpj.qcow2"} {
		dir := t.TempDir()
		got := vmctl(t, dir, "pull", newEvil(t, title).serve())
		harmless(t, got)
		if left := inside(t, dir); got.code != 6 || len(left) != 1 {
			t.Errorf("the title %q: exit code %d, left is %v", title, got.code, left)
		}
	}
	t.Run("error", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": "DENIED", "message": escapes, "detail": escapes}}})
		}))
		defer server.Close()
		got := vmctl(t, t.TempDir(), "inspect", strings.TrimPrefix(server.URL, "http://")+"/evil")
		if got.code != 6 {
			t.Errorf("exit code %d: %s", got.code, got.stderr)
		}
		harmless(t, got)
	})
}

// TestServeSendsNothingFromOutside asks for files outside by their digests.
func TestServeSendsNothingFromOutside(t *testing.T) {
	dir := t.TempDir()
	must(t, writeBuild(filepath.Join(dir, "images/debian")))
	if got := vmctl(t, dir, "push", "debian"); got.code != 0 {
		t.Fatal(got.stderr)
	}
	secret := []byte("root:secret")
	outside := filepath.Join(dir, "outside")
	blobs := filepath.Join(dir, "images/oci/debian/blobs/sha256")
	must(t, os.Mkdir(outside, 0o700), os.WriteFile(filepath.Join(outside, "secret"), secret, 0o600),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(blobs, digest.FromBytes(secret).Encoded())),
		os.WriteFile(filepath.Join(blobs, digest.FromString("other").Encoded()), []byte("damaged"), 0o600),
		os.CopyFS(filepath.Join(outside, "layout"), os.DirFS(filepath.Join(dir, "images/oci/debian"))),
		os.Symlink("../../outside/layout", filepath.Join(dir, "images/oci/planted")))
	base := serving(t, dir)
	disk, err := os.ReadFile(filepath.Join(dir, "images/debian/debian.qcow2"))
	must(t, err)
	for path, want := range map[string]int{
		"/v2/": 200, "/v2/debian/tags/list": 200, "/v2/debian/manifests/latest": 200, "/v2/debian/blobs/" + digest.FromBytes(disk).String(): 200,
		"/v2/debian/blobs/" + digest.FromBytes(secret).String():   404,
		"/v2/debian/blobs/" + digest.FromString("other").String(): 404,
		"/v2/planted/manifests/latest":                            404,
		"/v2/planted/tags/list":                                   404,
		"/image/planted":                                          404,
		"/v2/debian/blobs/sha256:../../index.json":                400,
	} {
		resp, err := http.Get(base + path)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err, resp.Body.Close())
		if resp.StatusCode != want || bytes.Contains(body, secret) {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

// serving starts "vmctl serve" in a folder and returns its URL.
func serving(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command("vmctl", "serve", "--listen", "127.0.0.1:0")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Signal(syscall.SIGTERM), cmd.Wait() })
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(url, "/")
}
