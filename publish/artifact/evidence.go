package artifact

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish/limit"
)

// Image is a leaf that was read.
type Image struct {
	Manifest ocispec.Manifest
	Config   Config
	Disk     ocispec.Descriptor // as DiskOf finds it in the manifest
}

// Title is the file name of the disk.
func (i Image) Title() string { return i.Disk.Annotations[ocispec.AnnotationTitle] }

// DiskOf makes sure that a manifest is one of a leaf, since what it says decides what is
// written where, and is its disk, with a title that is the name of a file. The error
// says in what the manifest differs.
func DiskOf(m ocispec.Manifest) (ocispec.Descriptor, error) {
	switch {
	case m.ArtifactType != ArtifactType || m.Config.MediaType != MediaTypeConfig:
		return ocispec.Descriptor{}, errors.New("its type is " + cmp.Or(m.ArtifactType, m.Config.MediaType, "unknown"))
	case len(m.Layers) != 1:
		return ocispec.Descriptor{}, fmt.Errorf("it has %d layers", len(m.Layers))
	}
	disk := m.Layers[0]
	if err := files.CheckFileName(disk.Annotations[ocispec.AnnotationTitle]); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := disk.Digest.Validate(); err != nil || disk.Size < 0 {
		return ocispec.Descriptor{}, errors.New("its layer has no digest")
	}
	return disk, nil
}

// Evidence is what is attached to a leaf: file name → content.
type Evidence map[string][]byte

const bootName = "boot.json"

// sbomName is the file that the packages of a disk are listed in.
func sbomName(disk, format string) string {
	return strings.TrimSuffix(disk, "."+format) + ".spdx.json"
}

func (e Evidence) json(name string, into any) error {
	content, ok := e[name]
	if !ok {
		return errors.New("none is attached")
	}
	if err := limit.Decode(content, into); err != nil {
		return fmt.Errorf("%s cannot be read: %w", name, err)
	}
	return nil
}

// Boots is the boot tests that the report tells of, none where it cannot be read.
func (e Evidence) Boots() []Boot {
	var report BootReport
	if e.json(bootName, &report) != nil {
		return nil
	}
	return report.Results
}

// Packages is what is installed in the disk, as far as the list of it can be read.
func (e Evidence) Packages() (packages []debian.Package) {
	_ = e.json(packagesName, &packages) // an image without a list is still shown
	return packages
}

// CheckBoot makes sure that the boot report speaks of these bytes, and that the
// disk came up on all that its config names.
func (i Image) CheckBoot(e Evidence) error {
	var report BootReport
	if err := e.json(bootName, &report); err != nil {
		return err
	}
	if report.Subject.Digest != i.Disk.Digest {
		return fmt.Errorf("the report is of another disk: %s", report.Subject.Digest)
	}
	sameDisk := report.Booted.Digest == i.Disk.Digest || i.Config.RawDigest != "" && report.Booted.RawDigest == i.Config.RawDigest
	if !sameDisk {
		return fmt.Errorf("what was booted is another disk: %s", report.Booted.Digest)
	}
	if why := cmp.Or(i.Config.Untested, i.Manifest.Annotations[AnnotationUntested]); why != "" {
		return fmt.Errorf("it was pushed by force: %s", why)
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

// CheckBuild makes sure that the build record is that of the build which made the disk.
func (i Image) CheckBuild(e Evidence) error {
	var build struct {
		ID      string `json:"id"`
		Outputs []struct {
			SHA256 string `json:"sha256"`
		} `json:"outputs"`
	}
	if err := e.json(buildName, &build); err != nil {
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

// CheckSums compares the disk and all that is attached with SHA256SUMS.
func (i Image) CheckSums(e Evidence) error {
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

// CheckSBOM makes sure that the list of packages (SPDX 2.3) describes the disk.
func (i Image) CheckSBOM(e Evidence) error {
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
