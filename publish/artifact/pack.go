package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/publish/limit"
)

// Leaf is one format of a release, packed.
type Leaf struct {
	Format      string
	Suffix      string             // of the tags: "" or "-FORMAT"
	Manifest    ocispec.Descriptor // of the disk
	Attachments []Attachment
}

// Attachment is a referrer of a leaf or an index.
type Attachment struct {
	Kind     string // the end of its sibling tag
	Manifest ocispec.Descriptor
}

// Pack makes the leaves of a release, and the bundle that holds all of them. Both are a
// pure function of the release and its files, so an unchanged build gives the same
// digests again. With containerDisk, the last leaf is a container image. A file that is
// not there or not as the build left it is a fail.Usage error. The disks themselves are
// compared by CheckDisk, for instance while they are sent.
func Pack(ctx context.Context, r Release, from fs.FS, containerDisk bool) (*Bundle, []Leaf, error) {
	files, err := readFiles(r, from)
	if err != nil {
		return nil, nil, err
	}
	b := newBundle()
	var leaves []Leaf
	for i, d := range r.Disks {
		suffix := ""
		if i > 0 {
			suffix = "-" + d.Format
		}
		open := func() (io.ReadCloser, error) { return from.Open(d.Name) }
		l, err := packDisk(b, r, d, open, files)
		if err != nil {
			return nil, nil, err
		}
		l.Suffix = suffix
		leaves = append(leaves, l)
	}
	if containerDisk {
		desc, err := packContainerDisk(ctx, b, r, from)
		if err != nil {
			return nil, nil, err
		}
		leaves = append(leaves, Leaf{Format: FormatContainerDisk, Suffix: "-" + FormatContainerDisk, Manifest: desc})
	}
	return b, leaves, nil
}

func packDisk(b *Bundle, r Release, d Disk, open opener, files map[string][]byte) (Leaf, error) {
	config, err := b.json(MediaTypeConfig, Config{
		Name: r.Name, Build: r.BuildID, Created: r.Created, Architecture: r.Architecture, OS: "linux", Version: r.Version,
		Format: d.Format, VirtualSize: d.VirtualSize, RawDigest: r.RawDigest, Firmware: r.bootedOn(), Untested: r.Untested(),
	})
	if err != nil {
		return Leaf{}, err
	}
	layer := b.file(open, ocispec.Descriptor{
		MediaType: MediaTypeLayer + d.Format, Digest: d.Digest, Size: d.Size,
		Annotations: map[string]string{ocispec.AnnotationTitle: d.Name},
	})
	desc, err := b.manifest(ocispec.Manifest{
		ArtifactType: ArtifactType, Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: r.annotations(d.Name),
	})
	if err != nil {
		return Leaf{}, err
	}
	l := Leaf{Format: d.Format, Manifest: desc}
	l.Attachments, err = packAttachments(b, r, d, desc, files)
	return l, err
}

func packAttachments(b *Bundle, r Release, d Disk, subject ocispec.Descriptor, files map[string][]byte) ([]Attachment, error) {
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
	boot := []ocispec.Descriptor{b.titled(bootName, mediaTypeBootReport, report)}
	for _, result := range r.Boots {
		name := consoleName(result.Firmware)
		if content, ok := files[name]; ok {
			boot = append(boot, b.titled(name, mediaTypeText, content))
		}
	}
	build := []ocispec.Descriptor{b.titled(buildName, mediaTypeJSON, files[buildName]), b.titled(packagesName, mediaTypeJSON, files[packagesName])}
	if content, ok := files[reportName]; ok {
		build = append(build, b.titled(reportName, mediaTypeHTML, content))
	}
	var attachments []Attachment
	for _, a := range []struct {
		artifactType string
		layers       []ocispec.Descriptor
	}{
		{artifactSBOM, []ocispec.Descriptor{b.titled(sbomName(d.Name, d.Format), artifactSBOM, sbom)}},
		{artifactBoot, boot},
		{artifactBuild, build},
		{artifactChecksums, []ocispec.Descriptor{b.titled(checksumsName, mediaTypeText, files[checksumsName])}},
	} {
		one, err := b.attach(subject, a.artifactType, r.created(), a.layers...)
		if err != nil {
			return nil, err
		}
		attachments = append(attachments, one)
	}
	return attachments, nil
}

// Index adds the index of a reference: this release's leaf, and the leaves of
// other architectures in the index that the moving tag had before. version is the
// immutable tag.
func (b *Bundle) Index(r Release, l Leaf, version string, before ocispec.Index) (ocispec.Descriptor, error) {
	own := ocispec.Descriptor{
		MediaType: l.Manifest.MediaType, ArtifactType: l.Manifest.ArtifactType, Digest: l.Manifest.Digest, Size: l.Manifest.Size,
		Platform: &ocispec.Platform{OS: "linux", Architecture: r.Architecture},
	}
	manifests := []ocispec.Descriptor{own}
	for _, other := range before.Manifests {
		if other.Platform != nil && other.Platform.Architecture != r.Architecture {
			manifests = append(manifests, other)
		}
	}
	slices.SortStableFunc(manifests, func(a, b ocispec.Descriptor) int { // whoever was pushed last
		return strings.Compare(a.Platform.Architecture, b.Platform.Architecture)
	})
	annotations := r.annotations("")
	annotations[ocispec.AnnotationVersion] = version
	delete(annotations, ocispec.AnnotationTitle)
	return b.json(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: l.Manifest.ArtifactType, Manifests: manifests, Annotations: annotations,
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
	if why := r.Untested(); why != "" {
		a[AnnotationUntested] = why
	}
	maps.Copy(a, r.Annotations)
	return a
}

func consoleName(firmware string) string { return "boot-" + firmware + ".log" }

// readFiles reads the files to attach and compares them with SHA256SUMS, so
// that what is published is what the build left.
func readFiles(r Release, from fs.FS) (map[string][]byte, error) {
	sums, err := limit.ReadFile(from, checksumsName, limit.Metadata)
	if err != nil {
		return nil, NotBuilt(err)
	}
	files := map[string][]byte{checksumsName: sums}
	names := []string{buildName, packagesName, reportName}
	for _, boot := range r.Boots {
		names = append(names, consoleName(boot.Firmware))
	}
	for _, name := range names {
		content, err := limit.ReadFile(from, name, limit.Metadata)
		if errors.Is(err, fs.ErrNotExist) && mayLack(r, name) {
			continue
		}
		if err != nil {
			return nil, NotBuilt(err)
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

// mayLack says whether a build may have left no file of that name: a console, where it was
// not booted, and the report, where vmctl wrote none yet.
func mayLack(r Release, name string) bool {
	return name == reportName || strings.HasSuffix(name, ".log") && r.Untested() != ""
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
