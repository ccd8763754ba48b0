package publish

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
)

// Inspection is all that is known of a disk without reading it.
type Inspection struct {
	Reference   string            `json:"reference"`
	Release     string            `json:"release,omitempty"` // immutable tag
	Index       digest.Digest     `json:"index,omitempty"`
	Manifest    digest.Digest     `json:"manifest"`
	Config      artifact.Config   `json:"config"`
	Disk        InspectedFile     `json:"disk"`
	Formats     []string          `json:"formats"` // all that the release was pushed as
	Annotations map[string]string `json:"annotations,omitempty"`
	Boots       []artifact.Boot   `json:"boots"`
	Packages    []debian.Package  `json:"packages"`
	Attached    []Attached        `json:"attached"`

	// Files is the attached files: name → content.
	Files map[string][]byte `json:"-"`
}

// InspectedFile is a file in the registry.
type InspectedFile struct {
	Name   string        `json:"name"`
	Size   int64         `json:"size"` // bytes
	Digest digest.Digest `json:"digest"`
}

// Attached is one attachment.
type Attached struct {
	ArtifactType string          `json:"artifact_type"`
	Digest       digest.Digest   `json:"digest"` // of its manifest
	Files        []InspectedFile `json:"files"`
}

// tagFormats is the suffixes that other formats of a release may have.
var tagFormats = append(diskformat.Written(), artifact.FormatContainerDisk)

// Inspect tells of a disk and what is attached to it. The error is a fail.Error of the
// registry or the host, or that of the context.
func Inspect(ctx context.Context, src registry.Place, ref registry.Reference, o ReadOptions) (Inspection, error) {
	inspection, err := inspect(ctx, src, ref, o)
	return inspection, registry.Explain(ref.String(), err)
}

func inspect(ctx context.Context, src registry.Place, ref registry.Reference, o ReadOptions) (Inspection, error) {
	r, image, err := openImage(ctx, src, ref, o)
	if err != nil {
		return Inspection{}, err
	}
	in := Inspection{
		Reference: image.Reference.String(), Release: image.Release, Manifest: image.Leaf.Digest, Config: image.Config,
		Disk: inspected(image.Disk), Formats: []string{image.Config.Format}, Annotations: image.Manifest.Annotations,
	}
	if image.Top.Digest != image.Leaf.Digest {
		in.Index = image.Top.Digest
	}
	if image.Release != "" {
		for _, format := range tagFormats {
			_, err := r.resolve(image.Release + "-" + format)
			if err == nil {
				in.Formats = append(in.Formats, format)
			} else if !errors.Is(err, errdef.ErrNotFound) {
				return Inspection{}, err
			}
		}
	}
	referrers, err := r.attachments(image)
	if err != nil {
		return Inspection{}, err
	}
	for _, one := range referrers {
		attached := Attached{ArtifactType: one.manifest.ArtifactType, Digest: one.desc.Digest}
		for _, layer := range one.manifest.Layers {
			attached.Files = append(attached.Files, inspected(layer))
		}
		in.Attached = append(in.Attached, attached)
	}
	evidence, err := r.evidence(referrers)
	if err != nil {
		return Inspection{}, err
	}
	in.Files, in.Boots, in.Packages = evidence, evidence.Boots(), evidence.Packages()
	return in, nil
}

func inspected(d ocispec.Descriptor) InspectedFile {
	return InspectedFile{Name: d.Annotations[ocispec.AnnotationTitle], Size: d.Size, Digest: d.Digest}
}

// FileNames is the names of the attached files, sorted.
func (in Inspection) FileNames() []string { return slices.Sorted(maps.Keys(in.Files)) }

// Architectures is what a reference offers images for, as its index says.
func Architectures(ctx context.Context, src registry.Place, name string) ([]string, error) {
	index, err := indexOf(ctx, src, name)
	if err != nil {
		return nil, err
	}
	var architectures []string
	for _, m := range index.Manifests {
		if m.Platform != nil {
			architectures = append(architectures, m.Platform.Architecture)
		}
	}
	return architectures, nil
}

// IsRelease says whether a name is that of a release of disks.
func IsRelease(ctx context.Context, src registry.Place, name string) bool {
	index, err := indexOf(ctx, src, name)
	return err == nil && index.ArtifactType == artifact.ArtifactType
}

func indexOf(ctx context.Context, src registry.Place, name string) (index ocispec.Index, err error) {
	r := newReader(ctx, src, registry.Retry{Attempts: 1}, nil)
	top, err := r.resolve(name)
	if err != nil || top.MediaType != ocispec.MediaTypeImageIndex {
		return index, err
	}
	return r.index(top)
}
