package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/spec"
)

// Built is what a build has left in its folder.
type Built struct {
	Manifest
	Packages []debian.Package
}

// ResultsFolder is where the results of the build of that name are, in the
// output folder.
func ResultsFolder(output, name string) (string, error) {
	if err := spec.CheckName(name); err != nil {
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
	if err := b.checkNames(); err != nil {
		return Built{}, fmt.Errorf("%s: %w", filepath.Join(folder, ManifestName), err)
	}
	if err := readJSON(filepath.Join(folder, PackagesName), &b.Packages); err != nil {
		return Built{}, err
	}
	return b, nil
}

func (m Manifest) checkNames() error {
	for _, output := range m.Outputs {
		if output.Name != filepath.Base(output.Name) || !filepath.IsLocal(output.Name) {
			return fmt.Errorf("%q is no file beside it", output.Name)
		}
	}
	return spec.CheckName(m.Name)
}

func readJSON(path string, into any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Has says whether the build wrote an image of that name.
func (b Built) Has(name string) bool {
	for _, output := range b.Outputs {
		if output.Name == name {
			return true
		}
	}
	return false
}

// Systemd is the version of systemd in the image, 0 where that is not known.
func (b Built) Systemd() int { return DiskFacts{Packages: b.Packages}.systemd() }

// InspectImage says what kind of image a file is.
func InspectImage(ctx context.Context, h host.Host, path string) (image.Info, error) {
	return image.Inspect(ctx, h, path)
}
