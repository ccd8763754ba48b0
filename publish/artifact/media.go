package artifact

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Media and artifact types (OCI image-spec 1.1, "Guidelines for Artifact Usage").
const (
	ArtifactType    = "application/vnd.btw-img.disk.v1"             // of a leaf
	MediaTypeConfig = "application/vnd.btw-img.disk.config.v1+json" // of its config: a Config
	MediaTypeLayer  = "application/vnd.btw-img.disk.layer.v1."      // and the name of a row of diskformat: of its only layer, the disk

	artifactSBOM      = "application/spdx+json"
	artifactBoot      = "application/vnd.btw-img.boot.v1"
	artifactBuild     = "application/vnd.btw-img.build.v1"
	artifactChecksums = "application/vnd.btw-img.checksums.v1"
	artifactBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"

	mediaTypeBootReport = "application/vnd.btw-img.boot.report.v1+json"
	mediaTypeJSON       = "application/json"
	mediaTypeText       = "text/plain"
	mediaTypeHTML       = "text/html"
)

// AnnotationUntested says in a leaf why its disk is not proved to boot.
const AnnotationUntested = "io.github.btw-img.untested"

// FormatContainerDisk is what the tags of KubeVirt's container disks end in, as those
// of other disks end in their format.
const FormatContainerDisk = "containerdisk"

// kinds is the ends of sibling tags, by artifact type.
var kinds = map[string]string{
	artifactSBOM: "sbom", artifactBoot: "boot", artifactBuild: "build", artifactChecksums: "sums", artifactBundle: KindSignature,
}

// KindSignature is the kind of attachments that are signatures. All others are evidence.
const KindSignature = "sig"

// Kind is the end of the sibling tag of an attachment of that artifact type, "" for
// what is none of ours.
func Kind(artifactType string) string { return kinds[artifactType] }

// SiblingTag is the tag of an attachment of that kind to what has a tag: who knows of no
// referrers finds it by this name.
func SiblingTag(tag, kind string) string { return tag + "." + kind }

// Kinds is all kinds of attachments, sorted.
func Kinds() []string { return slices.Sorted(maps.Values(kinds)) }

// IsEvidence says whether an attachment of that artifact type proves or describes a
// disk, and is no signature.
func IsEvidence(artifactType string) bool {
	kind := Kind(artifactType)
	return kind != "" && kind != KindSignature
}

// Config is the config blob of a leaf, in JSON.
type Config struct {
	Name         string        `json:"name"`
	Build        string        `json:"build"` // id, as in build.json
	Created      time.Time     `json:"created"`
	Architecture string        `json:"architecture"`
	OS           string        `json:"os"`
	Version      string        `json:"version,omitempty"`
	Format       string        `json:"format"`
	VirtualSize  int64         `json:"virtual_size"`         // bytes
	RawDigest    digest.Digest `json:"raw_digest,omitempty"` // of the disk inside, whatever the format
	Firmware     []string      `json:"firmware"`             // that it booted on
	Untested     string        `json:"untested,omitempty"`   // why it is not proved to boot
}

// Subject is a disk that an attachment speaks of.
type Subject struct {
	Name      string        `json:"name"`
	Digest    digest.Digest `json:"digest"`
	RawDigest digest.Digest `json:"raw_digest,omitempty"`
}

// BootReport is the attachment that tells how a disk booted, in JSON.
type BootReport struct {
	Build   string    `json:"build"`
	Created time.Time `json:"created"`
	Tool    string    `json:"tool"`
	Subject Subject   `json:"subject"`
	Booted  Subject   `json:"booted"` // the file that was booted; the same disk as the subject, perhaps in another format
	Results []Boot    `json:"results"`
}
