package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
)

// Check is one thing that was verified.
type Check struct {
	What    string `json:"what"`
	Problem string `json:"problem,omitempty"` // "" where all is well
	Skipped string `json:"skipped,omitempty"` // why it was not looked at
}

// VerifyOptions is what is verified.
type VerifyOptions struct {
	ReadOptions
	Key *artifact.Verifier // nil: signatures are not looked at
}

// Verify reads a disk and all that is attached to it, and checks that they
// belong together. The error is of the registry, or says that a check failed.
func Verify(ctx context.Context, src registry.Place, ref registry.Reference, o VerifyOptions) ([]Check, error) {
	checks, err := verify(ctx, src, ref, o)
	if err != nil {
		return checks, registry.Explain(ref.String(), err)
	}
	if slices.ContainsFunc(checks, func(c Check) bool { return c.Problem != "" }) {
		return checks, fail.New(fail.Registry, ref.String(), "do not use it; pull a release that verifies", "it does not verify")
	}
	return checks, nil
}

func verify(ctx context.Context, src registry.Place, ref registry.Reference, o VerifyOptions) ([]Check, error) {
	r, image, err := openImage(ctx, src, ref, o.ReadOptions)
	if err != nil {
		return nil, err
	}
	attachments, err := r.attachments(image)
	if err != nil {
		return nil, err
	}
	evidence, err := r.evidence(attachments)
	if err != nil {
		return nil, err
	}
	checks := []Check{{What: "manifest " + image.Leaf.Digest.String()}}
	check := func(what string, err error) {
		c := Check{What: what}
		if err != nil {
			c.Problem = err.Error()
		}
		checks = append(checks, c)
	}
	err = r.disk(image)
	if registry.IsLocal(err) || registry.Temporary(err) || errors.Is(err, context.Canceled) {
		return checks, err
	}
	check("disk "+image.Disk.Digest.String(), err)
	check("boot test", image.CheckBoot(evidence))
	check("build record", image.CheckBuild(evidence))
	check("checksums", image.CheckSums(evidence))
	check("list of packages", image.CheckSBOM(evidence))
	if o.Key != nil {
		check("signature", r.signedBy(image, attachments, o.Key))
	} else {
		checks = append(checks, Check{What: "signature", Skipped: "no key is given"})
	}
	return checks, nil
}

// disk reads the whole disk and compares it with its digest.
func (r reader) disk(image found) error {
	return r.do(func() error {
		rc, err := r.src.Fetch(r.ctx, image.Disk)
		if err != nil {
			return err
		}
		in := r.transfers.Meter(image.Disk, rc)
		defer in.Close()
		digester := image.Disk.Digest.Algorithm().Digester()
		size, err := files.Copy(r.ctx, digester.Hash(), in)
		if err != nil {
			return err
		}
		if size != image.Disk.Size || digester.Digest() != image.Disk.Digest {
			return fmt.Errorf("%w: it sends %d bytes with %s", registry.ErrWrongBytes, size, digester.Digest())
		}
		r.transfers.End(image.Disk, false)
		return nil
	})
}

// evidence is the files of the attachments.
func (r reader) evidence(attachments []referrer) (_ artifact.Evidence, err error) {
	found := artifact.Evidence{}
	fetched := map[digest.Digest][]byte{} // a blob may have many titles
	for _, one := range attachments {
		if !artifact.IsEvidence(one.manifest.ArtifactType) {
			continue
		}
		for _, layer := range one.manifest.Layers {
			title := layer.Annotations[ocispec.AnnotationTitle]
			if err := files.CheckFileName(title); err != nil {
				return nil, fmt.Errorf("attached to the image: %w", err)
			}
			content, there := fetched[layer.Digest]
			if !there {
				if content, err = r.bytes(layer); err != nil {
					return nil, err
				}
				fetched[layer.Digest] = content
			}
			found[title] = content
		}
	}
	return found, nil
}

// signedBy checks that the key signed the leaf and all of its evidence, and the
// index where the reference names one. attachments is those of the leaf.
func (r reader) signedBy(image found, attachments []referrer, key *artifact.Verifier) error {
	needed := []digest.Digest{image.Leaf.Digest}
	for _, a := range attachments {
		if artifact.IsEvidence(a.manifest.ArtifactType) {
			needed = append(needed, a.desc.Digest)
		}
	}
	if err := r.covers(attachments, key, needed); err != nil {
		return err
	}
	if image.Top.Digest == image.Leaf.Digest {
		return nil
	}
	ofIndex, err := r.referrers(image.Top, image.Release)
	if err != nil {
		return err
	}
	return r.covers(ofIndex, key, []digest.Digest{image.Top.Digest})
}

// covers looks among the attachments for one signature over all that is needed.
func (r reader) covers(attachments []referrer, key *artifact.Verifier, needed []digest.Digest) error {
	problem := errors.New("it is not signed")
	for _, a := range attachments {
		if artifact.Kind(a.manifest.ArtifactType) != artifact.KindSignature || len(a.manifest.Layers) != 1 {
			continue
		}
		content, err := r.bytes(a.manifest.Layers[0])
		if err != nil {
			return err
		}
		signed, err := key.Signed(content)
		if err != nil {
			problem = err
			continue
		}
		missing := slices.IndexFunc(needed, func(d digest.Digest) bool { return !slices.Contains(signed, d) })
		if missing < 0 {
			return nil
		}
		problem = fmt.Errorf("the signature does not cover %s", needed[missing])
	}
	return fail.New(fail.Registry, "", "do not use it, or give the key of those who pushed it", "%s: %w", "signature", problem)
}
