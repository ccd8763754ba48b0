package spec

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// embeddedAsset marks, in an effective definition, a file that is embedded in
// the binary.
const embeddedAsset = "embedded:"

// asset resolves the file that n names, relative to the folder of the file
// that names it, and reports where there is none. The result is an absolute
// path, a path from the definitions' folder, or one marked as embedded.
func (ld *loading) asset(n *yaml.Node) string {
	at, name := ld.places[n], n.Value
	if filepath.IsAbs(name) {
		return name
	}
	source, folder := 0, "."
	if index, fromFile := ld.sources[at.file]; fromFile {
		source = index
		folder = path.Dir(strings.TrimPrefix(at.file, ld.library.sources[source].prefix))
	}
	if folder != "." {
		folder, _, _ = strings.Cut(folder, "/") // drop-ins name files from install.d too
	}
	resolved := path.Join(folder, filepath.ToSlash(name))
	info, err := fs.Stat(ld.library.sources[source].files, resolved)
	switch {
	case err != nil:
		ld.report(at, fmt.Sprintf("there is no file %s", resolved), "paths start from the folder of this file: put it there or correct the path")
	case info.IsDir():
		ld.report(at, fmt.Sprintf("%s is a folder", resolved), "name a file")
	}
	if source == len(ld.library.sources)-1 {
		return embeddedAsset + resolved
	}
	return resolved
}

// AssetPath is where a file named by a definition lies: below root, the
// definitions' folder, or, for an embedded one, where extract puts its content.
func (l *Library) AssetPath(root, asset string, extract func(name string, content []byte) (string, error)) (string, error) {
	if name, embedded := strings.CutPrefix(asset, embeddedAsset); embedded {
		content, err := fs.ReadFile(l.sources[len(l.sources)-1].files, name)
		if err != nil {
			return "", err
		}
		return extract(name, content)
	}
	if filepath.IsAbs(asset) {
		return asset, nil
	}
	return filepath.Abs(filepath.Join(root, filepath.FromSlash(asset)))
}
