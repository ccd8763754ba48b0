package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// leaf is one format of a release, packed.
type leaf struct {
	suffix      string // of the tags: "" or "-FORMAT"
	desc        ocispec.Descriptor
	attachments []attachment
}

// attachment is a referrer of a leaf; kind is the end of its sibling tag.
type attachment struct {
	kind string
	desc ocispec.Descriptor
}

// pack makes the leaves of a release. It is a pure function of the release and
// its files, so an unchanged build gives the same digests again.
func pack(ctx context.Context, b *bundle, r Release, containerDisk bool) ([]leaf, error) {
	files, err := readFiles(r)
	if err != nil {
		return nil, err
	}
	var leaves []leaf
	for i, d := range r.Disks {
		suffix := ""
		if i > 0 {
			suffix = "-" + d.Format
		}
		l, err := packDisk(b, r, d, suffix, files)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, l)
	}
	if containerDisk {
		desc, err := packContainerDisk(ctx, b, r)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf{suffix: "-" + formatContainerDisk, desc: desc})
	}
	return leaves, nil
}

func packDisk(b *bundle, r Release, d Disk, suffix string, files map[string][]byte) (leaf, error) {
	config, err := b.json(MediaTypeConfig, Config{
		Name: r.Name, Build: r.BuildID, Created: r.Created, Architecture: r.Architecture, OS: "linux", Version: r.Version,
		Format: d.Format, VirtualSize: d.VirtualSize, RawDigest: r.RawDigest, Firmware: r.bootedOn(), Untested: r.untested(),
	})
	if err != nil {
		return leaf{}, err
	}
	layer := b.file(func() (io.ReadCloser, error) { return r.open(d.Name) }, ocispec.Descriptor{
		MediaType: mediaTypeLayer + d.Format, Digest: d.Digest, Size: d.Size,
		Annotations: map[string]string{ocispec.AnnotationTitle: d.Name},
	})
	desc, err := b.manifest(ocispec.Manifest{
		ArtifactType: ArtifactType, Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: r.annotations(d.Name),
	})
	if err != nil {
		return leaf{}, err
	}
	l := leaf{suffix: suffix, desc: desc}
	l.attachments, err = packAttachments(b, r, d, desc, files)
	return l, err
}

