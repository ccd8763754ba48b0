package definition

import (
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// loading is the state of one Load.
type loading struct {
	reader
	library *Library
	roots   map[string]int  // index of the library's root, by file name in messages
	named   map[string]bool // files that the definition names, as they are resolved
	needed  *needed         // nil before it is read
}

func newLoading(l *Library) *loading {
	return &loading{reader: newReader(), library: l, roots: map[string]int{}, named: map[string]bool{}}
}

// buildFiles is one build of an extends chain: its files, merged.
type buildFiles struct {
	name     string
	root     int // index of the library's root that holds the main file
	install  *yaml.Node
	commands *yaml.Node
}

// chain reads the build and its ancestors, the build first.
func (ld *loading) chain(name string) []*buildFiles {
	var chain []*buildFiles
	var names []string
	for {
		build := ld.build(name)
		chain, names = append(chain, build), append(names, name)
		extends := value(build.install, "extends")
		if extends == nil {
			ld.incomplete = ld.unsure("extends")
			return chain
		}
		parent, at := extends.Value, ld.places[extends]
		if slices.Contains(names, parent) {
			ld.report(at, "extends goes in a circle: "+strings.Join(append(names, parent), " → "), "remove one extends")
			ld.incomplete = true
			return chain
		}
		if _, known := ld.library.builds[parent]; !known {
			ld.reportParent(at, parent)
			ld.incomplete = true
			return chain
		}
		name = parent
	}
}

// reportParent says why there is no such build to extend.
func (ld *loading) reportParent(at place, parent string) {
	what, mend := fmt.Sprintf("there is no build %q", parent), "write install.d/"+parent+".yml, or name one of: "+strings.Join(ld.library.Names(), ", ")
	if near := Nearest(parent, ld.library.Names()); near != "" {
		mend = fmt.Sprintf("did you mean %q?", near)
	} else if err := CheckName(parent); err != nil {
		what, mend = err.Error(), fail.Hint(err)
	}
	ld.report(at, "extends: "+what, mend)
}

// build reads and merges the files of one build, without its parents.
func (ld *loading) build(name string) *buildFiles {
	l := ld.library
	b := &buildFiles{name: name, install: mapping(), commands: mapping(), root: l.builds[name]}
	install := path.Join(installFolder, name+".yml")
	if err := CheckName(name); err != nil {
		ld.report(place{l.roots[b.root].prefix + install, 0}, err.Error(), fail.Hint(err))
	}
	ld.mergeFile(b.install, b.root, install, installType)
	ld.mergeDropIns(b, b.install, path.Join(installFolder, name), installType)
	if at, found := l.commands[name]; found && at <= b.root {
		ld.mergeFile(b.commands, at, path.Join(commandsFolder, name+".yml"), commandType)
	}
	ld.mergeDropIns(b, b.commands, path.Join(commandsFolder, name), commandType)
	return b
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

// mergeDropIns merges the folder's files in lexical order. Where several
// roots hold a file of one name, the nearest counts; roots behind the one
// of the build's main file do not take part.
func (ld *loading) mergeDropIns(b *buildFiles, into *yaml.Node, folder string, shape reflect.Type) {
	nearest := map[string]int{}
	for i, o := range ld.library.roots[:b.root+1] {
		entries, problem := o.list(folder)
		if problem != nil {
			ld.problems, ld.incomplete = append(ld.problems, *problem), true
		}
		for _, file := range ymlFiles(folder, entries) {
			if _, taken := nearest[file]; !taken {
				nearest[file] = i
			}
		}
	}
	files := make([]string, 0, len(nearest))
	for file := range nearest {
		files = append(files, file)
	}
	slices.Sort(files)
	for _, file := range files {
		ld.mergeFile(into, nearest[file], file, shape)
	}
}

func (ld *loading) mergeFile(into *yaml.Node, index int, file string, shape reflect.Type) {
	o := ld.library.roots[index]
	content, err := readFile(o.files, file, largestDefinition)
	if err != nil {
		what, mend := because(o.files, file, err)
		ld.report(place{o.prefix + file, 0}, "the file "+what, mend)
		ld.incomplete = true
		return
	}
	ld.roots[o.prefix+file] = index
	root := ld.read(o.prefix+file, content, shape)
	ld.incomplete = ld.incomplete || root == nil
	ld.merge(into, root, "")
}

// layer decodes the entries of one build and resolves the files that they
// name.
func (ld *loading) layer(b *buildFiles) Layer {
	layer := Layer{Name: b.name}
	if items := value(b.install, "install"); items != nil {
		for _, item := range items.Content {
			var entry InstallEntry
			if ld.decode(item, &entry) {
				entry.Origin = ld.origin(item)
				ld.validateInstall(&entry, item)
				layer.Install = append(layer.Install, entry)
			}
		}
	}
	if items := value(b.commands, "commands"); items != nil {
		for _, item := range items.Content {
			var entry CommandEntry
			if ld.decode(item, &entry) {
				entry.Origin = ld.origin(item)
				ld.validateCommand(&entry, item)
				layer.Commands = append(layer.Commands, entry)
			}
		}
	}
	return layer
}

func (ld *loading) decode(n *yaml.Node, into any) bool {
	if ld.broken[n] {
		return false // reported already
	}
	if err := n.Decode(into); err != nil {
		ld.report(ld.places[n], err.Error(), "correct the value")
		return false
	}
	return true
}

func (ld *loading) origin(n *yaml.Node) string {
	at := ld.places[n]
	return fmt.Sprintf("%s:%d", at.file, at.line)
}

// merge puts the child's keys into the parent's mapping: mappings merge, the
// layers' lists follow each other within one build, all else is replaced.
func (r *reader) merge(parent, child *yaml.Node, at string) {
	if child == nil {
		return
	}
	for i := 0; i+1 < len(child.Content); i += 2 {
		key, new := child.Content[i].Value, child.Content[i+1]
		old := value(parent, key)
		where := join(at, key)
		switch {
		case r.broken[new] && new.Kind != yaml.MappingNode && where != "install" && where != "commands":
			r.brokenKeys = append(r.brokenKeys, strings.SplitN(where, ".", 2)[0])
		case where == "extends" && old != nil:
			setValue(parent, key, new)
		case where == "source" && old != nil:
			r.mergeSource(old, new)
		case old != nil && old.Kind == yaml.MappingNode && new.Kind == yaml.MappingNode:
			r.merge(old, new, where)
		case old != nil && (where == "install" || where == "commands"):
			old.Content = append(old.Content, new.Content...)
		case new.Kind == yaml.MappingNode || where == "install" || where == "commands":
			copied := *new // later merges must not change what was read
			copied.Content = slices.Clone(new.Content)
			r.places[&copied] = r.places[new]
			setValue(parent, key, &copied)
		default:
			setValue(parent, key, new)
		}
	}
}

// mergeSource lets a child that names another kind of source replace the
// parent's, and one that names the same kind refine it.
func (r *reader) mergeSource(old, new *yaml.Node) {
	for _, kind := range sortedKeys(fieldsOf(reflect.TypeFor[Source]())) {
		if value(new, kind) == nil && len(new.Content) > 0 {
			drop(old, kind)
		}
	}
	r.merge(old, new, "source")
}

// settingPattern is the key of a setting; what follows may be a secret.
var settingPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]*`)

// apply sets the keys of --set, which reach into mappings with dots.
func (ld *loading) apply(merged *yaml.Node, settings []string) {
	for _, setting := range settings {
		key, text, ok := strings.Cut(setting, "=")
		at := place{file: "--set " + key}
		if !ok || key == "" {
			ld.report(place{file: "--set " + settingPattern.FindString(setting)}, "there is no key=value in it", "write it as --set disk.size=4G")
			continue
		}
		var document yaml.Node
		if err := yaml.Load([]byte(text), &document); err != nil || len(document.Content) != 1 {
			document.Content = []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}}
		}
		root := document.Content[0]
		parts := strings.Split(key, ".")
		for _, part := range slices.Backward(parts) {
			root = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{
				{Kind: yaml.ScalarNode, Tag: "!!str", Value: part}, root,
			}}
		}
		if parts[0] == "install" || parts[0] == "extends" || parts[0] == "cloudinit" {
			ld.report(at, parts[0]+" cannot be set here", "write a definition that extends this one")
			continue
		}
		budget := largestTree
		if root = ld.expand(root, at.file, deepestLevel, &budget); root != nil {
			ld.check(root, installType, "")
			ld.merge(merged, root, "")
		}
	}
}
