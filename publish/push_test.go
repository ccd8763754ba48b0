package publish

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/golden"
)

// TestPlainOrasPullGetsOneDisk does what "oras pull REF" does.
func TestPlainOrasPullGetsOneDisk(t *testing.T) {
	r := newRelease(t, 1)
	dst := memory.New()
	ref := parse(t, "registry.example/debian")
	if _, err := Push(t.Context(), dst, ref, r, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]int{"13": 0, "latest": 0, "13-20260102.1": 0, "13-raw": 1, "13-20260102.1-raw": 1, "13-20260102.1-amd64": 0} {
		dir := t.TempDir()
		store, err := file.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := oras.Copy(t.Context(), dst, tag, store, "", oras.DefaultCopyOptions); err != nil {
			t.Fatalf("%s: %v", tag, err)
		}
		if names := folderNames(t, dir); !slices.Equal(names, []string{r.Disks[want].Name}) {
			t.Errorf("%s gives %v", tag, names)
			continue
		}
		sameAsDisk(t, filepath.Join(dir, r.Disks[want].Name), r, want)
	}
}

func TestEveryLeafAndAttachmentIsTagged(t *testing.T) {
	r := newRelease(t, 1)
	r.Disks = r.Disks[:1]
	ref := parse(t, "oci:"+filepath.Join(t.TempDir(), "layout"))
	mustPush(t, ref, r, PushOptions{})
	got, err := registry.Tags(t.Context(), place(t, ref).(registry.TagLister))
	if err != nil {
		t.Fatal(err)
	}
	leaf := "13-20260102.1-amd64"
	want := []string{"13", "13-20260102.1", leaf, leaf + ".boot", leaf + ".build", leaf + ".sbom", leaf + ".sums", "latest"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLeafSaysWhatItHolds(t *testing.T) {
	r := newRelease(t, 1)
	r.Annotations = map[string]string{ocispec.AnnotationRevision: "abc", ocispec.AnnotationLicenses: "MIT"}
	dst := memory.New()
	if _, err := Push(t.Context(), dst, parse(t, "registry.example/debian"), r, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	top, err := dst.Resolve(t.Context(), "13")
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	var leaf ocispec.Manifest
	var c Config
	if err := fetchJSON(t.Context(), dst, top, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Platform.Architecture != "amd64" || index.Manifests[0].Platform.OS != "linux" {
		t.Fatalf("index %+v", index)
	}
	if index.Annotations[ocispec.AnnotationVersion] != "13-20260102.1" {
		t.Errorf("the index is of the release %s", index.Annotations[ocispec.AnnotationVersion])
	}
	if err := fetchJSON(t.Context(), dst, index.Manifests[0], &leaf); err != nil {
		t.Fatal(err)
	}
	if err := fetchJSON(t.Context(), dst, leaf.Config, &c); err != nil {
		t.Fatal(err)
	}
	want := Config{
		Name: "debian", Build: "build-1", Created: r.Created, Architecture: "amd64", OS: "linux", Version: "13", Format: "qcow2",
		VirtualSize: 4 << 20, RawDigest: r.RawDigest, Firmware: []string{"bios", "uefi"},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	wantAnnotations := map[string]string{
		ocispec.AnnotationCreated: "2026-01-02T03:04:05Z", ocispec.AnnotationVersion: "13-20260102", ocispec.AnnotationTitle: "debian-13-amd64.qcow2",
		ocispec.AnnotationDescription: "Minimal Debian", ocispec.AnnotationLicenses: "MIT", ocispec.AnnotationRevision: "abc",
	}
	if diff := cmp.Diff(wantAnnotations, leaf.Annotations); diff != "" {
		t.Error(diff)
	}
	if leaf.ArtifactType != ArtifactType || leaf.Config.MediaType != MediaTypeConfig || len(leaf.Layers) != 1 {
		t.Errorf("leaf %+v", leaf)
	}
}

func TestPushAgainSendsNothing(t *testing.T) {
	r := newRelease(t, 1)
	ref := in(t, registryWith(t, nil), "debian")
	first := mustPush(t, ref, r, PushOptions{ContainerDisk: true})
	if first[0].Uploaded < r.Disks[0].Size+r.Disks[1].Size {
		t.Errorf("the first push sent %d bytes", first[0].Uploaded)
	}
	again := mustPush(t, ref, r, PushOptions{ContainerDisk: true})
	for i := range again {
		if again[i].Uploaded != 0 || again[i].Digest != first[i].Digest || !slices.Equal(again[i].Tags, first[i].Tags) {
			t.Errorf("first %+v, again %+v", first[i], again[i])
		}
	}
}

func TestImmutableTagsStayAndMovingTagsMove(t *testing.T) {
	ref := in(t, registryWith(t, nil), "debian")
	one, two := mustPush(t, ref, newRelease(t, 1), PushOptions{})[0], mustPush(t, ref, newRelease(t, 2), PushOptions{})[0]
	if !slices.Equal(two.Tags, []string{"13-20260102.2", "13", "latest"}) {
		t.Errorf("tags of the second push: %v", two.Tags)
	}
	src := place(t, ref)
	for tag, want := range map[string]digest.Digest{"13-20260102.1": one.Digest, "13-20260102.2": two.Digest, "13": two.Digest, "latest": two.Digest} {
		if got, err := src.Resolve(t.Context(), tag); err != nil || got.Digest != want {
			t.Errorf("%s is %s, %v; want %s", tag, got.Digest, err, want)
		}
	}
	third := mustPush(t, ref.With("edge"), newRelease(t, 3), PushOptions{})[0]
	if !slices.Equal(third.Tags, []string{"edge-20260102.1", "edge"}) {
		t.Errorf("tags of a push with a tag: %v", third.Tags)
	}
	if got, err := src.Resolve(t.Context(), "latest"); err != nil || got.Digest != two.Digest {
		t.Errorf("a push with a tag moved latest: %v, %v", got.Digest, err)
	}
}

func TestArchitecturesShareAReference(t *testing.T) {
	ref := in(t, registryWith(t, nil), "debian")
	amd64, arm64 := newRelease(t, 1), newRelease(t, 2)
	arm64.Architecture, arm64.Disks[0].Name = "arm64", "debian-13-arm64.qcow2"
	if err := os.Rename(arm64.path("debian-13-amd64.qcow2"), arm64.path("debian-13-arm64.qcow2")); err != nil {
		t.Fatal(err)
	}
	seal(t, arm64)
	mustPush(t, ref, amd64, PushOptions{})
	mustPush(t, ref, arm64, PushOptions{})
	for architecture, r := range map[string]Release{"amd64": amd64, "arm64": arm64} {
		pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Architecture: architecture}}})
		if err != nil {
			t.Fatal(err)
		}
		sameAsDisk(t, pulled.Path, r, 0)
	}
	_, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Architecture: "riscv64"}}})
	if fail.ExitCode(err) != 6 || !strings.Contains(err.Error(), "only for amd64, arm64") {
		t.Errorf("riscv64: %v", err)
	}
}