func packAttachments(b *bundle, r Release, d Disk, subject ocispec.Descriptor, files map[string][]byte) ([]attachment, error) {
	sbom, err := sbom(r, d)
	if err != nil {
		return nil, err
	}
	report, err := json.MarshalIndent(BootReport{
		Build: r.BuildID, Created: r.Created, Tool: r.Tool,
		Subject: Subject{Name: d.Name, Digest: d.Digest, RawDigest: r.RawDigest},
		Booted:  Subject{Name: r.Disks[0].Name, Digest: r.Disks[0].Digest, RawDigest: r.RawDigest},
		Results: r.Boots,
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	boot := []ocispec.Descriptor{b.titled(bootFile, mediaTypeBootReport, report)}
	for _, result := range r.Boots {
		name := consoleName(result.Firmware)
		if content, ok := files[name]; ok {
			boot = append(boot, b.titled(name, mediaTypeText, content))
		}
	}
	build := []ocispec.Descriptor{b.titled(manifestName, mediaTypeJSON, files[manifestName]), b.titled(packagesName, mediaTypeJSON, files[packagesName])}
	var attachments []attachment
	for _, a := range []struct {
		kind, artifactType string
		layers             []ocispec.Descriptor
	}{
		{"sbom", artifactSBOM, []ocispec.Descriptor{b.titled(sbomName(d.Name, d.Format), artifactSBOM, sbom)}},
		{"boot", artifactBoot, boot},
		{"build", artifactBuild, build},
		{"sums", artifactChecksums, []ocispec.Descriptor{b.titled(checksumsName, mediaTypeText, files[checksumsName])}},
	} {
		desc, err := b.attach(subject, a.artifactType, r.created(), a.layers...)
		if err != nil {
			return nil, err
		}
		attachments = append(attachments, attachment{a.kind, desc})
	}
	return attachments, nil
}

// index is the index of a reference: this release's leaf, and the leaves of
// other architectures in the index that the moving tag had before.
func (b *bundle) index(r Release, l leaf, version string, before ocispec.Index) (ocispec.Descriptor, error) {
	own := ocispec.Descriptor{
		MediaType: l.desc.MediaType, ArtifactType: l.desc.ArtifactType, Digest: l.desc.Digest, Size: l.desc.Size,
		Platform: &ocispec.Platform{OS: "linux", Architecture: r.Architecture},
	}
	manifests := []ocispec.Descriptor{own}
	for _, other := range before.Manifests {
		if other.Platform != nil && other.Platform.Architecture != r.Architecture {
			manifests = append(manifests, other)
		}
	}
	annotations := r.annotations("")
	annotations[ocispec.AnnotationVersion] = version
	delete(annotations, ocispec.AnnotationTitle)
	return b.json(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: l.desc.ArtifactType, Manifests: manifests, Annotations: annotations,
	})
}

func (r Release) created() map[string]string {
	return map[string]string{ocispec.AnnotationCreated: r.Created.UTC().Format(time.RFC3339)}
}

// annotations is the OCI annotations of the release. A Debian image is under
// the licences of all its packages, which only the SBOM can tell one by one.
func (r Release) annotations(title string) map[string]string {
	a := r.created()
	a[ocispec.AnnotationTitle] = title
	a[ocispec.AnnotationVersion] = strings.TrimPrefix(r.Version+"-"+r.Created.UTC().Format("20060102"), "-")
	a[ocispec.AnnotationLicenses] = "LicenseRef-Debian"
	if r.Description != "" {
		a[ocispec.AnnotationDescription] = r.Description
	}
	if why := r.untested(); why != "" {
		a[AnnotationUntested] = why
	}
	maps.Copy(a, r.Annotations)
	return a
}

func consoleName(firmware string) string { return "boot-" + firmware + ".log" }

// readFiles reads the files to attach and compares them with SHA256SUMS, so
// that what is published is what the build left.
func readFiles(r Release) (map[string][]byte, error) {
	sums, err := r.read(checksumsName)
	if err != nil {
		return nil, notBuilt(err)
	}
	files := map[string][]byte{checksumsName: sums}
	names := []string{manifestName, packagesName}
	for _, boot := range r.Boots {
		names = append(names, consoleName(boot.Firmware))
	}
	for _, name := range names {
		content, err := r.read(name)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, ".log") && r.untested() != "" {
			continue
		}
		if err != nil {
			return nil, notBuilt(err)
		}
		if want := sumOf(sums, name); want != digest.FromBytes(content) {
			return nil, changed(r.path(name), want)
		}
		files[name] = content
	}
	for _, d := range r.Disks {
		if want := sumOf(sums, d.Name); want != d.Digest {
			return nil, changed(r.path(d.Name), want)
		}
	}
	return files, nil
}

// sumOf is the digest that a file of sha256sum(1) gives for the name, or "".
func sumOf(sums []byte, name string) digest.Digest {
	for line := range strings.Lines(string(sums)) {
		if sum, ok := strings.CutSuffix(strings.TrimSpace(line), "  "+name); ok {
			return digest.NewDigestFromEncoded(digest.SHA256, sum)
		}
	}
	return ""
}

// notBuilt is the failure to open a file of a build.
func notBuilt(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "build it again"}
	}
	return asLocal(err)
}

func changed(path string, want digest.Digest) error {
	problem := "it is not the file that the build left"
	if want == "" {
		problem = fmt.Sprintf("%s does not list it", checksumsName)
	}
	return fail.New(fail.Usage, path, "build it again; an image is published as it was tested", "%s", problem)
}
