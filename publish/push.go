package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
)

// PushOptions is how a release is pushed.
type PushOptions struct {
	Tag           string           // "" for the release's own: its version and latest
	ForceUntested bool             // publish what is not proved to boot; the annotations say so
	ContainerDisk bool             // also a container image for KubeVirt
	Signer        *artifact.Signer // nil: it is not signed
	Retry         registry.Retry
	Tell          registry.Tell // may be nil
}

// Pushed is what a push left in the repository.
type Pushed struct {
	Reference string        `json:"reference"` // with the immutable tag
	Digest    digest.Digest `json:"digest"`    // of the index
	Format    string        `json:"format"`
	Tags      []string      `json:"tags"`
	Uploaded  int64         `json:"uploaded"` // bytes of blobs that were sent for the whole push
}

// Push publishes a release: blobs first, then manifests, attachments and
// signatures, the immutable tags, and the moving ones last, so that a reader
// never sees half of it. What the repository has already is not sent again, and
// a build that is pushed again keeps its tags. The error is a fail.Error: of the kind
// Usage where the build is not whole, Boot where it is not proved to boot, else of the
// registry or the host; or it is that of the context.
func Push(ctx context.Context, dst oras.Target, ref registry.Reference, r artifact.Release, o PushOptions) ([]Pushed, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	if why := r.Untested(); why != "" && !o.ForceUntested {
		return nil, fail.New(fail.Boot, r.Folder, "build it with a boot test, or give --force-untested, which its annotations will tell", "not published: %s", why)
	}
	root, err := os.OpenRoot(r.Folder)
	if err != nil {
		return nil, registry.Explain(ref.String(), artifact.NotBuilt(err))
	}
	defer func() { _ = root.Close() }()
	p := &push{ctx: ctx, dst: dst, release: r, files: registry.FolderFS(root, "."), options: o, transfers: registry.NewTransfers(o.Tell)}
	pushed, err := p.run(ref)
	return pushed, registry.Explain(ref.String(), err)
}

type push struct {
	ctx       context.Context
	dst       oras.Target
	release   artifact.Release
	files     fs.FS // of the release
	options   PushOptions
	bundle    *artifact.Bundle
	transfers *registry.Transfers
}

func (p *push) run(ref registry.Reference) ([]Pushed, error) {
	bundle, leaves, err := artifact.Pack(p.ctx, p.release, p.files, p.options.ContainerDisk)
	if err != nil {
		return nil, err
	}
	p.bundle, bundle.Watch = bundle, p.watch
	before, err := p.indexesBefore(leaves)
	if err != nil {
		return nil, err
	}
	number, indexes, err := p.number(leaves, before)
	if err != nil {
		return nil, err
	}
	if err := p.sendLeaves(leaves); err != nil {
		return nil, err
	}
	var pushed []Pushed
	for i, l := range leaves {
		t := p.tags(l, number)
		if err := p.sendIndex(l, indexes[i], number); err != nil {
			return nil, err
		}
		pushed = append(pushed, Pushed{
			Reference: ref.With(t.Immutable).String(), Digest: indexes[i].Digest, Format: l.Format, Tags: append([]string{t.Immutable}, t.Moving...),
		})
	}
	for i, l := range leaves {
		for _, tag := range p.tags(l, number).Moving {
			if err := p.tag(indexes[i], tag); err != nil {
				return nil, err
			}
		}
	}
	for i := range pushed {
		pushed[i].Uploaded = p.transfers.Total()
	}
	return pushed, nil
}

// tags is the names of a leaf, as the n-th push of the day.
func (p *push) tags(l artifact.Leaf, n int) artifact.Tags {
	return p.release.Tags(p.options.Tag, l.Suffix, n)
}

// retry repeats op as the options say.
func (p *push) retry(op func() error) error {
	return p.options.Retry.Do(p.ctx, p.transfers.Moved, p.transfers.Note, op)
}

