package orchestrator

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Modules that read a file of the builder, and the arguments that name it: "" is what stands
// behind the module's name. Those with src read the machine's own where remote_src says so.
var readsHere = map[string][]string{
	"copy": {"src"}, "template": {"src"}, "unarchive": {"src"}, "patch": {"src"}, "assemble": {"src"}, "script": {"", "cmd"},
	"include_vars": {"", "file", "dir"}, "include_tasks": {"", "file"}, "import_tasks": {"", "file"}, "import_playbook": {""}, "vars_files": {""},
}

const remoteSource = "remote_src"

// keyed is arguments by their names.
var keyed = regexp.MustCompile(`^\w+=`)

// variableFolders hold what may be called as a module is, and is none.
var variableFolders = []string{"defaults", "vars", "meta", "group_vars", "host_vars", "templates", "files"}

// namedByTasks is the paths of the builder's files that the tasks in a file name: absolute ones,
// but for those that are rendered, and relative ones.
func namedByTasks(path, content string) (absolute, relative []string) {
	in := strings.Split(filepath.Dir(path), "/")
	ext := filepath.Ext(path)
	if ext != ".yml" && ext != ".yaml" || slices.ContainsFunc(variableFolders, func(name string) bool { return slices.Contains(in, name) }) {
		return nil, nil
	}
	var document yaml.Node
	if yaml.Unmarshal([]byte(content), &document) != nil {
		return nil, nil // Ansible says what is wrong
	}
	for _, named := range namedIn(&document) {
		switch {
		case !filepath.IsAbs(named):
			relative = append(relative, named)
		case !strings.Contains(named, "{{"):
			absolute = append(absolute, named)
		}
	}
	return absolute, relative
}

func namedIn(n *yaml.Node) (paths []string) {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			module := child.Value[strings.LastIndexByte(child.Value, '.')+1:]
			if arguments, reads := readsHere[module]; reads {
				paths = append(paths, namedAs(arguments, n.Content[i+1])...)
			}
		}
		paths = append(paths, namedIn(child)...)
	}
	return paths
}

// namedAs is the paths among what a module is told.
func namedAs(arguments []string, told *yaml.Node) (paths []string) {
	said := map[string]string{}
	switch told.Kind {
	case yaml.ScalarNode:
		said[""] = told.Value
		for word := range strings.FieldsSeq(told.Value) {
			if key, value, ok := strings.Cut(word, "="); ok {
				said[key] = strings.Trim(value, `"'`)
			}
		}
	case yaml.SequenceNode:
		for _, item := range told.Content {
			paths = append(paths, namedAs(arguments, item)...)
		}
		return paths
	case yaml.MappingNode:
		for i := 0; i+1 < len(told.Content); i += 2 {
			said[told.Content[i].Value] = told.Content[i+1].Value
		}
	}
	if there := strings.ToLower(said[remoteSource]); there != "" && there != "false" && there != "no" {
		return nil
	}
	for _, argument := range arguments {
		path := said[argument]
		if (argument == "" || argument == "cmd") && !isJinja(path) {
			path, _, _ = strings.Cut(path, " ") // a script has arguments
		}
		if path != "" && (argument != "" || !keyed.MatchString(path)) {
			paths = append(paths, path)
		}
	}
	return paths
}
