package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	orasregistry "oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/limit"
	"github.com/btw-img/btw-img/publish/registry"
)

// Limits on what one image has.
const (
	mostReferrers   = 1000 // of one manifest
	mostManifests   = 1000 // in an index
	mostLayers      = 100  // of an attachment
	mostAnnotations = 1000 // of a manifest
)

// found is one disk, found by its reference.
type found struct {
	artifact.Image
	Reference registry.Reference
	Top       ocispec.Descriptor // what the reference names: an index or the leaf
	Release   string             // immutable tag, as the index says; may be empty
	Leaf      ocispec.Descriptor
}

// Selection is which of a release's disks is meant.
type Selection struct {
	Architecture string
	Format       string // "" for what the reference names
}

// ReadOptions is which image is read, and how.
type ReadOptions struct {
	Selection
	Retry registry.Retry
	Tell  registry.Tell // may be nil
}

// reader reads images from one place.
type reader struct {
	ctx       context.Context
	src       registry.Place
	retry     registry.Retry
	transfers *registry.Transfers
	held      *limit.Budget
}

func newReader(ctx context.Context, src registry.Place, retry registry.Retry, tell registry.Tell) reader {
	return reader{ctx: ctx, src: src, retry: retry, transfers: registry.NewTransfers(tell), held: &limit.Budget{}}
}

// openImage finds the image that a reference names, which is how everything that
// reads one begins.
func openImage(ctx context.Context, src registry.Place, ref registry.Reference, o ReadOptions) (reader, found, error) {
	r := newReader(ctx, src, o.Retry, o.Tell)
	image, err := r.find(ref, o.Selection)
	return r, image, err
}

func (r reader) do(op func() error) error { return r.retry.Do(r.ctx, nil, r.transfers.Note, op) }

func (r reader) resolve(name string) (desc ocispec.Descriptor, err error) {
	err = r.do(func() error {
		desc, err = r.src.Resolve(r.ctx, name)
		return err
	})
	return desc, err
}

func (r reader) json(d ocispec.Descriptor, into any) error {
	if err := r.held.Take(d.Digest.String(), d.Size); err != nil {
		return err
	}
	return r.do(func() error { return registry.FetchJSON(r.ctx, r.src, d, into) })
}

func (r reader) bytes(d ocispec.Descriptor) (content []byte, err error) {
	if err := r.held.Take(d.Digest.String(), d.Size); err != nil {
		return nil, err
	}
	err = r.do(func() error {
		content, err = registry.FetchAll(r.ctx, r.src, d, limit.Metadata)
		return err
	})
	return content, err
}

// manifest reads an image manifest, which is not larger than any sensible one.
func (r reader) manifest(d ocispec.Descriptor) (m ocispec.Manifest, err error) {
	if err := r.json(d, &m); err != nil {
		return m, err
	}
	of := d.Digest.String()
	return m, errors.Join(
		limit.AtMost("layers of "+of, int64(len(m.Layers)), mostLayers),
		limit.AtMost("annotations of "+of, int64(len(m.Annotations)), mostAnnotations))
}

func (r reader) index(d ocispec.Descriptor) (index ocispec.Index, err error) {
	if err := r.json(d, &index); err != nil {
		return index, err
	}
	return index, limit.AtMost("manifests in "+d.Digest.String(), int64(len(index.Manifests)), mostManifests)
}

// find resolves a reference to one disk.
func (r reader) find(ref registry.Reference, s Selection) (found, error) {
	if ref.Name == "" {
		ref.Name = "latest"
	}
	image := found{Reference: ref}
	var err error
	if image.Top, err = r.resolve(ref.Name); err != nil {
		return found{}, err
	}
	if image.Leaf, image.Release, err = r.leaf(ref, image.Top, s.Architecture); err != nil {
		return found{}, err
	}
	if image.Manifest, err = r.manifest(image.Leaf); err != nil {
		return found{}, err
	}
	if image.Disk, err = artifact.DiskOf(image.Manifest); err != nil {
		return found{}, fail.New(fail.Registry, ref.String(), "'oras pull' and 'skopeo copy' take artifacts of any kind", "it is no disk that vmctl pushed: %w", err)
	}
	if err := r.json(image.Manifest.Config, &image.Config); err != nil {
		return found{}, err
	}
	if s.Format != "" && s.Format != image.Config.Format {
		return r.otherFormat(ref, image, s)
	}
	return image, nil
}