func TestUntestedIsRefusedUnlessForced(t *testing.T) {
	ref := in(t, registryWith(t, nil), "debian")
	for name, edit := range map[string]func(*Release){
		"never booted": func(r *Release) { r.Tested, r.Boots = false, nil },
		"failed":       func(r *Release) { r.Boots[1].Passed, r.Boots[1].Problem = false, "kernel panic" },
	} {
		r := newRelease(t, 1)
		edit(&r)
		_, err := pushTo(t, ref, r, PushOptions{})
		if fail.ExitCode(err) != 5 || !strings.Contains(fail.Hint(err), "--force-untested") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := place(t, ref).Resolve(t.Context(), "latest"); err == nil {
			t.Errorf("%s: there is something", name)
		}
	}
	r := newRelease(t, 1)
	r.Tested, r.Boots = false, nil
	mustPush(t, ref, r, PushOptions{ForceUntested: true})
	got, err := Inspect(t.Context(), place(t, ref), ref.With("13"), ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: quick})
	if err != nil || got.Annotations[AnnotationUntested] == "" || got.Config.Untested == "" {
		t.Errorf("%+v, %v", got.Annotations, err)
	}
	checks, err := Verify(t.Context(), place(t, ref), ref.With("13"), VerifyOptions{ReadOptions: ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: quick}})
	if fail.ExitCode(err) != 6 || !strings.Contains(problems(checks), "pushed by force") {
		t.Errorf("%s, %v", problems(checks), err)
	}
}

