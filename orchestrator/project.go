package orchestrator

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// A project is the folder that holds install.d. Ansible finds there what it finds beside a
// playbook of the user's.

// The folders of a project that Ansible reads.
const (
	rolesFolder       = "roles"
	collectionsFolder = "collections"
	playbooksFolder   = "playbooks"
)

// The folders of variables beside an inventory, or a playbook.
const (
	groupVars = "group_vars"
	hostVars  = "host_vars"
)

// inventoryFolders is those of variables, of which each entry has what is the image's.
var inventoryFolders = []string{groupVars, hostVars}

// pluginFolders is those that any role or playbook may read, but for roles and collections.
var pluginFolders = []string{"library", "module_utils", "action_plugins", "filter_plugins", "lookup_plugins", "test_plugins"}

// imageVariables is where Ansible finds variables of the image beside its inventory, which is the
// host image in no group but those that every host is in: a folder or a file, by any of these
// endings.
var imageVariables = map[string][]string{groupVars: {"all", "ungrouped"}, hostVars: {"image"}}

var variableEndings = []string{"", ".yml", ".yaml", ".json"}

// ofImage is the folders and files of variables that are read for the image, of all that a folder has.
func ofImage(folder string) (paths []string) {
	for _, kind := range inventoryFolders {
		for _, name := range imageVariables[kind] {
			for _, ending := range variableEndings {
				path := filepath.Join(folder, kind, name+ending)
				if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
					paths = append(paths, path)
				}
			}
		}
	}
	return paths
}

// shown binds a folder or a file under a name of its own.
func (s *stager) shown(path, name string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		_, err = s.folder(path, name)
		return err
	case !info.Mode().IsRegular():
		return nil
	}
	target := filepath.Join(s.root, name)
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		return err
	}
	_, err = s.h.Mount(host.Bind(path, target, false))
	return err
}

// joinsGroups is what has the image join other groups while entries are applied, or names the
// folders of variables.
var joinsGroups = regexp.MustCompile(`\b(?:group_by|add_host|group_vars|host_vars|inventory_dir|inventory_file)\b`)

// variableFiles is the digests of the variables beside the inventory: those that are the image's,
// or all of them where more may be read.
func (r *reading) variableFiles(more bool) (digests []string, err error) {
	paths := ofImage(r.plan.Project)
	if more || joinsGroups.MatchString(r.text.String()) {
		paths = nil
		for _, name := range inventoryFolders {
			paths = append(paths, filepath.Join(r.plan.Project, name))
		}
	}
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		digest, err := r.folder(path)
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(r.plan.Project, path)
		if err != nil {
			return nil, err
		}
		digests = append(digests, name, digest)
	}
	return digests, nil
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

// project binds what Ansible may read of a project: roles one by one, since they are often links
// to elsewhere, as other things may be.
func (s *stager) project(path string) (string, error) {
	if plain(path) {
		return path, nil
	}
	target := filepath.Join(s.root, "project")
	if err := errors.Join(os.MkdirAll(target, 0o755), s.roles(filepath.Join(path, rolesFolder))); err != nil {
		return "", err
	}
	entries, err := ansiblesOwn(path)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		name := entry.Name()
		if name == rolesFolder || !plainName.MatchString(name) {
			continue
		}
		err := s.shown(filepath.Join(path, name), filepath.Join("project", name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	digests, err := r.variableFiles(joinsGroups.MatchString(all))
	if err != nil || len(digests) == 0 {
		return "", err
	}
	return digestOf(digests), nil
}

// project is the digest of what an entry's roles and playbooks read of the project, "" where
// it has none.
func (r *reading) project(entry definition.InstallEntry) (string, error) {
	if len(entry.Roles)+len(entry.Playbooks) == 0 {
		return "", nil
	}
	r.tasks, r.plays = true, len(entry.Playbooks) > 0
	var names []string
	for _, role := range entry.Roles {
		names = append(names, role.Name)
	}
	digests, err := r.roles(names)
	if err != nil {
		return "", err
	}
	all := []string{digests}
	folders := pluginFolders
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
	collections, any, err := r.collections()
	if err != nil {
		return "", err
	}
	beside, err := r.besideFolders(append(texts(entry), texts(r.plan.Definition.Vars)...))
	if err != nil {
		return "", err
	}
	variables, err := r.variableFiles(any) // roles of collections are not looked at
	if err != nil {
		return "", err
	}
	return digestOf(all, collections, variables, beside), nil
}

// collections is the digests of the collections of the project, all that is in them, since they
// are there to be changed, and of those that were installed. any says whether there are some.
func (r *reading) collections() (digests []string, any bool, err error) {
	for _, folder := range r.plan.found(collectionsFolder) {
		digest, some, err := collectionsIn(r.ctx, folder, folder != filepath.Join(r.plan.Project, collectionsFolder))
		if err != nil {
			return nil, false, err
		}
		digests, any = append(digests, digest), any || some > 0
	}
	return digests, any, nil
}
