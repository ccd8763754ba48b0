package orchestrator

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// SplitOnBoot has tasks of roles and playbooks that are tagged boot applied in a guest, and all
// others in the tree.
func (p *Plan) SplitOnBoot() error {
	return p.Definition.SplitOnBoot(func(e definition.InstallEntry) (bool, error) {
		found := taskFiles{}
		folders := p.taskFolders(e)
		for i := 0; i < len(folders); i++ {
			others, err := found.add(folders[i])
			if err != nil {
				return false, err
			}
			if others { // which ones may be rendered
				for _, all := range p.rolesPaths() {
					roles, _ := os.ReadDir(all) // there may be none
					for _, role := range roles {
						if path := filepath.Join(all, role.Name()); !slices.Contains(folders, path) {
							folders = append(folders, path)
						}
					}
				}
			}
		}
		tagged := slices.ContainsFunc(slices.Collect(maps.Values(found)), func(f *taskFile) bool { return f.tagged })
		if !tagged {
			return false, nil
		}
		return true, fail.Wrap(fail.Usage, e.Origin, found.checkIncludes(p.Project))
	})
}

// taskFolders is where the tasks are of an entry's roles and playbooks.
func (p *Plan) taskFolders(e definition.InstallEntry) (folders []string) {
	if len(e.Playbooks) > 0 {
		folders = append(folders, filepath.Join(p.Project, playbooksFolder))
	}
	for _, role := range e.Roles {
		if path := p.rolePath(role.Name); path != "" {
			folders = append(folders, path)
			continue
		}
		if parts := strings.Split(role.Name, "."); len(parts) == 3 {
			for _, root := range p.found(collectionsFolder) {
				folders = append(folders, filepath.Join(root, "ansible_collections", parts[0], parts[1], rolesFolder, parts[2]))
			}
		}
	}
	return folders
}

// appliesRoles is what has other roles applied than those that an entry names.
var appliesRoles = regexp.MustCompile(`\b(?:include_role|import_role|roles|dependencies)\b`)

// taskFile is what a file of tasks, or of plays, tells before anything is rendered.
type taskFile struct {
	tagged bool // something in it is tagged boot
	refers []reference
}

// reference is a task that has other tasks applied, or a role that a play names.
type reference struct {
	line    int
	role    string // "" for a file
	file    string // "" for all of the role
	apart   bool   // it is a task of its own, which the tags of a run may leave out
	reached bool   // its tags, or those around it, have a run for boot come here
}

// taskFiles is files by their paths.
type taskFiles map[string]*taskFile

// add adds the files below a folder, and says whether any of them names roles.
func (all taskFiles) add(folder string) (others bool, err error) {
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		folder = real
	}
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "files" || entry.Name() == "templates"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".yml" && filepath.Ext(path) != ".yaml":
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		others = others || appliesRoles.Match(content)
		file := &taskFile{}
		var document yaml.Node
		if yaml.Unmarshal(content, &document) == nil { // else Ansible says what is wrong
			file.read(&document, false)
		}
		all[path] = file
		return nil
	})
	return others, err
}

// read takes in what is in a part of the file; reached says whether the tags of what is around it
// have a run for boot come here.
func (f *taskFile) read(n *yaml.Node, reached bool) {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "tags" {
			f.tagged = f.tagged || hasTag(n.Content[i+1], definition.OnBoot)
			reached = reached || hasTag(n.Content[i+1], definition.OnBoot, "always")
		}
	}
	play := false
	for i, child := range n.Content {
		play = play || n.Kind == yaml.MappingNode && i%2 == 0 && child.Value == "hosts"
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && (play || child.Value != "roles") { // else those are a module's
			f.refer(child, n.Content[i+1], reached)
		}
		f.read(child, reached)
	}
}

// refer takes in a task of that module.
func (f *taskFile) refer(module, arguments *yaml.Node, reached bool) {
	argument := func(name string) string {
		for i := 0; i+1 < len(arguments.Content); i += 2 {
			if arguments.Content[i].Value == name {
				return arguments.Content[i+1].Value
			}
		}
		return ""
	}
	name := module.Value[strings.LastIndexByte(module.Value, '.')+1:]
	r := reference{line: module.Line, apart: strings.HasPrefix(name, "include"), reached: reached}
	switch name {
	case "roles", "dependencies":
		for _, role := range arguments.Content {
			one := reference{line: role.Line, role: role.Value, reached: reached}
			for i := 0; i+1 < len(role.Content); i += 2 {
				switch role.Content[i].Value {
				case "role", "name":
					one.role = role.Content[i+1].Value
				case "tags":
					one.reached = one.reached || hasTag(role.Content[i+1], definition.OnBoot, "always")
				}
			}
			if one.role != "" && !isJinja(one.role) {
				f.refers = append(f.refers, one)
			}
		}
	case "include_tasks", "import_tasks", "include":
		r.file = cmp.Or(arguments.Value, argument("file"))
	case "include_role", "import_role":
		r.role, r.file = argument("name"), argument("tasks_from")
	}
	if r.file != "" || r.role != "" {
		f.refers = append(f.refers, r)
	}
}

