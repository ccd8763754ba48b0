package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Library holds the definitions that a user can name: those of a working
// folder, and behind them the ones embedded in the binary.
type Library struct {
	sources []origin // the nearest first
}

// origin is one place that holds install.d and commands.d.
type origin struct {
	files fs.FS
	// prefix goes in front of file names in messages, so that people can open
	// what is named.
	prefix string
}

// NewLibrary is a library of the working folder's definitions and, behind
// them, the embedded ones. prefix goes in front of the working folder's file
// names in messages; it is "" for the current folder.
func NewLibrary(working fs.FS, prefix string, embedded fs.FS) *Library {
	return &Library{sources: []origin{{working, prefix}, {embedded, "(embedded) "}}}
}

const (
	installFolder  = "install.d"
	commandsFolder = "commands.d"
)

var (
	namePattern = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*$`)
	installType = reflect.TypeFor[InstallFile]()
	commandType = reflect.TypeFor[CommandsFile]()
)

// Names is the names of all builds, sorted.
func (l *Library) Names() []string {
	var names []string
	for _, o := range l.sources {
		for _, name := range ymlFiles(o.files, installFolder) {
			names = append(names, strings.TrimSuffix(path.Base(name), ".yml"))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Strays reports files in the definitions' folders that no build would read.
func (l *Library) Strays() Problems {
	var strays Problems
	for _, o := range l.sources {
		for _, folder := range []string{installFolder, commandsFolder} {
			entries, _ := fs.ReadDir(o.files, folder)
			for _, entry := range entries {
				strays = append(strays, l.stray(o, folder, entry)...)
			}
		}
	}
	return strays
}

func (l *Library) stray(o origin, folder string, entry fs.DirEntry) Problems {
	file := o.prefix + path.Join(folder, entry.Name())
	base, yml := strings.CutSuffix(entry.Name(), ".yml")
	switch {
	case entry.IsDir():
		return nil
	case strings.HasSuffix(entry.Name(), ".yaml"):
		return Problems{{File: file, What: "the file is ignored", Mend: "rename it to end in .yml"}}
	case yml && !namePattern.MatchString(base):
		return Problems{{File: file, What: fmt.Sprintf("%q is no name for a build", base), Mend: "use lower-case letters, digits, and dots or hyphens between them"}}
	case yml && folder == commandsFolder && l.find(path.Join(installFolder, entry.Name())) < 0:
		return Problems{{File: file, What: "there is no install.d/" + entry.Name(), Mend: "write it, or rename this file to the build it belongs to"}}
	}
	return nil
}

func ymlFiles(files fs.FS, folder string) []string {
	entries, err := fs.ReadDir(files, folder)
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if !entry.IsDir() && strings.HasSuffix(entry.Name(), ".yml") && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, path.Join(folder, entry.Name()))
		}
	}
	return names
}

// find is the index of the nearest source that holds the file, or -1.
func (l *Library) find(name string) int {
	return slices.IndexFunc(l.sources, func(o origin) bool {
		_, err := fs.Stat(o.files, name)
		return err == nil
	})
}

// Load is the effective definition of the build, with the settings (key=value,
// from --set) applied last. Its error holds every mistake of the build's files.
func (l *Library) Load(name string, settings []string) (*Definition, error) {
	if l.find(path.Join(installFolder, name+".yml")) < 0 {
		return nil, l.unknown(name)
	}
	ld := &loading{library: l, reader: newReader(), sources: map[string]int{}}
	chain := ld.chain(name)
	merged := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	var layers []Layer
	for _, build := range slices.Backward(chain) {
		layers = append(layers, ld.layer(build))
		ld.merge(merged, build.install, "")
	}
	ld.apply(merged, settings)
	var file InstallFile
	if err := merged.Decode(&file); err != nil {
		if len(ld.problems) == 0 {
			return nil, &fail.Error{Kind: fail.Usage, Op: name, Err: err}
		}
		return nil, ld.problems.err()
	}
	definition := file.effective(name, layers)
	ld.validate(definition, merged)
	if err := ld.problems.err(); err != nil {
		return nil, err
	}
	return definition, nil
}

func (l *Library) unknown(name string) error {
	hint := "'vmctl list' shows what there is; 'vmctl new " + name + "' starts a new one"
	if near := Nearest(name, l.Names()); near != "" {
		hint = fmt.Sprintf("did you mean %q? 'vmctl list' shows what there is", near)
	}
	return fail.New(fail.Usage, "", hint, "there is no build %q: no install.d/%s.yml", name, name)
}

// effective turns the merged file into a definition, without defaults.
func (f InstallFile) effective(name string, layers []Layer) *Definition {
	d := &Definition{
		Name: name, Description: f.Description, Source: f.Source, Disk: f.Disk, Firmware: f.Firmware,
		Hostname: f.Hostname, Vars: f.Vars, Boot: f.Boot, Test: f.Test, Outputs: f.Outputs, Layers: layers,
	}
	d.applyDefaults()
	return d
}

// loading is the state of one Load.
type loading struct {
	reader
	library *Library
	sources map[string]int // index of the library's source, by file name in messages
}

// buildFiles is one build of an extends chain: its files, merged.
type buildFiles struct {
	name     string
	source   int // index of the library's source that holds the main file
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
			return chain
		}
		parent, at := extends.Value, ld.places[extends]
		if slices.Contains(names, parent) {
			ld.report(at, "extends goes in a circle: "+strings.Join(append(names, parent), " → "), "remove one extends")
			return chain
		}
		if ld.library.find(path.Join(installFolder, parent+".yml")) < 0 {
			mend := "write install.d/" + parent + ".yml, or name one of: " + strings.Join(ld.library.Names(), ", ")
			if near := Nearest(parent, ld.library.Names()); near != "" {
				mend = fmt.Sprintf("did you mean %q?", near)
			}
			ld.report(at, fmt.Sprintf("extends: there is no build %q", parent), mend)
			return chain
		}
		name = parent
	}
}

// build reads and merges the files of one build, without its parents.
func (ld *loading) build(name string) *buildFiles {
	l := ld.library
	b := &buildFiles{
		name: name, install: mapping(), commands: mapping(),
		source: l.find(path.Join(installFolder, name+".yml")),
	}
	ld.mergeFile(b.install, b.source, path.Join(installFolder, name+".yml"), installType)
	ld.mergeDropIns(b, b.install, path.Join(installFolder, name), installType)
	commands := path.Join(commandsFolder, name+".yml")
	if at := l.find(commands); at >= 0 && at <= b.source {
		ld.mergeFile(b.commands, at, commands, commandType)
	}
	ld.mergeDropIns(b, b.commands, path.Join(commandsFolder, name), commandType)
	return b
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

// mergeDropIns merges the folder's files in lexical order. Where several
// sources hold a file of one name, the nearest counts; sources behind the one
// of the build's main file do not take part.
func (ld *loading) mergeDropIns(b *buildFiles, into *yaml.Node, folder string, shape reflect.Type) {
	nearest := map[string]int{}
	for i, o := range ld.library.sources[:b.source+1] {
		for _, file := range ymlFiles(o.files, folder) {
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

func (ld *loading) mergeFile(into *yaml.Node, source int, file string, shape reflect.Type) {
	o := ld.library.sources[source]
	content, err := fs.ReadFile(o.files, file)
	if err != nil {
		if pathError, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathError.Err
		}
		ld.report(place{o.prefix + file, 0}, "cannot be read: "+err.Error(), "make it a readable file")
		return
	}
	ld.sources[o.prefix+file] = source
	if root := ld.read(o.prefix+file, content, shape); root != nil {
		ld.merge(into, root, "")
	}
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
	for _, kind := range []string{"bootstrap", "tarball"} {
		if value(new, kind) == nil && len(new.Content) > 0 {
			drop(old, kind)
		}
	}
	r.merge(old, new, "source")
}

// apply sets the keys of --set, which reach into mappings with dots.
func (ld *loading) apply(merged *yaml.Node, settings []string) {
	for _, setting := range settings {
		key, text, ok := strings.Cut(setting, "=")
		at := place{file: "--set " + key}
		if !ok || key == "" {
			ld.report(place{file: "--set " + setting}, "there is no key=value in it", "write it as --set disk.size=4G")
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
		if parts[0] == "install" || parts[0] == "extends" {
			ld.report(at, parts[0]+" cannot be set here", "write a definition that extends this one")
			continue
		}
		budget := largestTree
		if root = ld.expand(root, at.file, deepestLevel, &budget); root != nil {
			ld.check(root, installType, "")
			ld.merge(merged, root, "")
		}
	}
	for n, at := range ld.places {
		if strings.HasPrefix(at.file, "--set ") {
			ld.places[n] = place{file: at.file}
		}
	}
}
