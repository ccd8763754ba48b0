package definition

import (
	"errors"
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

// asset is a file that a definition names.
type asset struct {
	files    fs.FS
	name     string // in files
	shown    string // in messages about the definition
	opens    string // in messages about the file itself
	resolved string // in the effective definition
}

// locate finds the file that n names, relative to the folder of the file that
// names it. The result resolves to an absolute path, a path from the
// definitions' folder, or one marked as embedded.
func (ld *loading) locate(n *yaml.Node) asset {
	at, name := ld.places[n], n.Value
	if filepath.IsAbs(name) {
		inside := strings.TrimPrefix(path.Clean(filepath.ToSlash(name)), "/")
		return asset{files: Folder("/"), name: inside, shown: name, opens: name, resolved: name}
	}
	index, folder := 0, "."
	if found, fromFile := ld.roots[at.file]; fromFile {
		index = found
		folder = path.Dir(strings.TrimPrefix(at.file, ld.library.roots[index].prefix))
	}
	if folder != "." {
		folder, _, _ = strings.Cut(folder, "/") // drop-ins name files from install.d too
	}
	o := ld.library.roots[index]
	file := path.Join(folder, filepath.ToSlash(name))
	return asset{files: o.files, name: file, shown: file, opens: o.prefix + file, resolved: ld.library.mark(index) + file}
}

// mark is what goes in front of a root's files in effective definitions.
func (l *Library) mark(index int) string {
	if index == len(l.roots)-1 {
		return embeddedAsset
	}
	return ""
}

// asset resolves the file that n names, and reports where there is none or
// where it is no regular file of at most limit bytes.
func (ld *loading) asset(n *yaml.Node, limit int64) string {
	file := ld.locate(n)
	ld.named[file.resolved] = true
	if err := checkFile(file.files, file.name, limit); err != nil {
		ld.reportAsset(n, file, err)
	}
	return file.resolved
}

// copied is asset for a file that goes into the image as it is.
func (ld *loading) copied(n *yaml.Node) string { return ld.asset(n, largestCopy) }

func (ld *loading) reportAsset(n *yaml.Node, file asset, err error) {
	what, mend := because(file.files, file.name, err)
	what = file.shown + " " + what
	switch {
	case !fs.ValidPath(file.name):
		what, mend = n.Value+" leads out of the folder of the definitions", "put the file into it, or write its absolute path"
	case !isThere(file.files, file.name):
		what, mend = "there is no file "+file.shown, "put it there or correct the path; a relative one starts from the folder of this file"
	}
	ld.report(ld.places[n], what, mend)
}

// template is asset for a file that Ansible renders: it also reports where the
// file reads what cannot be read there.
func (ld *loading) template(n *yaml.Node) string {
	before := len(ld.problems)
	resolved := ld.asset(n, largestTemplate)
	if len(ld.problems) > before {
		return resolved
	}
	file := ld.locate(n)
	content, err := readFile(file.files, file.name, largestTemplate)
	if err != nil {
		ld.reportAsset(n, file, err)
		return resolved
	}
	template := string(content)
	for _, use := range dictionaryUses(template) {
		ld.reportUse(place{file.opens, 1 + strings.Count(template[:use.offset], "\n")}, use)
	}
	return resolved
}

// checkRole reports what in the role's folder is no file that can be read. A
// link that leads nowhere is not reported: a role need not use all it holds.
func (ld *loading) checkRole(at place, files fs.FS, folder string) {
	_ = fs.WalkDir(files, folder, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			err = checkFile(files, name, largestCopy)
			if info, stat := fs.Stat(files, name); stat == nil && info.IsDir() {
				return nil // a link to a folder
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			what, mend := because(files, name, err)
			ld.report(at, fmt.Sprintf("roles: %s %s", name, what), mend)
		}
		return nil
	})
}

// AssetPath is where a file named by a definition lies: below root, the
// definitions' folder, or, for an embedded one, where extract puts its content.
func (l *Library) AssetPath(root, asset string, extract func(name string, content []byte) (string, error)) (string, error) {
	if name, embedded := strings.CutPrefix(asset, embeddedAsset); embedded {
		content, err := fs.ReadFile(l.roots[len(l.roots)-1].files, name)
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
