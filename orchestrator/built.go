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
)

// Built is what a build has left in its folder.
type Built struct {
	Manifest
	Packages []debian.Package
}

// ReadBuilt reads the folder of a build that ended well.
func ReadBuilt(folder string) (Built, error) {
	var b Built
	if err := readJSON(filepath.Join(folder, ManifestName), &b.Manifest); err != nil {
		return Built{}, err
	}
	if err := readJSON(filepath.Join(folder, PackagesName), &b.Packages); err != nil {
		return Built{}, err
	}
	return b, nil
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