// indexesBefore is the index that each moving tag has now.
func (p *push) indexesBefore(leaves []artifact.Leaf) ([]ocispec.Index, error) {
	before := make([]ocispec.Index, len(leaves))
	for i, l := range leaves {
		tag := p.tags(l, 1).Moving[0]
		desc, err := p.resolve(tag)
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if desc.MediaType != ocispec.MediaTypeImageIndex {
			return nil, fail.New(fail.Registry, "tag "+tag, "push to another repository or tag", "it holds something else than an index: %s", desc.MediaType)
		}
		if err := p.retry(func() error { return registry.FetchJSON(p.ctx, p.dst, desc, &before[i]) }); err != nil {
			return nil, err
		}
	}
	return before, nil
}

func (p *push) resolve(tag string) (desc ocispec.Descriptor, err error) {
	err = p.retry(func() error {
		desc, err = p.dst.Resolve(p.ctx, tag)
		return err
	})
	return desc, err
}

// mostPushes is how many pushes of a day are looked through for a free number.
const mostPushes = 10000

// number finds the immutable tags: the first number of the day whose tags are
// all free, or hold just this release already.
func (p *push) number(leaves []artifact.Leaf, before []ocispec.Index) (int, []ocispec.Descriptor, error) {
	for n := 1; n < mostPushes; n++ {
		indexes := make([]ocispec.Descriptor, len(leaves))
		usable := true
		for i, l := range leaves {
			t := p.tags(l, n)
			index, err := p.bundle.Index(p.release, l, t.Immutable, before[i])
			if err != nil {
				return 0, nil, err
			}
			indexes[i] = index
			there, err := p.resolve(t.Immutable)
			if err != nil && !errors.Is(err, errdef.ErrNotFound) {
				return 0, nil, err
			}
			usable = usable && (err != nil || there.Digest == index.Digest)
		}
		if usable {
			return n, indexes, nil
		}
	}
	return 0, nil, fmt.Errorf("%d releases of this day are there already", mostPushes)
}

// sendLeaves sends the disks with their manifests, while the disks are compared
// with what the build said of them. Nothing is tagged before all of it is good.
func (p *push) sendLeaves(leaves []artifact.Leaf) error {
	checks, good := errgroup.WithContext(p.ctx)
	for _, d := range p.release.Disks {
		checks.Go(func() error { return p.release.CheckDisk(good, p.files, d) })
	}
	sending, ctx := errgroup.WithContext(good)
	sending.Go(func() error {
		for _, l := range leaves {
			if err := p.send(ctx, l.Manifest); err != nil {
				return err
			}
		}
		return nil
	})
	sent := sending.Wait()
	// A registry, too, notices that a disk is another one, and may say so first.
	return cmp.Or(checks.Wait(), sent)
}

// send copies a manifest and all that it needs.
func (p *push) send(ctx context.Context, root ocispec.Descriptor) error {
	ended := func(skipped bool) func(context.Context, ocispec.Descriptor) error {
		return func(_ context.Context, d ocispec.Descriptor) error {
			if !registry.IsManifestType(d.MediaType) {
				p.transfers.End(d, skipped)
			}
			return nil
		}
	}
	options := oras.CopyGraphOptions{PostCopy: ended(false), OnCopySkipped: ended(true)}
	return p.options.Retry.Do(ctx, p.transfers.Moved, p.transfers.Note, func() error {
		return oras.CopyGraph(ctx, p.bundle, p.dst, root, options)
	})
}

