package publish

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/content/memory"
	orasregistry "oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/artifact/artifacttest"
	"github.com/btw-img/btw-img/publish/registry"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

// TestPlainOrasPullGetsOneDisk does what "oras pull REF" does.
func TestPlainOrasPullGetsOneDisk(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	r := newRelease(t, 1)
	r.Disks = r.Disks[:1]
	ref := parse(t, "oci:"+filepath.Join(t.TempDir(), "layout"))
	mustPush(t, ref, r, PushOptions{})
	got, err := orasregistry.Tags(t.Context(), place(t, ref).(orasregistry.TagLister))
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
	t.Parallel()
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
	var c artifact.Config
	if err := registry.FetchJSON(t.Context(), dst, top, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Platform.Architecture != "amd64" || index.Manifests[0].Platform.OS != "linux" {
		t.Fatalf("index %+v", index)
	}
	if index.Annotations[ocispec.AnnotationVersion] != "13-20260102.1" {
		t.Errorf("the index is of the release %s", index.Annotations[ocispec.AnnotationVersion])
	}
	if err := registry.FetchJSON(t.Context(), dst, index.Manifests[0], &leaf); err != nil {
		t.Fatal(err)
	}
	if err := registry.FetchJSON(t.Context(), dst, leaf.Config, &c); err != nil {
		t.Fatal(err)
	}
	want := artifact.Config{
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
	if leaf.ArtifactType != artifact.ArtifactType || leaf.Config.MediaType != artifact.MediaTypeConfig || len(leaf.Layers) != 1 {
		t.Errorf("leaf %+v", leaf)
	}
}

func TestPushAgainSendsNothing(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	ref := in(t, registrytest.Start(t, nil), "debian")
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

// A rebuild gives the same disks, and other times, consoles and build.json.
func TestARebuildOfTheSameDisksSendsNothing(t *testing.T) {
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
	signer, _ := readKeys(t, newKeys(t)["ECDSA"])
	options := PushOptions{Signer: signer}
	first := mustPush(t, ref, newRelease(t, 1), options)
	rebuilt, files := artifacttest.New(1)
	rebuilt.Boots[0].Seconds = 31
	files["boot-bios.log"] = &fstest.MapFile{Data: []byte("another console")}
	files["build.json"] = &fstest.MapFile{Data: []byte(`{"stages": [{"seconds": 1}]}`)}
	artifacttest.Seal(files)
	rebuilt = left(t, rebuilt, files)
	for i, again := range mustPush(t, ref, rebuilt, options) {
		if again.Uploaded != 0 || again.Digest != first[i].Digest || !slices.Equal(again.Tags, first[i].Tags) {
			t.Errorf("first %+v, again %+v", first[i], again)
		}
	}
	other, files := artifacttest.New(2)
	other.Architecture, other.Disks[0].Name = "arm64", "debian-13-arm64.qcow2"
	files["debian-13-arm64.qcow2"] = files["debian-13-amd64.qcow2"]
	delete(files, "debian-13-amd64.qcow2")
	artifacttest.Seal(files)
	both := mustPush(t, ref, left(t, other, files), options)
	for i, again := range mustPush(t, ref, rebuilt, options) {
		if again.Uploaded != 0 || again.Digest != both[i].Digest || !slices.Equal(again.Tags, both[i].Tags) {
			t.Errorf("beside another architecture: %+v, again %+v", both[i], again)
		}
	}
}

// Somebody who may write to the repository, and has no key, puts other evidence there.
func TestOnlyOwnEvidenceIsSigned(t *testing.T) {
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
	signer, verifier := readKeys(t, newKeys(t)["Ed25519"])
	r := newRelease(t, 1)
	mustPush(t, ref, r, PushOptions{Signer: signer})
	dst, err := registry.Access{}.OpenDestination(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := dst.Resolve(t.Context(), artifact.SiblingTag("13-20260102.1-amd64", "boot"))
	if err == nil {
		err = dst.Tag(t.Context(), forged, artifact.SiblingTag("13-20260102.1-amd64", "sbom"))
	}
	if err != nil {
		t.Fatal(err)
	}
	mustPush(t, ref, r, PushOptions{Signer: signer})
	if now, err := dst.Resolve(t.Context(), artifact.SiblingTag("13-20260102.1-amd64", "sbom")); err != nil || now.Digest == forged.Digest {
		t.Errorf("the forged evidence stays: %v", err)
	}
	if err := dst.Close(); err != nil {
		t.Error(err)
	}
	if checks, err := Verify(t.Context(), place(t, ref), ref.With("13"), VerifyOptions{ReadOptions: amd64(), Key: verifier}); err != nil {
		t.Errorf("%v\n%s", err, problems(checks))
	}
}

func TestImmutableTagsStayAndMovingTagsMove(t *testing.T) {
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
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
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
	one := newRelease(t, 1)
	other, files := artifacttest.New(2)
	other.Architecture, other.Disks[0].Name = "arm64", "debian-13-arm64.qcow2"
	files["debian-13-arm64.qcow2"] = files["debian-13-amd64.qcow2"]
	delete(files, "debian-13-amd64.qcow2")
	artifacttest.Seal(files)
	other = left(t, other, files)
	mustPush(t, ref, one, PushOptions{})
	mustPush(t, ref, other, PushOptions{})
	for architecture, r := range map[string]artifact.Release{"amd64": one, "arm64": other} {
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
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
	for name, edit := range map[string]func(*artifact.Release){
		"never booted": func(r *artifact.Release) { r.Tested, r.Boots = false, nil },
		"failed":       func(r *artifact.Release) { r.Boots[1].Passed, r.Boots[1].Problem = false, "kernel panic" },
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
	got, err := Inspect(t.Context(), place(t, ref), ref.With("13"), amd64())
	if err != nil || got.Annotations[artifact.AnnotationUntested] == "" || got.Config.Untested == "" {
		t.Errorf("%+v, %v", got.Annotations, err)
	}
	checks, err := Verify(t.Context(), place(t, ref), ref.With("13"), VerifyOptions{ReadOptions: amd64()})
	if fail.ExitCode(err) != 6 || !strings.Contains(problems(checks), "pushed by force") {
		t.Errorf("%s, %v", problems(checks), err)
	}
}

func TestWhatChangedSinceTheBuildIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"debian-13-amd64.qcow2", "debian-13-amd64.raw", "build.json", "packages.json", "boot-uefi.log"} {
		r := newRelease(t, 1)
		f, err := os.OpenFile(filepath.Join(r.Folder, name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("!"), 1); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ref := in(t, registrytest.Start(t, nil), "debian")
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
	t.Parallel()
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
	if err := registry.FetchJSON(t.Context(), dst, top, &index); err != nil {
		t.Fatal(err)
	}
	if err := registry.FetchJSON(t.Context(), dst, index.Manifests[0], &m); err != nil {
		t.Fatal(err)
	}
	if err := registry.FetchJSON(t.Context(), dst, m.Config, &image); err != nil {
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
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "layout")
	ref := parse(t, "oci:"+dir)
	bad := newRelease(t, 2)
	if err := os.Truncate(filepath.Join(bad.Folder, bad.Disks[0].Name), 100); err != nil {
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
	dst, err := registry.Access{}.OpenDestination(t.Context(), ref)
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

// TestLayoutMendsWhatAPowerFailureLeft has blobs that have their names and not
// all of their bytes.
func TestLayoutMendsWhatAPowerFailureLeft(t *testing.T) {
	t.Parallel()
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
			err = errors.Join(os.Chmod(path, 0o644), os.Truncate(path, info.Size()/2))
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

func TestArchiveRoundTrip(t *testing.T) {
	t.Parallel()
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

func problems(checks []Check) string {
	var all []string
	for _, c := range checks {
		if c.Problem != "" {
			all = append(all, c.What+": "+c.Problem)
		}
	}
	return strings.Join(all, "\n")
}
