package artifact_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/artifact/artifacttest"
)

func read(t *testing.T, b *artifact.Bundle, d ocispec.Descriptor) []byte {
	t.Helper()
	all, err := content.FetchAll(t.Context(), b, d)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestManifests pins the shape that consumers rely on: what a push leaves of
// each kind, without the digests, which differ with every byte.
func TestManifests(t *testing.T) {
	r, files := artifacttest.New(1)
	r.Disks = r.Disks[:1]
	b, leaves, err := artifact.Pack(t.Context(), r, files, true)
	if err != nil {
		t.Fatal(err)
	}
	index, err := b.Index(r, leaves[0], "13-20260102.1", ocispec.Index{})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	show := func(title string, d ocispec.Descriptor) {
		t.Helper()
		var indented bytes.Buffer
		if err := json.Indent(&indented, read(t, b, d), "", "  "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "# %s\n%s\n\n", title, &indented)
	}
	show("index 13-20260102.1", index)
	show("leaf 13-20260102.1-amd64", leaves[0].Manifest)
	for _, a := range leaves[0].Attachments {
		show("attachment 13-20260102.1-amd64."+a.Kind, a.Manifest)
	}
	show("leaf 13-20260102.1-containerdisk-amd64", leaves[1].Manifest)
	digests := regexp.MustCompile(`sha256:[0-9a-f]{64}|"size": [0-9]+`)
	golden.Equal(t, "manifests.txt", digests.ReplaceAllStringFunc(all.String(), func(s string) string {
		if s == ocispec.DescriptorEmptyJSON.Digest.String() {
			return s
		}
		name, _, _ := strings.Cut(s, ":")
		return name + ": …"
	}))
}

func TestSBOM(t *testing.T) {
	r, files := artifacttest.New(1)
	b, leaves, err := artifact.Pack(t.Context(), r, files, false)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(read(t, b, leaves[0].Attachments[0].Manifest), &m); err != nil {
		t.Fatal(err)
	}
	if title := m.Layers[0].Annotations[ocispec.AnnotationTitle]; m.ArtifactType != "application/spdx+json" || title != "debian-13-amd64.spdx.json" {
		t.Errorf("the first attachment is %s, %s", m.ArtifactType, title)
	}
	content := read(t, b, m.Layers[0])
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
