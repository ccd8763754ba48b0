package orchestrator

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

// A project is the folder that holds install.d. Ansible finds there what it finds beside a
// playbook of the user's.

// The folders of a project that Ansible reads.
const (
	rolesFolder       = "roles"
	collectionsFolder = "collections"
	playbooksFolder   = "playbooks"
)

// inventoryFolders is those of variables, which every entry has.
var inventoryFolders = []string{"group_vars", "host_vars"}

// sharedFolders is those that any role or playbook may read, but for roles and collections.
var sharedFolders = []string{
	"group_vars", "host_vars", "library", "module_utils",
	"action_plugins", "filter_plugins", "lookup_plugins", "test_plugins",
}

// found is the folders of that name in which Ansible looks, the first first.
func (p Plan) found(name string) []string {
	folders := []string{filepath.Join(p.Project, name)}
	if p.Installed != "" {
		folders = append(folders, filepath.Join(p.Installed, name))
	}
	return folders
}

// rolesPaths is the folders of roles.
func (p Plan) rolesPaths() []string { return p.found(rolesFolder) }

// rolePath is the folder of a role, "" where there is none.
func (p Plan) rolePath(name string) string {
	if !filepath.IsLocal(name) {
		return ""
	}
	for _, folder := range p.rolesPaths() {
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil && info.IsDir() {
			return filepath.Join(folder, name)
		}
	}
	return ""
}

// project binds the folders of a project: roles one by one, since they are often links
// to elsewhere.
func (s *stager) project(path string) (string, error) {
	if plain(path) {
		return path, nil
	}
	target := filepath.Join(s.root, "project")
	if err := errors.Join(os.MkdirAll(target, 0o755), s.roles(filepath.Join(path, rolesFolder))); err != nil {
		return "", err
	}
	for _, name := range append([]string{collectionsFolder, playbooksFolder}, sharedFolders...) {
		folder, err := filepath.EvalSymlinks(filepath.Join(path, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = s.folder(folder, filepath.Join("project", name))
		}
		if err != nil {
			return "", err
		}
	}
	return target, nil
}

// inventoryVariables is the digest of the variables that Ansible finds beside the inventory,
// "" where there are none, or the entry renders nothing.
func (r *reading) inventoryVariables(layer *definition.Layer) (string, error) {
	all := r.text.String() + strings.Join(texts(layer), "\n")
	if !strings.Contains(all, "{{") && !strings.Contains(all, "{%") {
		return "", nil
	}
	var digests []string
	for _, name := range inventoryFolders {
		path := filepath.Join(r.plan.Project, name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		digest, err := r.folder(path)
		if err != nil {
			return "", err
		}
		digests = append(digests, name, digest)
	}
	if len(digests) == 0 {
		return "", nil
	}
	return digestOf(digests), nil
}

// project is the digest of what an entry's roles and playbooks read of the project, "" where
// it has none.
func (r *reading) project(entry definition.InstallEntry) (string, error) {
	if len(entry.Roles)+len(entry.Playbooks) == 0 {
		return "", nil
	}
	var names []string
	for _, role := range entry.Roles {
		names = append(names, role.Name)
	}
	digests, err := r.roles(names)
	if err != nil {
		return "", err
	}
	all := []string{digests}
	folders := sharedFolders
	if len(entry.Playbooks) > 0 { // which may apply any role, also of collections
		r.opaque = true
		folders = append([]string{playbooksFolder}, folders...)
		digest, err := r.allRoles()
		if err != nil {
			return "", err
		}
		all = append(all, digest)
	}
	for _, name := range folders {
		digest, err := r.folder(filepath.Join(r.plan.Project, name))
		if err != nil {
			return "", err
		}
		all = append(all, digest)
	}
	for _, folder := range r.plan.found(collectionsFolder) {
		collections, err := installedCollections(r.ctx, folder)
		if err != nil {
			return "", err
		}
		all = append(all, collections)
	}
	return digestOf(all), nil
}