// checkIncludes refuses an include that a run for the tag boot would pass over although it leads
// to tasks with that tag: nobody would ever apply them, and Ansible says nothing.
func (all taskFiles) checkIncludes(project string) error {
	named, reached := all.named(), all.reached()
	for _, path := range slices.Sorted(maps.Keys(all)) {
		for _, r := range all[path].refers {
			if r.apart && !r.reached && !reached[path] && all.leads(path, r, named, map[string]bool{}) {
				shown, err := filepath.Rel(project, path)
				if err != nil || strings.HasPrefix(shown, "..") {
					shown = path
				}
				return fail.New(fail.Usage, fmt.Sprintf("%s:%d", shown, r.line), "tag the include itself: 'tags: always'", "tasks tagged boot are included here, and Ansible would pass over the include: it has no such tag")
			}
		}
	}
	return nil
}

// named is the files that a reference names in full: one that is rendered hardly means them.
func (all taskFiles) named() map[string]bool {
	named := map[string]bool{}
	for from, file := range all {
		for _, r := range file.refers {
			for path := range all {
				if !isJinja(r.file+r.role) && r.means(from, path) {
					named[path] = true
				}
			}
		}
	}
	return named
}

// reached is the files all of whose tasks a run for boot comes to, by the tags of what imports them.
func (all taskFiles) reached() map[string]bool {
	reached := map[string]bool{}
	for grown := true; grown; {
		grown = false
		for from, file := range all {
			for _, r := range file.refers {
				if r.apart || !r.reached && !reached[from] {
					continue
				}
				for path := range all {
					if !reached[path] && r.means(from, path) {
						reached[path], grown = true, true
					}
				}
			}
		}
	}
	return reached
}

// leads says whether a reference in a file leads to something tagged boot.
func (all taskFiles) leads(from string, r reference, named, seen map[string]bool) bool {
	rendered := isJinja(r.file + r.role)
	for path, file := range all {
		if seen[path] || rendered && named[path] || !r.means(from, path) {
			continue
		}
		seen[path] = true
		if file.tagged || slices.ContainsFunc(file.refers, func(next reference) bool { return all.leads(path, next, named, seen) }) {
			return true
		}
	}
	return false
}

// means says whether a reference in a file may mean the one at path.
func (r reference) means(from, path string) bool {
	stem := strings.TrimSuffix(path, filepath.Ext(path))
	file := strings.TrimSuffix(cmp.Or(r.file, "main"), filepath.Ext(r.file))
	named := strings.HasSuffix(stem, "/"+filepath.Clean(file))
	if isJinja(r.file) {
		named = filepath.Base(stem) != "main" && filepath.Base(filepath.Dir(path)) != "handlers"
	}
	if r.role == "" {
		return named && path != from && roleOf(path) == roleOf(from)
	}
	role := r.role[strings.LastIndexByte(r.role, '.')+1:]
	return named && filepath.Base(filepath.Dir(path)) == "tasks" && (isJinja(r.role) || filepath.Base(roleOf(path)) == role)
}

// roleOf is the folder of the role that a file of tasks is of, else of the file.
func roleOf(path string) string {
	for folder := filepath.Dir(path); folder != filepath.Dir(folder); folder = filepath.Dir(folder) {
		if base := filepath.Base(folder); base == "tasks" || base == "handlers" {
			return filepath.Dir(folder)
		}
	}
	return filepath.Dir(path)
}

// hasTag says whether one of some is among tags: a list, or words with commas between them.
func hasTag(tags *yaml.Node, some ...string) bool {
	words := strings.Split(tags.Value, ",")
	for _, tag := range tags.Content {
		words = append(words, tag.Value)
	}
	return slices.ContainsFunc(words, func(word string) bool { return slices.Contains(some, strings.TrimSpace(word)) })
}
