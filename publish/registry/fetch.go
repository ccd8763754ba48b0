package registry

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/btw-img/btw-img/publish/limit"
)

// FetchAll is all bytes of a blob, compared with its descriptor. It is an error where it
// has more than most bytes.
func FetchAll(ctx context.Context, src content.Fetcher, d ocispec.Descriptor, most int64) ([]byte, error) {
	if err := limit.AtMost("bytes of "+d.Digest.String(), d.Size, most); err != nil {
		return nil, err
	}
	return content.FetchAll(ctx, src, d)
}

// FetchJSON is FetchAll for a manifest, an index or a config, and decodes it.
func FetchJSON(ctx context.Context, src content.Fetcher, d ocispec.Descriptor, into any) error {
	b, err := FetchAll(ctx, src, d, limit.Manifest)
	if err != nil {
		return err
	}
	if err := limit.Decode(b, into); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return nil
}