// otherFormat looks for the tag of another format of the same release.
func (r reader) otherFormat(ref registry.Reference, image found, s Selection) (found, error) {
	name := ref.Name
	if image.Release != "" {
		name = image.Release // the same push, whatever the moving tags do meanwhile
	}
	if ref.IsDigest() && image.Release == "" {
		return found{}, fail.New(fail.Registry, ref.String(), "name a tag", "the digest names the format %s; others cannot be found by it", image.Config.Format)
	}
	other, err := r.find(ref.With(name+"-"+s.Format), Selection{Architecture: s.Architecture})
	if errors.Is(err, errdef.ErrNotFound) {
		return found{}, &fail.Error{Kind: fail.Registry, Op: ref.String(), Err: fmt.Errorf("%w: it was not pushed as %s, only as %s", err, s.Format, image.Config.Format), Hint: "pull it as it is and convert it with 'qemu-img convert'"}
	}
	return other, err
}

// leaf picks the manifest of the architecture.
func (r reader) leaf(ref registry.Reference, top ocispec.Descriptor, architecture string) (ocispec.Descriptor, string, error) {
	if top.MediaType != ocispec.MediaTypeImageIndex {
		return top, "", nil
	}
	index, err := r.index(top)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	var there []string
	for _, m := range index.Manifests {
		if m.Platform == nil {
			continue
		}
		if m.Platform.Architecture == architecture {
			return m, index.Annotations[ocispec.AnnotationVersion], nil
		}
		there = append(there, m.Platform.Architecture)
	}
	slices.Sort(there)
	return ocispec.Descriptor{}, "", fail.New(fail.Registry, ref.String(), "choose one with --arch", "there is no image for %s, only for %s", architecture, strings.Join(there, ", "))
}

// referrer is an attachment of a manifest, read.
type referrer struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
}

// attachments is what is attached to the image.
func (r reader) attachments(i found) ([]referrer, error) { return r.referrers(i.Leaf, i.leafTag()) }

// referrers is the attachments of a manifest: its referrers, or what the sibling
// tags name where the registry knows of no referrers. tag is the manifest's own
// tag, "" for unknown.
func (r reader) referrers(subject ocispec.Descriptor, tag string) ([]referrer, error) {
	descs, err := r.listReferrers(subject)
	switch registry.Status(err) {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		// no referrers here
	default:
		if err != nil {
			return nil, err
		}
	}
	if len(descs) == 0 && tag != "" {
		for _, kind := range artifact.Kinds() {
			desc, err := r.resolve(artifact.SiblingTag(tag, kind))
			if errors.Is(err, errdef.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			descs = append(descs, desc)
		}
	}
	var found []referrer
	for _, d := range descs {
		one := referrer{desc: d}
		if d.MediaType != ocispec.MediaTypeImageManifest {
			continue
		}
		if d.ArtifactType != "" && artifact.Kind(d.ArtifactType) == "" {
			continue // what others attach is theirs
		}
		if one.manifest, err = r.manifest(d); err != nil {
			return nil, err
		}
		if s := one.manifest.Subject; s != nil && s.Digest == subject.Digest {
			found = append(found, one)
		}
	}
	slices.SortFunc(found, func(a, b referrer) int {
		return strings.Compare(a.manifest.ArtifactType+a.desc.Digest.String(), b.manifest.ArtifactType+b.desc.Digest.String())
	})
	return found, nil
}

// listReferrers is what a place says that refers to a manifest.
func (r reader) listReferrers(subject ocispec.Descriptor) (descs []ocispec.Descriptor, err error) {
	lister, ok := r.src.(orasregistry.ReferrerLister)
	if !ok {
		descs, err = orasregistry.Referrers(r.ctx, r.src, subject, "")
		return descs, err
	}
	err = r.do(func() error {
		descs = nil
		return lister.Referrers(r.ctx, subject, "", func(some []ocispec.Descriptor) error {
			descs = append(descs, some...)
			return limit.AtMost("referrers of "+subject.Digest.String(), int64(len(descs)), mostReferrers)
		})
	})
	return descs, err
}

// leafTag is the leaf's own tag, as far as the index tells.
func (i found) leafTag() string {
	if i.Release == "" {
		return ""
	}
	return artifact.LeafTag(i.Release, i.Config.Architecture)
}
