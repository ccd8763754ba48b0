package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/btw-img/btw-img/publish/limit"
)

const (
	largestIndex = 16 << 20 // bytes of a layout's index.json
	mostEntries  = 100000   // of an archive, or of a layout's index
)

// Store is an OCI image layout (image-spec 1.1) that may hold anything: what is read of it is
// limited, and only what fs.FS opens is read. It is an oras.ReadOnlyGraphTarget and
// lists tags and referrers.
type Store struct {
	fsys fs.FS

	mu        sync.Mutex
	index     ocispec.Index                          // without its manifests
	tags      map[string]ocispec.Descriptor          // by what names them in the index
	manifests map[digest.Digest]ocispec.Descriptor   // all that the index names
	referrers map[digest.Digest][]ocispec.Descriptor // by subject; nil before they are asked for
}

// OpenStore reads the index of a layout. What it lacks is an fs.ErrNotExist.
func OpenStore(fsys fs.FS) (*Store, error) {
	s := newStore(fsys)
	if err := s.checkVersion(); err != nil {
		return nil, err
	}
	return s, s.readIndex()
}

func newStore(fsys fs.FS) *Store {
	return &Store{
		fsys: fsys, tags: map[string]ocispec.Descriptor{}, manifests: map[digest.Digest]ocispec.Descriptor{},
		index: ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex},
	}
}

func (s *Store) checkVersion() error {
	var version ocispec.ImageLayout
	err := s.readJSON(ocispec.ImageLayoutFile, 4<<10, &version)
	if err == nil && version.Version != ocispec.ImageLayoutVersion {
		err = fmt.Errorf("%s: %w: %q", ocispec.ImageLayoutFile, errdef.ErrUnsupportedVersion, version.Version)
	}
	return err
}

func (s *Store) readJSON(name string, most int64, into any) error {
	b, err := limit.ReadFile(s.fsys, name, most)
	if err != nil {
		return err
	}
	if err := limit.Decode(b, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (s *Store) readIndex() error {
	if err := s.readJSON(ocispec.ImageIndexFile, largestIndex, &s.index); err != nil {
		return err
	}
	manifests := s.index.Manifests
	s.index.Manifests = nil
	if err := limit.AtMost("manifests of "+ocispec.ImageIndexFile, int64(len(manifests)), mostEntries); err != nil {
		return err
	}
	for _, d := range manifests {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
		name := d.Annotations[ocispec.AnnotationRefName]
		d.Annotations = maps.Clone(d.Annotations)
		delete(d.Annotations, ocispec.AnnotationRefName)
		s.note(d, name)
	}
	return nil
}

// note remembers a manifest that the index names, with its tag or "".
func (s *Store) note(d ocispec.Descriptor, tag string) {
	if tag != "" {
		s.tags[tag] = d
	}
	s.manifests[d.Digest] = d
	s.referrers = nil
}

// blobName is the file of a blob. Its folder and it have no other names than those
// that a digest can have.
func blobName(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: %q", errdef.ErrInvalidDigest, d.String())
	}
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// Open opens a blob. Nobody has compared it with its digest.
func (s *Store) Open(d digest.Digest) (fs.File, error) {
	name, err := blobName(d)
	if err != nil {
		return nil, err
	}
	file, err := s.fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d, errdef.ErrNotFound)
	}
	return file, err
}

// Fetch implements content.Fetcher.
func (s *Store) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return s.Open(d.Digest)
}

// Exists implements content.ReadOnlyStorage.
func (s *Store) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	file, err := s.Open(d.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, file.Close()
}

// Resolve implements content.Resolver. A digest that the index does not name may be
// that of a manifest or of any blob.
func (s *Store) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	d, known := s.tags[reference]
	if !known {
		d, known = s.manifests[digest.Digest(reference)]
	}
	s.mu.Unlock()
	if known {
		return d, nil
	}
	if err := digest.Digest(reference).Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", reference, errdef.ErrNotFound)
	}
	return s.describe(ctx, digest.Digest(reference))
}

// Only is the one manifest that the index names, where it names no other.
func (s *Store) Only() (only ocispec.Descriptor, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, only = range s.manifests {
	}
	return only, len(s.manifests) == 1
}

