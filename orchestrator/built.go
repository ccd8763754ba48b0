package orchestrator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// Built is what a build has left in its folder.
type Built struct {
	Manifest
	Packages []debian.Package
}

// ResultsFolder is where the results of the build of that name are, in the
// output folder.
func ResultsFolder(output, name string) (string, error) {
	if err := definition.CheckName(name); err != nil {
		return "", err
	}
	return filepath.Join(output, name), nil
}

// ReadBuilt reads the folder of a build that ended well. What it names can be
// used in paths: it may come from elsewhere.
func ReadBuilt(folder string) (Built, error) {
	var b Built
	if err := readJSON(filepath.Join(folder, ManifestName), &b.Manifest); err != nil {
		return Built{}, err
	}
	if err := b.CheckNames(); err != nil {
		return Built{}, fmt.Errorf("%s: %w", filepath.Join(folder, ManifestName), err)
	}
	if err := readJSON(filepath.Join(folder, PackagesName), &b.Packages); err != nil {
		return Built{}, err
	}
	return b, nil
}

// RefuseForeign refuses, as wrong usage, the results of a build, or what one that failed has kept, where what is
// there was not made by a build of this version or an older one. Nothing, and an empty folder, is nobody's.
func RefuseForeign(path, hint string) error {
	names, err := fileNames(path)
	switch {
	case err == nil && (len(names) == 0 || isRecord(filepath.Join(path, ManifestName)) || areLogs(path, names)):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err != nil { // else it is a link that leads nowhere
			return nil
		}
	case err != nil && !errors.Is(err, unix.ENOTDIR):
		return err
	}
	return fail.New(fail.Usage, "", hint, "%s is there already, and no build has made it", path)
}

// isRecord says whether a file is the record of a build: what each version has written.
func isRecord(path string) bool {
	var record struct {
		Name       string         `json:"name"`
		Definition map[string]any `json:"definition"`
	}
	return readJSON(path, &record) == nil && record.Name != "" && record.Definition != nil
}

// areLogs says whether the files of a folder are what is kept of a build that has failed,
// or some of it: it may be half removed.
func areLogs(folder string, names []string) bool {
	whole := slices.Contains(names, LogName)
	return !slices.ContainsFunc(names, func(name string) bool {
		info, err := os.Lstat(filepath.Join(folder, name))
		return err != nil || !info.Mode().IsRegular() || !isKept(name) || !whole && !strings.HasPrefix(name, "boot-")
	})
}

// isKept says whether a file of the results is kept of a build that has failed.
func isKept(name string) bool { return filepath.Ext(name) == ".log" || boottest.IsScreen(name) }

// CheckNames refuses a record whose names cannot be used in paths.
func (m Manifest) CheckNames() error {
	for _, output := range m.Outputs {
		if err := files.CheckFileName(output.Name); err != nil {
			return err
		}
	}
	return definition.CheckName(m.Name)
}

const largestRecord = 64 << 20 // bytes

func readJSON(path string, into any) error {
	file, err := files.OpenRegular(path)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, largestRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Format is the format of the build's image of that name, "" where there is none.
func (b Built) Format(name string) string {
	for _, output := range b.Outputs {
		if output.Name == name {
			return output.Format
		}
	}
	return ""
}

// Bootable is the image of a disk that stands first, which the boot test used; false where
// there is none.
func (m Manifest) Bootable() (image.File, bool) {
	for _, output := range m.Outputs {
		if format.Named(output.Format).Disk {
			return output, true
		}
	}
	return image.File{}, false
}

// Systemd is the version of systemd in the image, 0 where that is not known.
func (b Built) Systemd() int { return DiskFacts{Packages: b.Packages}.systemd() }

// Has says whether the package is in the image.
func (b Built) Has(name string) bool {
	return slices.ContainsFunc(b.Packages, func(p debian.Package) bool { return p.Name == name })
}

// CheckImage refuses an image of a build that depends on another file.
func CheckImage(path, format string) error {
	if format == diskformat.Raw {
		return nil
	}
	file, _, err := image.Open(path, "")
	if err != nil {
		return err
	}
	return file.Close()
}
