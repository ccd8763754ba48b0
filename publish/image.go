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
	"oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Image is one disk in a registry, found by its reference.
type Image struct {
	Reference Reference
	Top       ocispec.Descriptor // what the reference names: an index or the leaf
	Release   string             // immutable tag, as the index says; may be empty
	Leaf      ocispec.Descriptor
	Manifest  ocispec.Manifest
	Config    Config
	Disk      ocispec.Descriptor
}

// Title is the file name of the disk.
func (i Image) Title() string { return i.Disk.Annotations[ocispec.AnnotationTitle] }

// Selection is which of a release's disks is meant.
type Selection struct {
	Architecture string
	Format       string // "" for what the reference names
}

// ReadOptions is which image is read, and how.
type ReadOptions struct {
	Selection
	Retry Retry
	Tell  Tell
}

// reader reads images from one place.
type reader struct {
	ctx       context.Context
	src       Place
	retry     Retry
	transfers *transfers
	held      *budget
}

func newReader(ctx context.Context, src Place, retry Retry, tell Tell) reader {
	return reader{ctx: ctx, src: src, retry: retry, transfers: newTransfers(tell), held: &budget{}}
}

// openImage finds the image that a reference names, which is how everything that
// reads one begins.
func openImage(ctx context.Context, src Place, ref Reference, o ReadOptions) (reader, Image, error) {
	r := newReader(ctx, src, o.Retry, o.Tell)
	image, err := r.find(ref, o.Selection)
	return r, image, err
}

func (r reader) do(op func() error) error { return r.retry.do(r.ctx, nil, r.transfers.note, op) }

func (r reader) resolve(name string) (desc ocispec.Descriptor, err error) {
	err = r.do(func() error {
		desc, err = r.src.Resolve(r.ctx, name)
		return err
	})
	return desc, err
}

func (r reader) json(d ocispec.Descriptor, into any) error {
	if err := r.held.take(d.Digest.String(), d.Size); err != nil {
		return err
	}
	return r.do(func() error { return fetchJSON(r.ctx, r.src, d, into) })
}

func (r reader) bytes(d ocispec.Descriptor) (content []byte, err error) {
	if err := r.held.take(d.Digest.String(), d.Size); err != nil {
		return nil, err
	}
	err = r.do(func() error {
		content, err = verified(r.ctx, r.src, d, largestMetadata)
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
		atMost("layers of "+of, int64(len(m.Layers)), mostLayers),
		atMost("annotations of "+of, int64(len(m.Annotations)), mostAnnotations))
}

func (r reader) index(d ocispec.Descriptor) (index ocispec.Index, err error) {
	if err := r.json(d, &index); err != nil {
		return index, err
	}
	return index, atMost("manifests in "+d.Digest.String(), int64(len(index.Manifests)), mostManifests)
}

// find resolves a reference to one disk.
func (r reader) find(ref Reference, s Selection) (Image, error) {
	if ref.Name == "" {
		ref.Name = "latest"
	}
	image := Image{Reference: ref}
	var err error
	if image.Top, err = r.resolve(ref.Name); err != nil {
		return Image{}, err
	}
	if image.Leaf, image.Release, err = r.leaf(ref, image.Top, s.Architecture); err != nil {
		return Image{}, err
	}
	if image.Manifest, err = r.manifest(image.Leaf); err != nil {
		return Image{}, err
	}
	if err := image.read(r); err != nil {
		return Image{}, err
	}
	if s.Format != "" && s.Format != image.Config.Format {
		return r.otherFormat(ref, image, s)
	}
	return image, nil
}

// otherFormat looks for the tag of another format of the same release.
func (r reader) otherFormat(ref Reference, image Image, s Selection) (Image, error) {
	name := ref.Name
	if image.Release != "" {
		name = image.Release // the same push, whatever the moving tags do meanwhile
	}
	if ref.digest() && image.Release == "" {
		return Image{}, fail.New(fail.Registry, ref.String(), "name a tag", "the digest names the format %s; others cannot be found by it", image.Config.Format)
	}
	other, err := r.find(ref.With(name+"-"+s.Format), Selection{Architecture: s.Architecture})
	if errors.Is(err, errdef.ErrNotFound) {
		return Image{}, &fail.Error{Kind: fail.Registry, Op: ref.String(), Err: fmt.Errorf("%w: it was not pushed as %s, only as %s", err, s.Format, image.Config.Format), Hint: "pull it as it is and convert it with 'qemu-img convert'"}
	}
	return other, err
}

// leaf picks the manifest of the architecture.
func (r reader) leaf(ref Reference, top ocispec.Descriptor, architecture string) (ocispec.Descriptor, string, error) {
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

// read makes sure that the manifest is one of ours, since what it says decides
// what is written where.
func (i *Image) read(r reader) error {
	foreign := func(problem string) error {
		return fail.New(fail.Registry, i.Reference.String(), "'oras pull' and 'skopeo copy' take artifacts of any kind", "it is no disk that vmctl pushed: %s", problem)
	}
	m := i.Manifest
	switch {
	case m.ArtifactType != ArtifactType || m.Config.MediaType != MediaTypeConfig:
		return foreign("its type is " + firstOf(m.ArtifactType, m.Config.MediaType))
	case len(m.Layers) != 1:
		return foreign(fmt.Sprintf("it has %d layers", len(m.Layers)))
	}
	i.Disk = m.Layers[0]
	if err := files.CheckFileName(i.Title()); err != nil {
		return foreign(err.Error())
	}
	if err := i.Disk.Digest.Validate(); err != nil || i.Disk.Size < 0 {
		return foreign("its layer has no digest")
	}
	return r.json(m.Config, &i.Config)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return "unknown"
}

// referrer is an attachment of a manifest, read.
type referrer struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
}

// attachmentKinds is the ends of sibling tags, by artifact type.
var attachmentKinds = map[string]string{
	artifactSBOM: "sbom", artifactBoot: "boot", artifactBuild: "build", artifactChecksums: "sums", artifactBundle: "sig",
}

// attachments is what is attached to the image.
func (r reader) attachments(i Image) ([]referrer, error) { return r.referrers(i.Leaf, i.leafTag()) }

// referrers is the attachments of a manifest: its referrers, or what the sibling
// tags name where the registry knows of no referrers. tag is the manifest's own
// tag, "" for unknown.
func (r reader) referrers(subject ocispec.Descriptor, tag string) ([]referrer, error) {
	descs, err := r.listReferrers(subject)
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		// no referrers here
	default:
		if err != nil {
			return nil, err
		}
	}
	if len(descs) == 0 && tag != "" {
		for _, kind := range attachmentKinds {
			desc, err := r.resolve(tag + "." + kind)
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
		if _, ours := attachmentKinds[d.ArtifactType]; d.ArtifactType != "" && !ours {
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
	lister, ok := r.src.(registry.ReferrerLister)
	if !ok {
		descs, err = registry.Referrers(r.ctx, r.src, subject, "")
		return descs, err
	}
	err = r.do(func() error {
		descs = nil
		return lister.Referrers(r.ctx, subject, "", func(some []ocispec.Descriptor) error {
			descs = append(descs, some...)
			return atMost("referrers of "+subject.Digest.String(), int64(len(descs)), mostReferrers)
		})
	})
	return descs, err
}

// leafTag is the leaf's own tag, as far as the index tells.
func (i Image) leafTag() string {
	if i.Release == "" {
		return ""
	}
	return i.Release + "-" + i.Config.Architecture
}
