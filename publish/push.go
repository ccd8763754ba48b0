package publish

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// PushOptions is how a release is pushed.
type PushOptions struct {
	Tag           string // "" for the release's own: its version and latest
	ForceUntested bool   // publish what is not proved to boot; the annotations say so
	ContainerDisk bool   // also a container image for KubeVirt
	Signer        *Signer
	Retry         Retry
	Tell          Tell
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
// a build that is pushed again keeps its tags.
func Push(ctx context.Context, dst oras.Target, ref Reference, r Release, o PushOptions) ([]Pushed, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if why := r.untested(); why != "" && !o.ForceUntested {
		return nil, fail.New(fail.Boot, r.Folder, "build it with a boot test, or give --force-untested, which its annotations will tell", "not published: %s", why)
	}
	p := &push{ctx: ctx, dst: dst, release: r, options: o, bundle: newBundle(), transfers: newTransfers(o.Tell)}
	p.bundle.read = p.watch
	pushed, err := p.run(ref)
	return pushed, explain(ref.String(), err)
}

type push struct {
	ctx       context.Context
	dst       oras.Target
	release   Release
	options   PushOptions
	bundle    *bundle
	transfers *transfers
}

func (p *push) run(ref Reference) ([]Pushed, error) {
	leaves, err := pack(p.ctx, p.bundle, p.release, p.options.ContainerDisk)
	if err != nil {
		return nil, err
	}
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
		t := p.release.tagsOf(p.options.Tag, l.suffix, number)
		if err := p.sendIndex(l, indexes[i], t); err != nil {
			return nil, err
		}
		pushed = append(pushed, Pushed{
			Reference: ref.With(t.immutable).String(), Digest: indexes[i].Digest, Format: p.format(i), Tags: append([]string{t.immutable}, t.moving...),
		})
	}
	for i, l := range leaves {
		for _, tag := range p.release.tagsOf(p.options.Tag, l.suffix, number).moving {
			if err := p.tag(indexes[i], tag); err != nil {
				return nil, err
			}
		}
	}
	for i := range pushed {
		pushed[i].Uploaded = p.transfers.total()
	}
	return pushed, nil
}

func (p *push) format(i int) string {
	if i < len(p.release.Disks) {
		return p.release.Disks[i].Format
	}
	return formatContainerDisk
}

// retry repeats op as the options say.
func (p *push) retry(op func() error) error {
	return p.options.Retry.do(p.ctx, p.transfers.moved, p.transfers.note, op)
}

// indexesBefore is the index that each moving tag has now.
func (p *push) indexesBefore(leaves []leaf) ([]ocispec.Index, error) {
	before := make([]ocispec.Index, len(leaves))
	for i, l := range leaves {
		moving := p.release.tagsOf(p.options.Tag, l.suffix, 1).moving
		desc, err := p.resolve(moving[0])
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if desc.MediaType != ocispec.MediaTypeImageIndex {
			return nil, fail.New(fail.Registry, "tag "+moving[0], "push to another repository or tag", "it holds something else than an index: %s", desc.MediaType)
		}
		if err := p.retry(func() error { return fetchJSON(p.ctx, p.dst, desc, &before[i]) }); err != nil {
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
func (p *push) number(leaves []leaf, before []ocispec.Index) (int, []ocispec.Descriptor, error) {
	for n := 1; n < mostPushes; n++ {
		indexes := make([]ocispec.Descriptor, len(leaves))
		usable := true
		for i, l := range leaves {
			t := p.release.tagsOf(p.options.Tag, l.suffix, n)
			index, err := p.bundle.index(p.release, l, t.immutable, before[i])
			if err != nil {
				return 0, nil, err
			}
			indexes[i] = index
			there, err := p.resolve(t.immutable)
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
func (p *push) sendLeaves(leaves []leaf) error {
	group, ctx := errgroup.WithContext(p.ctx)
	for _, d := range p.release.Disks {
		group.Go(func() error { return p.release.sameBytes(ctx, d) })
	}
	group.Go(func() error {
		for _, l := range leaves {
			if err := p.send(ctx, l.desc); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// send copies a manifest and all that it needs.
func (p *push) send(ctx context.Context, root ocispec.Descriptor) error {
	ended := func(skipped bool) func(context.Context, ocispec.Descriptor) error {
		return func(_ context.Context, d ocispec.Descriptor) error {
			if !isManifest(d) {
				p.transfers.end(d, skipped)
			}
			return nil
		}
	}
	options := oras.CopyGraphOptions{PostCopy: ended(false), OnCopySkipped: ended(true)}
	return p.options.Retry.do(ctx, p.transfers.moved, p.transfers.note, func() error {
		return oras.CopyGraph(ctx, p.bundle, p.dst, root, options)
	})
}

// sendIndex sends a leaf's attachments, its index and their signatures, and
// tags all of them but with the moving tags. The leaf and the index are tagged
// last: who finds them finds the rest.
func (p *push) sendIndex(l leaf, index ocispec.Descriptor, t tags) error {
	attachments := l.attachments
	if p.options.Signer != nil {
		covered := []ocispec.Descriptor{l.desc}
		for _, a := range attachments {
			covered = append(covered, a.desc)
		}
		signature, err := p.bundle.sign(p.options.Signer, p.release.created(), covered...)
		if err != nil {
			return err
		}
		attachments = append(attachments, attachment{"sig", signature})
	}
	for _, a := range attachments {
		if err := p.sendTagged(a.desc, t.leaf+"."+a.kind); err != nil {
			return err
		}
	}
	if err := p.send(p.ctx, index); err != nil {
		return err
	}
	if p.options.Signer != nil {
		signature, err := p.bundle.sign(p.options.Signer, p.release.created(), index)
		if err != nil {
			return err
		}
		if err := p.sendTagged(signature, t.immutable+".sig"); err != nil {
			return err
		}
	}
	// Somebody else may have pushed in the meantime.
	if there, err := p.resolve(t.immutable); err == nil && there.Digest != index.Digest {
		return fail.New(fail.Registry, "tag "+t.immutable, "push again", "another push has just taken it")
	}
	if err := p.tag(l.desc, t.leaf); err != nil {
		return err
	}
	return p.tag(index, t.immutable)
}

func (p *push) sendTagged(d ocispec.Descriptor, tag string) error {
	if err := p.send(p.ctx, d); err != nil {
		return err
	}
	return p.tag(d, tag)
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
	if isManifest(d) {
		return rc
	}
	p.transfers.start(d, 0)
	return metered{rc, p.transfers, d}
}

func isManifest(d ocispec.Descriptor) bool {
	return d.MediaType == ocispec.MediaTypeImageManifest || d.MediaType == ocispec.MediaTypeImageIndex
}

// sameBytes compares a disk with what the build said of it.
func (r Release) sameBytes(ctx context.Context, d Disk) error {
	file, err := r.open(d.Name)
	if err != nil {
		return notBuilt(err)
	}
	defer file.Close()
	digester := digest.SHA256.Digester()
	size, err := copyInto(ctx, digester.Hash(), file)
	if err != nil {
		return err
	}
	if size != d.Size || digester.Digest() != d.Digest {
		return changed(r.path(d.Name), d.Digest)
	}
	return nil
}

// copyInto copies all of in, until the context ends.
func copyInto(ctx context.Context, out io.Writer, in io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{out}, files.UntilDone(ctx, in), make([]byte, copyBuffer))
}
