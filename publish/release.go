package publish

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Names of the files of a build that are attached to its disks.
const (
	manifestName  = "build.json"
	packagesName  = "packages.json"
	checksumsName = "SHA256SUMS"
)

// Release is what a build left, as it is to be published.
type Release struct {
	Folder       string // holds the disks and the files beside them
	Name         string
	Description  string
	Version      string // of the system in the image, such as 13; may be empty
	Architecture string // as Go and OCI name it
	BuildID      string
	Created      time.Time
	Tool         string        // name and version of what built it
	RawDigest    digest.Digest // of the disk inside the images; may be empty
	Disks        []Disk        // the first one is the release's own, others get tags of their format
	Tested       bool
	Boots        []Boot
	Packages     []debian.Package
	Annotations  map[string]string // OCI annotations from outside; they win
}

// Disk is one image file.
type Disk struct {
	Name        string // of the file in the release's folder
	Format      string
	Size        int64 // bytes
	VirtualSize int64 // bytes, of the disk inside
	Digest      digest.Digest
}

// Boot is one boot test.
type Boot struct {
	Firmware string          `json:"firmware"`
	Passed   bool            `json:"passed"`
	Proof    string          `json:"proof,omitempty"`
	Problem  string          `json:"problem,omitempty"`
	Accel    string          `json:"accel,omitempty"`
	Seconds  float64         `json:"seconds"`
	Report   json.RawMessage `json:"report,omitempty"` // of the guest on itself
}

// untested says why the release is not proved to boot, "" where it is.
func (r Release) untested() string {
	if !r.Tested || len(r.Boots) == 0 {
		return "it was never boot-tested"
	}
	for _, boot := range r.Boots {
		if !boot.Passed {
			return "it did not boot on " + boot.Firmware
		}
	}
	return ""
}

// bootedOn is the firmware that the disk came up on.
func (r Release) bootedOn() []string {
	booted := []string{}
	for _, boot := range r.Boots {
		if boot.Passed {
			booted = append(booted, boot.Firmware)
		}
	}
	return booted
}

func (r Release) path(name string) string { return filepath.Join(r.Folder, name) }

// open opens a file of the release: not what a link names.
func (r Release) open(name string) (*os.File, error) {
	f, err := openFolder(r.Folder, files.Owner{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.regular(name, os.O_RDONLY)
}

// read reads a file that is to be attached.
func (r Release) read(name string) ([]byte, error) {
	root, err := os.OpenRoot(r.Folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	return readFile(FolderFS(root, "."), name, largestMetadata)
}

// check makes sure that what the build's record names are files in its folder.
func (r Release) check() error {
	if len(r.Disks) == 0 {
		return fail.New(fail.Usage, r.Folder, "build it again", "%s lists no disk", manifestName)
	}
	untrusted := func(err error) error {
		return fail.New(fail.Usage, r.path(manifestName), "build it again", "%w", err)
	}
	for _, d := range r.Disks {
		if err := files.CheckFileName(d.Name); err != nil {
			return untrusted(err)
		}
		if err := d.Digest.Validate(); err != nil {
			return untrusted(fmt.Errorf("the output %s: %w", d.Name, err))
		}
	}
	for _, boot := range r.Boots {
		if err := files.CheckFileName(consoleName(boot.Firmware)); err != nil {
			return untrusted(err)
		}
	}
	return nil
}

// stem is what the release's tags begin with.
func (r Release) stem(tag string) string {
	if tag != "" {
		return tag
	}
	return r.Version
}

// tags is the names that one format of a release gets in a repository.
type tags struct {
	immutable string   // of this push alone
	moving    []string // of the newest push
	leaf      string
}

// tagsOf names the n-th push of the day. suffix is "" or "-FORMAT"; tag is what
// the user asks for, "" for the release's own tags.
func (r Release) tagsOf(tag, suffix string, n int) tags {
	stem := r.stem(tag)
	day := r.Created.UTC().Format("20060102")
	immutable := strings.TrimPrefix(fmt.Sprintf("%s-%s.%d%s", stem, day, n, suffix), "-")
	t := tags{immutable: immutable, leaf: immutable + "-" + r.Architecture}
	if stem != "" {
		t.moving = append(t.moving, stem+suffix)
	}
	if tag == "" && stem != "latest" {
		t.moving = append(t.moving, "latest"+suffix)
	}
	return t
}