func TestWhatChangedSinceTheBuildIsRefused(t *testing.T) {
	for _, name := range []string{"debian-13-amd64.qcow2", "debian-13-amd64.raw", manifestName, packagesName, "boot-uefi.log"} {
		r := newRelease(t, 1)
		f, err := os.OpenFile(r.path(name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("!"), 1); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ref := in(t, registryWith(t, nil), "debian")
		_, err = pushTo(t, ref, r, PushOptions{})
		if fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "not the file that the build left") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := place(t, ref).Resolve(t.Context(), "latest"); err == nil {
			t.Errorf("%s: it was tagged", name)
		}
	}
}

func TestContainerDisk(t *testing.T) {
	r := newRelease(t, 1)
	dst := memory.New()
	if _, err := Push(t.Context(), dst, parse(t, "registry.example/debian"), r, PushOptions{ContainerDisk: true}); err != nil {
		t.Fatal(err)
	}
	top, err := dst.Resolve(t.Context(), "13-containerdisk")
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	var m ocispec.Manifest
	var image ocispec.Image
	if err := fetchJSON(t.Context(), dst, top, &index); err != nil {
		t.Fatal(err)
	}
	if err := fetchJSON(t.Context(), dst, index.Manifests[0], &m); err != nil {
		t.Fatal(err)
	}
	if err := fetchJSON(t.Context(), dst, m.Config, &image); err != nil {
		t.Fatal(err)
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig || image.Architecture != "amd64" || image.RootFS.DiffIDs[0] != m.Layers[0].Digest {
		t.Errorf("%+v of %+v", image, m)
	}
	rc, err := dst.Fetch(t.Context(), m.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	archive := tar.NewReader(rc)
	var got []string
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 107 || h.Gid != 107 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg && digest.FromBytes(content) != r.Disks[0].Digest {
			t.Error("the disk in the layer is another one")
		}
		got = append(got, h.Name)
	}
	if !slices.Equal(got, []string{"disk/", "disk/debian-13-amd64.qcow2"}) {
		t.Errorf("the layer holds %v", got)
	}
}

func TestLayoutKeepsWhatItHadWhenAPushFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	ref := parse(t, "oci:"+dir)
	bad := newRelease(t, 2)
	if err := os.Truncate(bad.path(bad.Disks[0].Name), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := pushTo(t, ref, bad, PushOptions{}); err == nil {
		t.Fatal("a truncated disk was pushed")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("a failed first push leaves %v", folderNames(t, dir))
	}
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	before, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pushTo(t, ref, bad, PushOptions{}); err == nil {
		t.Fatal("a truncated disk was pushed")
	}
	after, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil || string(before) != string(after) {
		t.Errorf("a failed push changed the index: %v", err)
	}
	dst, err := Access{}.OpenDestination(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pushTo(t, ref, newRelease(t, 3), PushOptions{}); err == nil || !strings.Contains(err.Error(), "another push is running") {
		t.Errorf("two pushes at once: %v", err)
	}
	if err := dst.Close(); err != nil {
		t.Error(err)
	}
}

// TestLayoutLeavesFoldersOfOthersAlone has a folder that looks like a layout that
// lost its mark, such as another program's store of blobs.
func TestLayoutLeavesFoldersOfOthersAlone(t *testing.T) {
	dir := t.TempDir()
	theirs := filepath.Join(dir, "blobs", "sha256", "theirs")
	if err := os.MkdirAll(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := pushTo(t, parse(t, "oci:"+dir), newRelease(t, 1), PushOptions{})
	if fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "something else") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
	if names := folderNames(t, dir); !slices.Equal(names, []string{"blobs"}) {
		t.Errorf("the folder holds %v", names)
	}
}

// TestLayoutGoesOnAfterAKilledPush has what SIGKILL leaves of a first push.
func TestLayoutGoesOnAfterAKilledPush(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	ref := parse(t, "oci:"+dir)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, stageName, "half"), 0o755), os.MkdirAll(filepath.Join(dir, "blobs"), 0o755), os.WriteFile(filepath.Join(dir, lockName), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	if names := folderNames(t, dir); !slices.Equal(names, []string{lockName, "blobs", "index.json", "oci-layout"}) {
		t.Errorf("the folder holds %v", names)
	}
}

// TestLayoutMendsWhatAPowerFailureLeft has blobs that have their names and not
// all of their bytes.
func TestLayoutMendsWhatAPowerFailureLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	ref := parse(t, "oci:"+dir)
	r := newRelease(t, 1)
	mustPush(t, ref, r, PushOptions{})
	for _, name := range []string{"oci-layout", "index.json"} { // which a push writes last
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	blobs := filepath.Join(dir, "blobs/sha256")
	for _, name := range folderNames(t, blobs) {
		path := filepath.Join(blobs, name)
		info, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, info.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustPush(t, ref, r, PushOptions{})
	if _, err := Verify(t.Context(), place(t, ref), ref, VerifyOptions{ReadOptions: ReadOptions{Selection: Selection{Architecture: "amd64"}}}); err != nil {
		t.Error(err)
	}
	pulled, err := pullTo(t, ref, PullOptions{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
}

func TestLayoutKeepsHoles(t *testing.T) {
	r := newRelease(t, 1)
	dir := filepath.Join(t.TempDir(), "layout")
	mustPush(t, parse(t, "oci:"+dir), r, PushOptions{})
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "blobs/sha256", r.RawDigest.Encoded()), &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > 5<<19 { // 2 of 4 MiB are a hole
		t.Errorf("%d of %d bytes are on disk", used, stat.Size)
	}
}

func TestArchiveRoundTrip(t *testing.T) {
	r := newRelease(t, 1)
	dir := t.TempDir()
	ref := parse(t, "oci-archive:"+filepath.Join(dir, "debian.tar"))
	mustPush(t, ref, r, PushOptions{})
	if names := folderNames(t, dir); !slices.Equal(names, []string{"debian.tar"}) {
		t.Errorf("the folder holds %v", names)
	}
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
	if _, err := pushTo(t, ref, r, PushOptions{}); fail.ExitCode(err) != 2 {
		t.Errorf("an archive that is there is overwritten: %v", err)
	}
}

func TestSBOM(t *testing.T) {
	r := newRelease(t, 1)
	content, err := sbom(r, r.Disks[0])
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		SPDXVersion, SPDXID, DataLicense, DocumentNamespace string
		CreationInfo                                        struct {
			Created  time.Time
			Creators []string
		}
		Packages []struct {
			Name, SPDXID, VersionInfo, DownloadLocation string
			ExternalRefs                                []struct{ ReferenceLocator string }
		}
		Relationships []struct{ SPDXElementID, RelatedSPDXElement, RelationshipType string }
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" || doc.SPDXID != "SPDXRef-DOCUMENT" || doc.DataLicense != "CC0-1.0" || !doc.CreationInfo.Created.Equal(r.Created) || doc.CreationInfo.Creators[0] != "Tool: vmctl-test" {
		t.Errorf("%+v", doc)
	}
	if len(doc.Packages) != 3 || len(doc.Relationships) != 3 {
		t.Fatalf("%d packages, %d relationships", len(doc.Packages), len(doc.Relationships))
	}
	p := doc.Packages[2]
	if p.Name != "g++" || p.SPDXID != "SPDXRef-Package-g-plus-plus-amd64" || p.ExternalRefs[0].ReferenceLocator != "pkg:deb/debian/g%2B%2B@4%3A14.2.0-1?arch=amd64&distro=debian-13" {
		t.Errorf("%+v", p)
	}
	if r := doc.Relationships[0]; r.SPDXElementID != "SPDXRef-DOCUMENT" || r.RelationshipType != "DESCRIBES" || r.RelatedSPDXElement != "SPDXRef-Image" {
		t.Errorf("%+v", r)
	}
}

func TestParseReference(t *testing.T) {
	for s, want := range map[string]string{
		"registry.example/debian":         "registry.example/debian",
		"localhost:5000/a/b:13":           "localhost:5000/a/b:13",
		"oci:dir":                         "oci:dir",
		"oci:./a/b:13":                    "oci:./a/b:13",
		"oci-archive:/x/debian.tar:13":    "oci-archive:/x/debian.tar:13",
		"oci:dir@sha256:" + zeros(64):     "oci:dir@sha256:" + zeros(64),
		"h.example/r@sha256:" + zeros(64): "h.example/r@sha256:" + zeros(64),
		"[::1]:5000/debian:13-20260102.1": "[::1]:5000/debian:13-20260102.1",
	} {
		ref, err := ParseReference(s)
		if err != nil || ref.String() != want {
			t.Errorf("%s: %s, %v", s, ref, err)
		}
	}
	for _, s := range []string{"", "debian", "oci:", "https://registry.example/debian", "registry.example/Debian", "registry.example/debian:a b", "user:hunter2@registry.example/debian"} {
		_, err := ParseReference(s)
		if fail.ExitCode(err) != 2 || fail.Hint(err) == "" {
			t.Errorf("%q: %v", s, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func zeros(n int) string { return strings.Repeat("0", n) }

func problems(checks []Check) string {
	var all []string
	for _, c := range checks {
		if c.Problem != "" {
			all = append(all, c.What+": "+c.Problem)
		}
	}
	return strings.Join(all, "\n")
}

// TestManifests pins the shape that consumers rely on: what a push leaves of
// each kind, without the digests, which differ with every byte.
func TestManifests(t *testing.T) {
	r := newRelease(t, 1)
	r.Disks = r.Disks[:1]
	b := newBundle()
	leaves, err := pack(t.Context(), b, r, true)
	if err != nil {
		t.Fatal(err)
	}
	index, err := b.index(r, leaves[0], "13-20260102.1", ocispec.Index{})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	show := func(title string, d ocispec.Descriptor) {
		t.Helper()
		content, err := verified(t.Context(), b, d, LargestManifest)
		if err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, content, "", "  "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "# %s\n%s\n\n", title, &indented)
	}
	show("index 13-20260102.1", index)
	show("leaf 13-20260102.1-amd64", leaves[0].desc)
	for _, a := range leaves[0].attachments {
		show("attachment 13-20260102.1-amd64."+a.kind, a.desc)
	}
	show("leaf 13-20260102.1-containerdisk-amd64", leaves[1].desc)
	digests := regexp.MustCompile(`sha256:[0-9a-f]{64}|"size": [0-9]+`)
	golden.Equal(t, "manifests.txt", digests.ReplaceAllStringFunc(all.String(), func(s string) string {
		if s == ocispec.DescriptorEmptyJSON.Digest.String() {
			return s
		}
		name, _, _ := strings.Cut(s, ":")
		return name + ": …"
	}))
}