// sendIndex sends a leaf's attachments, its index and their signatures, and
// tags all of them but with the moving tags. The leaf and the index are tagged
// last: who finds them finds the rest.
func (p *push) sendIndex(l artifact.Leaf, index ocispec.Descriptor, number int) error {
	t := p.tags(l, number)
	attachments, there, err := p.attachments(l, number)
	if err != nil {
		return err
	}
	for _, a := range attachments {
		if !there {
			if err := p.send(p.ctx, a.Manifest); err != nil {
				return err
			}
		}
		if err := p.tag(a.Manifest, artifact.SiblingTag(t.Leaf, a.Kind)); err != nil {
			return err
		}
	}
	if p.options.Signer != nil {
		signature, err := p.sign(l, attachments)
		if err != nil {
			return err
		}
		if err := p.sendTagged(signature, t.Leaf); err != nil {
			return err
		}
	}
	if err := p.send(p.ctx, index); err != nil {
		return err
	}
	if p.options.Signer != nil {
		signature, err := p.bundle.Sign(p.options.Signer, p.release, index)
		if err != nil {
			return err
		}
		if err := p.sendTagged(signature, t.Immutable); err != nil {
			return err
		}
	}
	// Somebody else may have pushed in the meantime.
	if there, err := p.resolve(t.Immutable); err == nil && there.Digest != index.Digest {
		return fail.New(fail.Registry, "tag "+t.Immutable, "push again", "another push has just taken it")
	}
	if err := p.tag(l.Manifest, t.Leaf); err != nil {
		return err
	}
	return p.tag(index, t.Immutable)
}

// sign makes the signature over a leaf and its attachments.
func (p *push) sign(l artifact.Leaf, attachments []artifact.Attachment) (artifact.Attachment, error) {
	covered := []ocispec.Descriptor{l.Manifest}
	for _, a := range attachments {
		covered = append(covered, a.Manifest)
	}
	return p.bundle.Sign(p.options.Signer, p.release, covered...)
}

// attachments is those of a leaf, and whether the repository has them already, by one of
// the day's numbers: a rebuild has made the same image, and what proves the first one
// proves it, too. Who signs takes those alone that the same key has signed: others may be
// anybody's.
func (p *push) attachments(l artifact.Leaf, number int) (_ []artifact.Attachment, there bool, err error) {
	for n := number; n > 0; n-- {
		tag := p.tags(l, n).Leaf
		leaf, err := p.resolve(tag)
		if errors.Is(err, errdef.ErrNotFound) || err == nil && leaf.Digest != l.Manifest.Digest {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		var before []artifact.Attachment
		for _, a := range l.Attachments {
			desc, err := p.resolve(artifact.SiblingTag(tag, a.Kind))
			if err == nil {
				before = append(before, artifact.Attachment{Kind: a.Kind, Manifest: desc})
			} else if !errors.Is(err, errdef.ErrNotFound) {
				return nil, false, err
			}
		}
		if len(before) != len(l.Attachments) {
			continue
		}
		if signed, err := p.isSigned(l, before, tag); signed || err != nil {
			return before, true, err
		}
	}
	return l.Attachments, false, nil
}

// isSigned says whether the leaf's tag has the very signature that would be made over it
// and the attachments, where one is to be made.
func (p *push) isSigned(l artifact.Leaf, attachments []artifact.Attachment, tag string) (bool, error) {
	if p.options.Signer == nil {
		return true, nil
	}
	signature, err := p.sign(l, attachments)
	if err != nil {
		return false, err
	}
	there, err := p.resolve(artifact.SiblingTag(tag, signature.Kind))
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	return there.Digest == signature.Manifest.Digest, err
}

// sendTagged sends an attachment of what has that tag.
func (p *push) sendTagged(a artifact.Attachment, tag string) error {
	if err := p.send(p.ctx, a.Manifest); err != nil {
		return err
	}
	return p.tag(a.Manifest, artifact.SiblingTag(tag, a.Kind))
}

func (p *push) tag(d ocispec.Descriptor, tag string) error {
	if there, err := p.resolve(tag); err == nil && there.Digest == d.Digest {
		return nil
	}
	d = ocispec.Descriptor{MediaType: d.MediaType, ArtifactType: d.ArtifactType, Digest: d.Digest, Size: d.Size}
	return p.retry(func() error { return p.dst.Tag(p.ctx, d, tag) })
}

// watch measures a blob that is about to be sent.
func (p *push) watch(d ocispec.Descriptor, rc io.ReadCloser) io.ReadCloser {
	if registry.IsManifestType(d.MediaType) {
		return rc
	}
	return p.transfers.Meter(d, rc)
}