// describe finds out what a blob is.
func (s *Store) describe(ctx context.Context, of digest.Digest) (ocispec.Descriptor, error) {
	file, err := s.Open(of)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	info, err := file.Stat()
	if err := errors.Join(err, file.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: of, Size: info.Size()}
	var m manifestOfAnyKind
	if d.Size <= limit.Manifest && FetchJSON(ctx, s, d, &m) == nil {
		d.MediaType = cmp.Or(m.kind(), d.MediaType)
	}
	return d, nil
}

// manifestOfAnyKind is what tells the kinds of manifests apart. The image
// specification lets them leave out their media type.
type manifestOfAnyKind struct {
	MediaType string          `json:"mediaType"`
	Manifests json.RawMessage `json:"manifests"`
	Config    json.RawMessage `json:"config"`
	Layers    json.RawMessage `json:"layers"`
}

// kind is the media type, "" for what is no manifest.
func (m manifestOfAnyKind) kind() string {
	switch {
	case IsManifestType(m.MediaType):
		return m.MediaType
	case m.MediaType != "":
		return ""
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case m.Config != nil && m.Layers != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

// IsManifestType says whether a media type is that of a manifest of OCI or Docker.
func IsManifestType(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	}
	return false
}

// Tags implements registry.TagLister. Names that are no tags are left out: they are
// no part of any reference.
func (s *Store) Tags(_ context.Context, last string, fn func([]string) error) error {
	s.mu.Lock()
	var names []string
	for name := range s.tags {
		if name > last && validTag.MatchString(name) {
			names = append(names, name)
		}
	}
	s.mu.Unlock()
	slices.Sort(names)
	return fn(names)
}

// Referrers implements registry.ReferrerLister.
func (s *Store) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string, fn func([]ocispec.Descriptor) error) error {
	all, err := s.Predecessors(ctx, subject)
	if err != nil {
		return err
	}
	var found []ocispec.Descriptor
	for _, d := range all {
		if artifactType == "" || d.ArtifactType == artifactType {
			found = append(found, d)
		}
	}
	return fn(found)
}

// Predecessors implements content.PredecessorFinder for subjects alone: the
// manifests in the index that refer to this one.
func (s *Store) Predecessors(ctx context.Context, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.referrers == nil {
		found, err := s.findReferrers(ctx)
		if err != nil {
			return nil, err
		}
		s.referrers = found
	}
	return s.referrers[subject.Digest], nil
}

func (s *Store) findReferrers(ctx context.Context) (map[digest.Digest][]ocispec.Descriptor, error) {
	found := map[digest.Digest][]ocispec.Descriptor{}
	var held limit.Budget
	for _, of := range slices.Sorted(maps.Keys(s.manifests)) {
		d := s.manifests[of]
		if d.MediaType != ocispec.MediaTypeImageManifest {
			continue
		}
		var m ocispec.Manifest
		if err := FetchJSON(ctx, s, d, &m); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if err != nil || m.Subject == nil {
			continue // one that is damaged takes nothing from the others
		}
		d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
		if d.ArtifactType == "" {
			d.ArtifactType = m.Config.MediaType
		}
		for key, value := range m.Annotations {
			if err := held.Take(d.Digest.String(), int64(len(key)+len(value))); err != nil {
				return nil, err
			}
		}
		found[m.Subject.Digest] = append(found[m.Subject.Digest], d)
	}
	return found, nil
}

// encode is the index as it is to be written.
func (s *Store) encode() ocispec.Index {
	s.mu.Lock()
	defer s.mu.Unlock()
	index := s.index
	index.Manifests = []ocispec.Descriptor{}
	tagged := map[digest.Digest]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		d := s.tags[name]
		tagged[d.Digest] = true
		d.Annotations = maps.Clone(d.Annotations)
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[ocispec.AnnotationRefName] = name
		index.Manifests = append(index.Manifests, d)
	}
	for _, of := range slices.Sorted(maps.Keys(s.manifests)) {
		if !tagged[of] {
			index.Manifests = append(index.Manifests, s.manifests[of])
		}
	}
	return index
}
