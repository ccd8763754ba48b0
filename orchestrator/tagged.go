package orchestrator

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

// SplitOnBoot has tasks of roles and playbooks that are tagged boot applied in a guest, and all
// others in the tree.
func (p *Plan) SplitOnBoot() error {
	return p.Definition.SplitOnBoot(func(e definition.InstallEntry) (bool, error) {
		folders := p.taskFolders(e)
		for i := 0; i < len(folders); i++ {
			tagged, others, err := tasksOnBoot(folders[i])
			if tagged || err != nil {
				return tagged, err
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
		return false, nil
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

// tasksOnBoot says whether a task below a folder is tagged boot, and whether any file names
// roles.
func tasksOnBoot(folder string) (tagged, others bool, err error) {
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
		case tagged || entry.IsDir() || filepath.Ext(path) != ".yml" && filepath.Ext(path) != ".yaml":
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		others = others || appliesRoles.Match(content)
		var document yaml.Node
		if bytes.Contains(content, []byte(definition.OnBoot)) && yaml.Unmarshal(content, &document) == nil { // else Ansible says what is wrong
			tagged = taggedOnBoot(&document)
		}
		return nil
	})
	return tagged, others, err
}

// taggedOnBoot says whether anything in a document has that tag.
func taggedOnBoot(n *yaml.Node) bool {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Value == "tags" && namesBoot(n.Content[i+1]) || taggedOnBoot(child) {
			return true
		}
	}
	return false
}

// namesBoot says whether boot is among tags: a list, or words with commas between them.
func namesBoot(tags *yaml.Node) bool {
	words := strings.Split(tags.Value, ",")
	for _, tag := range tags.Content {
		words = append(words, tag.Value)
	}
	return slices.ContainsFunc(words, func(word string) bool { return strings.TrimSpace(word) == definition.OnBoot })
}
