package publish

import (
	"context"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
)

// PullOptions is how a disk is pulled.
type PullOptions struct {
	ReadOptions
	Folder    string             // gets the disk
	Owner     files.Owner        // of the disk, and of the folder where there was none
	Overwrite bool               // replace a file that holds something else
	Key       *artifact.Verifier // refuse what it did not sign; may be nil
}

// Pulled is a disk that was pulled.
type Pulled struct {
	Path      string        `json:"path"`
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"` // of the manifest
	Release   string        `json:"release,omitempty"`
	Disk      digest.Digest `json:"disk"`
	Size      int64         `json:"size"`
	Received  int64         `json:"received"` // bytes that were transferred
	Signed    bool          `json:"signed"`   // by the key that was given
}

// Pull writes a disk to a folder. Under its name it appears whole and verified,
// or not at all; what an interrupted pull has received is used by the next one. The error
// is a fail.Error that says whose fault it is, or that of the context.
func Pull(ctx context.Context, src registry.Place, ref registry.Reference, o PullOptions) (Pulled, error) {
	if err := files.Trusted(o.Folder); err != nil {
		return Pulled{}, err
	}
	pulled, err := pull(ctx, src, ref, o)
	if err != nil {
		return Pulled{}, registry.Explain(ref.String(), err)
	}
	return pulled, nil
}

func pull(ctx context.Context, src registry.Place, ref registry.Reference, o PullOptions) (Pulled, error) {
	r, image, err := openImage(ctx, src, ref, o.ReadOptions)
	if err != nil {
		return Pulled{}, err
	}
	if o.Key != nil {
		attachments, err := r.attachments(image)
		if err == nil {
			err = r.signedBy(image, attachments, o.Key)
		}
		if err != nil {
			return Pulled{}, err
		}
	}
	received, err := registry.Download{
		From: src, Of: ref, Blob: image.Disk, Holes: image.Disk.MediaType == artifact.MediaTypeLayer+diskformat.Raw,
		Folder: o.Folder, Name: image.Title(), Owner: o.Owner, Overwrite: o.Overwrite, Retry: o.Retry, Transfers: r.transfers,
	}.Run(ctx)
	if err != nil {
		return Pulled{}, err
	}
	return Pulled{
		Path: filepath.Join(o.Folder, image.Title()), Reference: image.Reference.String(), Digest: image.Leaf.Digest, Release: image.Release,
		Disk: image.Disk.Digest, Size: image.Disk.Size, Received: received, Signed: o.Key != nil,
	}, nil
}
