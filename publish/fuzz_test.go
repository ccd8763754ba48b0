package publish

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
)

// readAll reads all that there is in the ways of the verbs.
func readAll(t *testing.T, s *registry.Store, names ...string) {
	t.Helper()
	tags, err := orasregistry.Tags(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(tags, names...) {
		o := ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: registry.Retry{Attempts: 1}}
		ref := layoutRef(t, name)
		_, _ = Inspect(t.Context(), s, ref, o)
		_, _ = Verify(t.Context(), s, ref, VerifyOptions{ReadOptions: o})
		IsRelease(t.Context(), s, name)
	}
}

func layoutRef(t *testing.T, name string) registry.Reference {
	t.Helper()
	ref, err := registry.Layout("x", name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// FuzzInspect reads layouts with any index in the ways of the verbs.
func FuzzInspect(f *testing.F) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`)
	of := digest.FromBytes(manifest).String()
	for _, s := range []string{
		`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + of + `","size":104,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`,
		`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + of + `","size":104,"annotations":{"org.opencontainers.image.ref.name":"a b\n"}}]}`,
	} {
		f.Add([]byte(s), manifest)
	}
	f.Fuzz(func(t *testing.T, index, blob []byte) {
		of := digest.FromBytes(blob)
		s, err := registry.OpenStore(fstest.MapFS{
			ocispec.ImageLayoutFile: {Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, ocispec.ImageIndexFile: {Data: index},
			"blobs/sha256/" + of.Encoded(): {Data: blob},
		})
		if err == nil {
			readAll(t, s, of.String())
		}
	})
}

// FuzzPull pulls an image with any manifest, config and title. Whatever they are,
// nothing appears outside the folder.
func FuzzPull(f *testing.F) {
	disk := []byte("disk")
	config := []byte(`{"name":"debian","format":"qcow2","architecture":"amd64"}`)
	manifest := func(title string) []byte {
		content, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifact.ArtifactType,
			Config: ocispec.Descriptor{MediaType: artifact.MediaTypeConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
			Layers: []ocispec.Descriptor{{Digest: digest.FromBytes(disk), Size: int64(len(disk)), Annotations: map[string]string{ocispec.AnnotationTitle: title}}},
		})
		if err != nil {
			f.Fatal(err)
		}
		return content
	}
	for _, title := range []string{"debian.qcow2", "../x", "/etc/passwd", ".part", "a\nb", ""} {
		f.Add(manifest(title), false)
		f.Add([]byte(`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"platform":{"architecture":"amd64"},"digest":"sha256:`+strings.Repeat("0", 64)+`","size":2}],"annotations":{"org.opencontainers.image.version":"`+strings.TrimSpace(title)+`"}}`), true)
	}
	f.Fuzz(func(t *testing.T, content []byte, index bool) {
		files := fstest.MapFS{ocispec.ImageLayoutFile: {Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
		for _, blob := range [][]byte{disk, config, content} {
			files["blobs/sha256/"+digest.FromBytes(blob).Encoded()] = &fstest.MapFile{Data: blob}
		}
		mediaType := ocispec.MediaTypeImageManifest
		if index {
			mediaType = ocispec.MediaTypeImageIndex
		}
		top, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{
			MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content)), Annotations: map[string]string{ocispec.AnnotationRefName: "latest"},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		files[ocispec.ImageIndexFile] = &fstest.MapFile{Data: top}
		s, err := registry.OpenStore(files)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, s)
		outer := t.TempDir()
		pulled, err := Pull(context.Background(), s, layoutRef(t, "latest"), PullOptions{
			ReadOptions: ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: registry.Retry{Attempts: 1}}, Folder: filepath.Join(outer, "in"),
		})
		if err == nil && filepath.Dir(pulled.Path) != filepath.Join(outer, "in") {
			t.Errorf("pulled to %q", pulled.Path)
		}
		for _, name := range folderNames(t, outer) {
			if name != "in" {
				t.Errorf("%q appears beside the folder", name)
			}
		}
	})
}
