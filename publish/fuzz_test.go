package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// FuzzParseReference reads what a user may write. What is read is written as it is
// read again.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{
		"registry.example/lab/debian:13", "localhost:5000/a@sha256:" + strings.Repeat("a", 64), "oci:images/oci/debian:13", "oci:a:b/", "oci:C:/x:y",
		"oci-archive:x.tar@sha256:" + strings.Repeat("0", 64), "oci:", "https://x/y", "a@b/c", "oci:\x1b", "[::1]:5000/x", "oci:./@sha256:zz", "a/b:\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(ref.String())
		if err != nil || again.String() != ref.String() {
			t.Errorf("%q is %q, which is %q, %v", s, ref, again, err)
		}
		if strings.ContainsFunc(ref.String(), unicode.IsControl) {
			t.Errorf("%q is shown with control characters", s)
		}
	})
}

// FuzzCheckFileName makes files of all names that are let through: each is a new file
// in the folder itself, and in a list of SHA256SUMS it is found.
func FuzzCheckFileName(f *testing.F) {
	for _, s := range []string{"debian.qcow2", "..", ".", "", "a/b", `a\b`, "/etc/passwd", "-o", "a\x00b", "a\nb", "\u202ea", " a", "a ", "…", strings.Repeat("x", 256), "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if files.CheckFileName(name) != nil {
			return
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "."+name+".0123456789abcdef.part"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "."+name+".0123456789abcdef.part"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if names := folderNames(t, dir); len(names) != 1 || names[0] != name {
			t.Errorf("%q makes %q", name, names)
		}
		want := digest.FromString(name)
		if got := sumOf([]byte(want.Encoded()+"  "+name+"\n"), name); got != want && strings.TrimSpace(name) == name {
			t.Errorf("%q is not found in its list: %q", name, got)
		}
	})
}

// FuzzStore reads layouts with any index.
func FuzzStore(f *testing.F) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`)
	of := digest.FromBytes(manifest)
	for _, s := range []string{
		`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + of.String() + `","size":104,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`,
		`{"manifests":[{"digest":"sha256:../../x","size":-1}]}`, `{"manifests":[{"digest":"x"}]}`, `{"manifests":[{},{}]}`, `[]`, ``, `null`, `{"manifests":null}`,
		`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + of.String() + `","size":9223372036854775807,"annotations":{"org.opencontainers.image.ref.name":"a b\n"}}]}`,
	} {
		f.Add([]byte(s), manifest)
	}
	f.Fuzz(func(t *testing.T, index, blob []byte) {
		of := digest.FromBytes(blob)
		s, err := OpenStore(fstest.MapFS{
			ocispec.ImageLayoutFile: {Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, ocispec.ImageIndexFile: {Data: index},
			"blobs/sha256/" + of.Encoded(): {Data: blob},
		})
		if err != nil {
			return
		}
		readAll(t, s, of.String())
		written, err := json.Marshal(s.encode())
		if err != nil {
			t.Fatal(err)
		}
		again, err := OpenStore(fstest.MapFS{ocispec.ImageLayoutFile: {Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, ocispec.ImageIndexFile: {Data: written}})
		if err != nil {
			t.Fatalf("what is written cannot be read: %v\n%s", err, written)
		}
		if rewritten, err := json.Marshal(again.encode()); err != nil || !bytes.Equal(rewritten, written) {
			t.Errorf("%s is written as %s, %v", written, rewritten, err)
		}
	})
}

// readAll reads all that there is in the ways of the verbs.
func readAll(t *testing.T, s *Store, names ...string) {
	t.Helper()
	tags, err := registry.Tags(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(tags, names...) {
		o := ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: Retry{Attempts: 1}}
		ref := Reference{kind: inLayout, path: "x", Name: name}
		_, _ = Inspect(t.Context(), s, ref, o)
		_, _ = Verify(t.Context(), s, ref, VerifyOptions{ReadOptions: o})
		IsRelease(t.Context(), s, name)
		if desc, err := s.Resolve(t.Context(), name); err == nil {
			if _, err := s.Predecessors(t.Context(), desc); err != nil {
				continue
			}
		}
	}
}

// FuzzPull pulls an image with any manifest, config and title. Whatever they are,
// nothing appears outside the folder.
func FuzzPull(f *testing.F) {
	disk := []byte("disk")
	config := []byte(`{"name":"debian","format":"qcow2","architecture":"amd64"}`)
	manifest := func(title string) []byte {
		content, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
			Config: ocispec.Descriptor{MediaType: MediaTypeConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
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
		s, err := OpenStore(files)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, s)
		outer := t.TempDir()
		pulled, err := Pull(context.Background(), s, Reference{kind: inLayout, path: "x", Name: "latest"}, PullOptions{
			ReadOptions: ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: Retry{Attempts: 1}}, Folder: filepath.Join(outer, "in"),
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
