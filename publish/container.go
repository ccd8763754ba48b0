package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/limit"
	"github.com/btw-img/btw-img/publish/registry"
)

// Container is a container image for one architecture.
type Container struct {
	Manifest ocispec.Descriptor
	Layers   []ocispec.Descriptor // the lowest first
	Plain    []digest.Digest      // of the layers once they are unpacked
}

// mostContainerLayers is of one image: overlays of container engines have at most 128.
const mostContainerLayers = 500

// FindContainer finds the container image that a reference means, whose index may offer it
// for several architectures. The error is a fail.Error of the registry or the host, or that
// of the context.
func FindContainer(ctx context.Context, src registry.Place, ref registry.Reference, architecture string) (Container, error) {
	r := newReader(ctx, src, registry.Retry{}, nil)
	found, err := r.container(ref, architecture)
	return found, registry.Explain(ref.String(), err)
}

func (r reader) container(ref registry.Reference, architecture string) (found Container, err error) {
	if found.Manifest, err = r.named(ref); err != nil {
		return found, err
	}
	for nested := 0; isIndex(found.Manifest.MediaType); nested++ {
		if found.Manifest, err = r.platform(found.Manifest, ref, architecture); err != nil {
			return found, err
		}
		if nested > 2 {
			return found, noContainer(ref, "an index that leads from one to the next")
		}
	}
	var manifest ocispec.Manifest
	if err := r.json(found.Manifest, &manifest); err != nil {
		return found, err
	}
	var config ocispec.Image
	switch manifest.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
		err = r.json(manifest.Config, &config)
	default:
		err = noContainer(ref, "an artifact of the type %q", manifest.ArtifactType+manifest.Config.MediaType)
	}
	if err != nil {
		return found, err
	}
	found.Layers, found.Plain = manifest.Layers, config.RootFS.DiffIDs
	return found, found.check(ref, config, architecture)
}

// named is what a reference names; without a tag, also the one image of a layout or archive,
// whatever other programs have called it there.
func (r reader) named(ref registry.Reference) (ocispec.Descriptor, error) {
	if store, local := r.src.(*registry.Store); local && ref.Name == "" {
		if only, is := store.Only(); is {
			return only, nil
		}
	}
	return r.resolve(cmp.Or(ref.Name, "latest"))
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func noContainer(ref registry.Reference, format string, args ...any) error {
	return fail.New(fail.Registry, ref.String(), "name a container image of Debian", "it is no container image, but "+format, args...)
}

// platform is what an index offers for Linux on the architecture.
func (r reader) platform(of ocispec.Descriptor, ref registry.Reference, architecture string) (ocispec.Descriptor, error) {
	index, err := r.index(of)
	if err != nil {
		return of, err
	}
	var offered []string
	for _, m := range index.Manifests {
		switch p := m.Platform; {
		case p == nil && len(index.Manifests) == 1:
			return m, nil
		case p == nil:
		case p.OS == "linux" && p.Architecture == architecture:
			return m, nil
		default:
			offered = append(offered, p.OS+"/"+p.Architecture)
		}
	}
	return of, fail.New(fail.Registry, ref.String(), "choose an image that is for it", "there is none for linux/%s, but for %q", architecture, offered)
}

// plainLayer is a layer that can be unpacked.
var plainLayer = regexp.MustCompile(`^application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+(gzip|zstd))?|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?)$`)

func (c Container) check(ref registry.Reference, config ocispec.Image, architecture string) error {
	if config.OS != "" && config.OS != "linux" || config.Architecture != "" && config.Architecture != architecture {
		return fail.New(fail.Registry, ref.String(), "choose an image that is for it", "it is for %s/%s, and not for linux/%s", config.OS, config.Architecture, architecture)
	}
	if err := limit.AtMost("layers of "+ref.String(), int64(len(c.Layers)), mostContainerLayers); err != nil {
		return err
	}
	if len(c.Layers) == 0 || len(c.Layers) != len(c.Plain) {
		return noContainer(ref, "something whose manifest has %d layers and whose configuration has %d", len(c.Layers), len(c.Plain))
	}
	var problems []error
	for i, layer := range c.Layers {
		problems = append(problems, layer.Digest.Validate(), c.Plain[i].Validate())
		if !plainLayer.MatchString(layer.MediaType) {
			problems = append(problems, noContainer(ref, "something with a layer of the type %q", layer.MediaType))
		}
		if layer.Size <= 0 {
			problems = append(problems, fmt.Errorf("layer %s has no size", layer.Digest))
		}
	}
	return errors.Join(problems...)
}
