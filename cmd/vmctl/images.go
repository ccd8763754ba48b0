package main

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/download"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

// containerImages gets container images for builds, with the credentials of docker login and
// its kin.
type containerImages struct{}

func (containerImages) place(ctx context.Context, reference string) (registry.Reference, registry.Place, error) {
	ref, err := registry.ParseReference(reference)
	if err != nil {
		return ref, nil, err
	}
	access, err := (&registryFlags{}).access(nil)
	if err != nil {
		return ref, nil, err
	}
	src, err := access.OpenPlace(ctx, ref)
	return ref, src, err
}

// Resolve implements orchestrator.Images.
func (c containerImages) Resolve(ctx context.Context, reference, architecture string) (orchestrator.Pinned, error) {
	ref, src, err := c.place(ctx, reference)
	if err != nil {
		return orchestrator.Pinned{}, err
	}
	found, err := publish.FindContainer(ctx, src, ref, architecture)
	if err != nil {
		return orchestrator.Pinned{}, err
	}
	pinned := orchestrator.Pinned{Digest: found.Manifest.Digest.String()}
	for i, layer := range found.Layers {
		pinned.Files = append(pinned.Files, orchestrator.PinnedFile{
			Name: "layer-" + layer.Digest.Encoded()[:12], Digest: layer.Digest.String(), Size: layer.Size, Plain: found.Plain[i].String(),
		})
	}
	return pinned, nil
}

// Open implements orchestrator.Images.
func (c containerImages) Open(reference string, layer orchestrator.PinnedFile) download.Opener {
	return func(ctx context.Context, from int64, _ string) (download.Content, error) {
		ref, src, err := c.place(ctx, reference)
		if err != nil {
			return download.Content{}, err
		}
		blob := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.Digest(layer.Digest), Size: layer.Size}
		content, err := src.Fetch(ctx, blob)
		if err != nil {
			return download.Content{}, explained(ref, err)
		}
		opened := download.Content{ReadCloser: explaining{content, ref}, Size: layer.Size}
		if seeker, can := content.(io.Seeker); can && from > 0 {
			if _, err := seeker.Seek(from, io.SeekStart); err != nil {
				return download.Content{}, errors.Join(explained(ref, err), content.Close())
			}
			opened.From = from
		}
		return opened, nil
	}
}

// explained is a failure of a registry with where it was, and whether it may pass.
func explained(ref registry.Reference, err error) error {
	if registry.Temporary(err) {
		return download.Passing(registry.Explain(ref.String(), err))
	}
	return registry.Explain(ref.String(), err)
}

// explaining reads what a registry sends.
type explaining struct {
	io.ReadCloser
	ref registry.Reference
}

func (e explaining) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = explained(e.ref, err)
	}
	return n, err
}
