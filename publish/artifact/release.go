package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	buildName     = "build.json"
	packagesName  = "packages.json"
	reportName    = "report.html"
	checksumsName = "SHA256SUMS"
)

// Release is what a build left, as it is to be published. Its files are read from an
// fs.FS that has them by their names, and opens no others.
type Release struct {
	Folder       string // holds the disks and the files beside them; for people
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

// Boot is one boot test, in JSON.
type Boot struct {
	Firmware string          `json:"firmware"`
	Passed   bool            `json:"passed"`
	Proof    string          `json:"proof,omitempty"`
	Problem  string          `json:"problem,omitempty"`
	Accel    string          `json:"accel,omitempty"`
	Seconds  float64         `json:"seconds"`
	Report   json.RawMessage `json:"report,omitempty"` // of the guest on itself
}

// Untested says why the release is not proved to boot, "" where it is.
func (r Release) Untested() string {
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

// Check makes sure that what the build's record names are files in its folder: a
// fail.Usage error names the first that is none.
func (r Release) Check() error {
	if len(r.Disks) == 0 {
		return fail.New(fail.Usage, r.Folder, "build it again", "%s lists no disk", buildName)
	}
	untrusted := func(err error) error {
		return fail.New(fail.Usage, r.path(buildName), "build it again", "%w", err)
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

// CheckDisk compares a disk among the release's files with what the build said of it.
// It is a fail.Usage error where it is another one, or not there.
func (r Release) CheckDisk(ctx context.Context, from fs.FS, d Disk) error {
	file, err := from.Open(d.Name)
	if err != nil {
		return NotBuilt(err)
	}
	defer func() { _ = file.Close() }()
	digester := digest.SHA256.Digester()
	size, err := files.Copy(ctx, digester.Hash(), file)
	if err != nil {
		return err
	}
	if size != d.Size || digester.Digest() != d.Digest {
		return changed(r.path(d.Name), d.Digest)
	}
	return nil
}

// NotBuilt is the failure to open a file of a build: a fail.Usage error where there is
// none.
func NotBuilt(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "build it again"}
	}
	return err
}

func changed(path string, want digest.Digest) error {
	problem := "it is not the file that the build left"
	if want == "" {
		problem = fmt.Sprintf("%s does not list it", checksumsName)
	}
	return fail.New(fail.Usage, path, "build it again; an image is published as it was tested", "%s", problem)
}

// stem is what the release's tags begin with.
func (r Release) stem(tag string) string {
	if tag != "" {
		return tag
	}
	return r.Version
}

// Tags is the names that one format of a release gets in a repository.
type Tags struct {
	Immutable string   // of the index, by this push alone
	Moving    []string // of the index, by the newest push
	Leaf      string   // of the leaf
}

// Tags names the n-th push of the day. suffix is "" or "-FORMAT"; tag is what
// the user asks for, "" for the release's own tags.
func (r Release) Tags(tag, suffix string, n int) Tags {
	stem := r.stem(tag)
	day := r.Created.UTC().Format("20060102")
	immutable := strings.TrimPrefix(fmt.Sprintf("%s-%s.%d%s", stem, day, n, suffix), "-")
	t := Tags{Immutable: immutable, Leaf: LeafTag(immutable, r.Architecture)}
	if stem != "" {
		t.Moving = append(t.Moving, stem+suffix)
	}
	if tag == "" && stem != "latest" {
		t.Moving = append(t.Moving, "latest"+suffix)
	}
	return t
}

// LeafTag is the leaf's own tag, by its release's immutable one.
func LeafTag(immutable, architecture string) string { return immutable + "-" + architecture }
