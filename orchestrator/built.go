package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/vm"
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
		if err := files.CheckFileName(output.Name); err != nil {
			return err
		}
	}
	return definition.CheckName(m.Name)
}

const largestRecord = 64 << 20 // bytes

func readJSON(path string, into any) error {
	file, err := openRegular(path)
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

// Systemd is the version of systemd in the image, 0 where that is not known.
func (b Built) Systemd() int { return DiskFacts{Packages: b.Packages}.systemd() }

// openedImage is a disk image that was found to be whole by itself. It stays open from
// there on, so that nothing else is booted in its place.
type openedImage struct {
	*os.File
	format string
	size   int64 // bytes, of the disk inside
}

// openImage opens an image for reading and has QEMU describe it. It is refused unless
// header and QEMU agree that it depends on no other file.
func openImage(ctx context.Context, c vm.Confinement, path, format string) (openedImage, error) {
	file, err := openRegular(path)
	if err != nil {
		return openedImage{}, noImage(err)
	}
	opened := openedImage{File: file}
	if opened.format, err = trueFormat(file, format); err == nil {
		opened.size, err = c.Describe(ctx, file, opened.format)
	}
	if err != nil {
		file.Close()
		return openedImage{}, err
	}
	return opened, nil
}

// openRegular opens a file for reading that is no device, pipe or folder.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would wait
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, cmp.Or(err, fmt.Errorf("%s is no regular file", path))
	}
	return file, nil
}

func noImage(err error) error {
	return &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a disk image"}
}

// trueFormat is the format of an image that is said to be of a format, or of which
// nothing is known (""). What is said to be raw is: its first bytes are
// the guest's and mean nothing.
func trueFormat(file io.ReaderAt, said string) (string, error) {
	if said == image.Raw {
		return said, nil
	}
	format, err := image.Identify(file)
	if err == nil && said != "" && said != format {
		return "", fail.New(fail.Usage, "", "build it again", "it is said to be %q, but it is %s", said, format)
	}
	return format, err
}

// CheckImage refuses an image of a build that depends on another file.
func CheckImage(path, format string) error {
	if format == image.Raw {
		return nil
	}
	file, err := openRegular(path)
	if err != nil {
		return noImage(err)
	}
	defer file.Close()
	_, err = image.Identify(file)
	return fail.Wrap(fail.Usage, path, err)
}
