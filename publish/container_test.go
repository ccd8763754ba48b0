package publish_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

// box is an OCI layout in the making.
type box struct {
	t      *testing.T
	folder string
	index  ocispec.Index
}

func newBox(t *testing.T) *box {
	b := &box{t: t, folder: t.TempDir(), index: ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}}
	b.write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion": "1.0.0"}`))
	return b
}

func (b *box) write(name string, content []byte) {
	b.t.Helper()
	path := filepath.Join(b.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) add(mediaType string, value any) ocispec.Descriptor {
	b.t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		b.t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	b.write("blobs/sha256/"+d.Digest.Encoded(), content)
	return d
}

// image adds an image of a platform; change may spoil it.
func (b *box) image(platform ocispec.Platform, change func(*ocispec.Manifest, *ocispec.Image)) ocispec.Descriptor {
	b.t.Helper()
	layer := b.add(ocispec.MediaTypeImageLayerGzip, platform.Architecture)
	config := ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("plain")}}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{layer}}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	if change != nil {
		change(&m, &config)
	}
	kind := m.Config.MediaType
	m.Config = b.add(kind, config)
	d := b.add(ocispec.MediaTypeImageManifest, m)
	d.Platform = &platform
	return d
}

func (b *box) tag(d ocispec.Descriptor, name string) {
	if name != "" {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	}
	b.index.Manifests = append(b.index.Manifests, d)
	content, err := json.Marshal(b.index)
	if err != nil {
		b.t.Fatal(err)
	}
	b.write(ocispec.ImageIndexFile, content)
}

func (b *box) find(end string) (publish.Container, error) {
	b.t.Helper()
	ref, err := registry.ParseReference("oci:" + b.folder + end)
	if err != nil {
		b.t.Fatal(err)
	}
	src, err := registry.Access{}.OpenPlace(b.t.Context(), ref)
	if err != nil {
		b.t.Fatal(err)
	}
	return publish.FindContainer(b.t.Context(), src, ref, "amd64")
}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func TestAContainerImageOfManyArchitectures(t *testing.T) {
	b := newBox(t)
	want := b.image(amd64, nil)
	index := b.add(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		b.image(ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil), b.image(ocispec.Platform{OS: "windows", Architecture: "amd64"}, nil), want,
	}})
	b.tag(index, "docker.io/library/debian:13")
	for _, end := range []string{"", "@" + index.Digest.String(), "@" + want.Digest.String()} {
		found, err := b.find(end)
		if err != nil || found.Manifest.Digest != want.Digest || len(found.Layers) != 1 || found.Plain[0] != digest.FromString("plain") {
			t.Errorf("%q: %+v, %v", end, found, err)
		}
	}
	b.tag(b.image(amd64, func(_ *ocispec.Manifest, c *ocispec.Image) { c.Author = "another" }), "12")
	if _, err := b.find(""); err == nil || !strings.Contains(err.Error(), "latest: not found") {
		t.Errorf("without a tag, of two: %v", err)
	}
	if found, err := b.find(":12"); err != nil || found.Manifest.Digest == want.Digest {
		t.Errorf("by a tag: %+v, %v", found, err)
	}
}

func TestWhatIsNoContainerImage(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(b *box) ocispec.Descriptor
		want string
	}{
		"of another architecture": {func(b *box) ocispec.Descriptor {
			return b.image(ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil)
		}, "it is for linux/arm64, and not for linux/amd64"},
		"for others alone": {func(b *box) ocispec.Descriptor {
			one, two := b.image(ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil), b.image(ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil)
			return b.add(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two}})
		}, `there is none for linux/amd64, but for ["linux/arm64" "linux/s390x"]`},
		"an artifact": {func(b *box) ocispec.Descriptor {
			return b.image(amd64, func(m *ocispec.Manifest, _ *ocispec.Image) { m.Config.MediaType = "application/vnd.x" })
		}, `an artifact of the type "application/vnd.x"`},
		"another layer": {func(b *box) ocispec.Descriptor {
			return b.image(amd64, func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType += "+encrypted" })
		}, "+encrypted"},
		"without layers": {func(b *box) ocispec.Descriptor {
			return b.image(amd64, func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers = nil })
		}, "0 layers"},
		"fewer plain ones": {func(b *box) ocispec.Descriptor {
			return b.image(amd64, func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = nil })
		}, "configuration has 0"},
		"a digest that is none": {func(b *box) ocispec.Descriptor {
			return b.image(amd64, func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../x" })
		}, "invalid checksum digest"},
		"a layer without size": {func(b *box) ocispec.Descriptor {
			return b.image(amd64, func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size = 0 })
		}, "has no size"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.tag(tc.make(b), "13")
			if _, err := b.find(":13"); fail.ExitCode(err) != 6 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// A manifest that was exchanged for another does not have its digest.
func TestAnExchangedManifest(t *testing.T) {
	b := newBox(t)
	d := b.image(amd64, nil)
	b.tag(d, "13")
	path := "blobs/sha256/" + d.Digest.Encoded()
	content, err := os.ReadFile(filepath.Join(b.folder, path))
	if err != nil {
		t.Fatal(err)
	}
	b.write(path, bytes.Replace(content, []byte(`"size":`), []byte(`"size": `), 1)[:len(content)])
	if _, err := b.find(":13"); err == nil {
		t.Error("it is taken")
	}
}
