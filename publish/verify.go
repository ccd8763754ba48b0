package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
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
	Key *Verifier // nil: signatures are not looked at
}

// Verify reads a disk and all that is attached to it, and checks that they
// belong together. The error is of the registry, or says that a check failed.
func Verify(ctx context.Context, src Place, ref Reference, o VerifyOptions) ([]Check, error) {
	checks, err := verify(ctx, src, ref, o)
	if err != nil {
		return checks, explain(ref.String(), err)
	}
	if slices.ContainsFunc(checks, func(c Check) bool { return c.Problem != "" }) {
		return checks, fail.New(fail.Registry, ref.String(), "do not use it; pull a release that verifies", "it does not verify")
	}
	return checks, nil
}

func verify(ctx context.Context, src Place, ref Reference, o VerifyOptions) ([]Check, error) {
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
	_, local := failedPath(err)
	if local || temporary(err, statusOf(err)) || errors.Is(err, context.Canceled) {
		return checks, err
	}
	check("disk "+image.Disk.Digest.String(), err)
	check("boot test", image.checkBoot(evidence))
	check("build record", image.checkBuild(evidence))
	check("checksums", image.checkSums(evidence))
	check("list of packages", image.checkSBOM(evidence))
	if o.Key != nil {
		check("signature", r.signedBy(image, attachments, o.Key))
	} else {
		checks = append(checks, Check{What: "signature", Skipped: "no key is given"})
	}
	return checks, nil
}

// disk reads the whole disk and compares it with its digest.
func (r reader) disk(image Image) error {
	return r.do(func() error {
		rc, err := r.src.Fetch(r.ctx, image.Disk)
		if err != nil {
			return err
		}
		r.transfers.start(image.Disk, 0)
		in := metered{rc, r.transfers, image.Disk}
		defer in.Close()
		digester := image.Disk.Digest.Algorithm().Digester()
		size, err := copyInto(r.ctx, digester.Hash(), in)
		if err != nil {
			return err
		}
		if size != image.Disk.Size || digester.Digest() != image.Disk.Digest {
			return fmt.Errorf("%w: it sends %d bytes with %s", errWrongBytes, size, digester.Digest())
		}
		r.transfers.end(image.Disk, false)
		return nil
	})
}

// evidence is what is attached to a leaf: file name → content.
type evidence map[string][]byte

func (r reader) evidence(attachments []referrer) (_ evidence, err error) {
	found := evidence{}
	fetched := map[digest.Digest][]byte{} // a blob may have many titles
	for _, one := range attachments {
		kind, ours := attachmentKinds[one.manifest.ArtifactType]
		if !ours || kind == "sig" {
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

const bootFile = "boot.json"

// sbomName is the file that the packages of a disk are listed in.
func sbomName(disk, format string) string {
	return strings.TrimSuffix(disk, "."+format) + ".spdx.json"
}

func (e evidence) json(name string, into any) error {
	content, ok := e[name]
	if !ok {
		return errors.New("none is attached")
	}
	if err := decode(content, into); err != nil {
		return fmt.Errorf("%s cannot be read: %w", name, err)
	}
	return nil
}

// checkBoot makes sure that the boot report speaks of these bytes, and that the
// disk came up on all that its config names.
func (i Image) checkBoot(e evidence) error {
	var report BootReport
	if err := e.json(bootFile, &report); err != nil {
		return err
	}
	if report.Subject.Digest != i.Disk.Digest {
		return fmt.Errorf("the report is of another disk: %s", report.Subject.Digest)
	}
	sameDisk := report.Booted.Digest == i.Disk.Digest || i.Config.RawDigest != "" && report.Booted.RawDigest == i.Config.RawDigest
	if !sameDisk {
		return fmt.Errorf("what was booted is another disk: %s", report.Booted.Digest)
	}
	if i.Config.Untested != "" || i.Manifest.Annotations[AnnotationUntested] != "" {
		return fmt.Errorf("it was pushed by force: %s", firstOf(i.Config.Untested, i.Manifest.Annotations[AnnotationUntested]))
	}
	var passed []string
	for _, result := range report.Results {
		if !result.Passed {
			return fmt.Errorf("it did not boot on %s: %s", result.Firmware, result.Problem)
		}
		if len(e[consoleName(result.Firmware)]) == 0 {
			return fmt.Errorf("the console of %s is missing", result.Firmware)
		}
		passed = append(passed, result.Firmware)
	}
	if len(passed) == 0 || !slices.Equal(passed, i.Config.Firmware) {
		return fmt.Errorf("it says that it booted on [%s], the report knows of [%s]", strings.Join(i.Config.Firmware, " "), strings.Join(passed, " "))
	}
	return nil
}

func (i Image) checkBuild(e evidence) error {
	var build struct {
		ID      string `json:"id"`
		Outputs []struct {
			SHA256 string `json:"sha256"`
		} `json:"outputs"`
	}
	if err := e.json(manifestName, &build); err != nil {
		return err
	}
	if build.ID != i.Config.Build {
		return fmt.Errorf("it is of the build %s, the disk of %s", build.ID, i.Config.Build)
	}
	for _, output := range build.Outputs {
		if output.SHA256 == i.Disk.Digest.Encoded() {
			return nil
		}
	}
	return errors.New("it does not list this disk")
}

func (i Image) checkSums(e evidence) error {
	sums, ok := e[checksumsName]
	if !ok {
		return errors.New("none are attached")
	}
	if sumOf(sums, i.Title()) != i.Disk.Digest {
		return fmt.Errorf("%s has another digest there", i.Title())
	}
	for name, content := range e {
		if want := sumOf(sums, name); want != "" && want != digest.FromBytes(content) {
			return fmt.Errorf("%s has another digest there", name)
		}
	}
	return nil
}

func (i Image) checkSBOM(e evidence) error {
	var doc struct {
		Packages []struct {
			FileName  string `json:"packageFileName"`
			Checksums []struct {
				Value string `json:"checksumValue"`
			} `json:"checksums"`
		} `json:"packages"`
	}
	if err := e.json(sbomName(i.Title(), i.Config.Format), &doc); err != nil {
		return err
	}
	for _, p := range doc.Packages {
		if p.FileName == i.Title() && len(p.Checksums) > 0 && p.Checksums[0].Value == i.Disk.Digest.Encoded() {
			return nil
		}
	}
	return errors.New("it speaks of another disk")
}

// signedBy checks that the key signed the leaf and all of its evidence, and the
// index where the reference names one. attachments is those of the leaf.
func (r reader) signedBy(image Image, attachments []referrer, key *Verifier) error {
	needed := []digest.Digest{image.Leaf.Digest}
	for _, a := range attachments {
		if kind := attachmentKinds[a.manifest.ArtifactType]; kind != "" && kind != "sig" {
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
func (r reader) covers(attachments []referrer, key *Verifier, needed []digest.Digest) error {
	problem := errors.New("it is not signed")
	for _, a := range attachments {
		if a.manifest.ArtifactType != artifactBundle || len(a.manifest.Layers) != 1 {
			continue
		}
		content, err := r.bytes(a.manifest.Layers[0])
		if err != nil {
			return err
		}
		signed, err := key.signedBy(content)
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
