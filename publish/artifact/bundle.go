package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Bundle is all that one push can send, as oras.land/oras-go/v2/content.ReadOnlyStorage:
// small blobs in memory, disks in their files.
type Bundle struct {
	Watch func(ocispec.Descriptor, io.ReadCloser) io.ReadCloser // sees what is sent; may be nil

	blobs map[digest.Digest]opener
}

type opener func() (io.ReadCloser, error)

func newBundle() *Bundle {
	b := &Bundle{blobs: map[digest.Digest]opener{}}
	b.bytes(ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data)
	return b
}

// Fetch implements content.Fetcher. It is errdef.ErrNotFound for what the bundle does
// not hold.
func (b *Bundle) Fetch(_ context.Context, target ocispec.Descriptor) (io.ReadCloser, error) {
	open, ok := b.blobs[target.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", target.Digest, errdef.ErrNotFound)
	}
	rc, err := open()
	if err == nil && b.Watch != nil {
		rc = b.Watch(target, rc)
	}
	return rc, err
}

// Exists implements content.ReadOnlyStorage.
func (b *Bundle) Exists(_ context.Context, target ocispec.Descriptor) (bool, error) {
	_, ok := b.blobs[target.Digest]
	return ok, nil
}

func (b *Bundle) bytes(mediaType string, content []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	b.blobs[d.Digest] = opener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	return d
}

// titled is bytes that "oras pull" writes to a file of that name.
func (b *Bundle) titled(name, mediaType string, content []byte) ocispec.Descriptor {
	d := b.bytes(mediaType, content)
	d.Annotations = map[string]string{ocispec.AnnotationTitle: name}
	return d
}

func (b *Bundle) file(open opener, d ocispec.Descriptor) ocispec.Descriptor {
	b.blobs[d.Digest] = open
	return d
}

func (b *Bundle) json(mediaType string, v any) (ocispec.Descriptor, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return b.bytes(mediaType, content), nil
}

// manifest adds an image manifest. Its descriptor carries the artifact type and
// annotations, as the referrers API gives them.
func (b *Bundle) manifest(m ocispec.Manifest) (ocispec.Descriptor, error) {
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = ocispec.MediaTypeImageManifest
	d, err := b.json(m.MediaType, m)
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return d, err
}

// attach adds a manifest that refers to the subject.
func (b *Bundle) attach(subject ocispec.Descriptor, artifactType string, annotations map[string]string, layers ...ocispec.Descriptor) (Attachment, error) {
	d, err := b.manifest(ocispec.Manifest{
		ArtifactType: artifactType, Config: ocispec.DescriptorEmptyJSON, Layers: layers,
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}, Annotations: annotations,
	})
	return Attachment{Kind(artifactType), d}, err
}
