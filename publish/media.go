package publish

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Media and artifact types.
const (
	ArtifactType    = "application/vnd.btw-img.disk.v1"
	MediaTypeConfig = "application/vnd.btw-img.disk.config.v1+json"
	mediaTypeLayer  = "application/vnd.btw-img.disk.layer.v1." // and the name of a row of diskformat

	artifactSBOM      = "application/spdx+json"
	artifactBoot      = "application/vnd.btw-img.boot.v1"
	artifactBuild     = "application/vnd.btw-img.build.v1"
	artifactChecksums = "application/vnd.btw-img.checksums.v1"
	artifactBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"

	mediaTypeBootReport = "application/vnd.btw-img.boot.report.v1+json"
	mediaTypeJSON       = "application/json"
	mediaTypeText       = "text/plain"
)

// AnnotationUntested says in a leaf why its disk is not proved to boot.
const AnnotationUntested = "io.github.btw-img.untested"

// formatContainerDisk is the suffix of the tags of KubeVirt's container disks.
const formatContainerDisk = "containerdisk"

// Config is the config blob of a leaf.
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

// BootReport is the attachment that tells how a disk booted.
type BootReport struct {
	Build   string    `json:"build"`
	Created time.Time `json:"created"`
	Tool    string    `json:"tool"`
	Subject Subject   `json:"subject"`
	Booted  Subject   `json:"booted"` // the file that was booted; the same disk as the subject, perhaps in another format
	Results []Boot    `json:"results"`
}
