package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"
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
		readAll(t, s, of)
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

// readAll reads all that there is in a layout.
func readAll(t *testing.T, s *Store, names ...digest.Digest) {
	t.Helper()
	tags, err := orasregistry.Tags(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		tags = append(tags, name.String())
	}
	for _, name := range tags {
		desc, err := s.Resolve(t.Context(), name)
		if err != nil {
			continue
		}
		if _, err := s.Predecessors(t.Context(), desc); err != nil {
			continue
		}
		if rc, err := s.Fetch(t.Context(), desc); err == nil {
			_, _ = io.Copy(io.Discard, rc)
			_ = rc.Close()
		}
	}
}
