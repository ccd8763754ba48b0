package definition

import (
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Library holds the definitions that a user can name: those of a working
// folder, and behind them the ones embedded in the binary.
type Library struct {
	roots []root // the nearest first
	// builds and commands are the nearest root of each name's main files.
	builds, commands map[string]int
}

// root is one folder that holds install.d and commands.d.
type root struct {
	files fs.FS
	// prefix goes in front of file names in messages, so that people can open
	// what is named.
	prefix string
}

const (
	installFolder   = "install.d"
	rolesFolder     = "roles"
	playbooksFolder = "playbooks"
	commandsFolder  = "commands.d"
)

var (
	installType = reflect.TypeFor[InstallFile]()
	commandType = reflect.TypeFor[CommandsFile]()
)

// NewLibrary is a library of the working folder's definitions and, behind
// them, the embedded ones. prefix goes in front of the working folder's file
// names in messages; it is "" for the current folder. It fails where a folder
// cannot be listed, since nobody knows what is defined then.
func NewLibrary(working fs.FS, prefix string, embedded fs.FS) (*Library, error) {
	l := &Library{roots: []root{{working, prefix}, {embedded, embeddedPrefix}}}
	var problems Problems
	index := func(folder string) map[string]int {
		nearest := map[string]int{}
		for i, o := range l.roots {
			entries, problem := o.list(folder)
			if problem != nil {
				problems = append(problems, *problem)
			}
			for _, file := range ymlFiles(folder, entries) {
				name := strings.TrimSuffix(path.Base(file), ".yml")
				if _, taken := nearest[name]; !taken {
					nearest[name] = i
				}
			}
		}
		return nearest
	}
	l.builds, l.commands = index(installFolder), index(commandsFolder)
	return l, problems.err()
}

// list is what the folder holds, hidden entries left out; nothing where there
// is no such folder.
func (o root) list(folder string) ([]fs.DirEntry, *Problem) {
	entries, err := fs.ReadDir(o.files, folder)
	if err == nil {
		return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }), nil
	}
	info, stat := fs.Stat(o.files, folder)
	switch {
	case !isThere(o.files, folder):
		return nil, nil
	case stat == nil && !info.IsDir() && strings.Contains(folder, "/"):
		return nil, nil // a file beside the definitions, of a build's name
	case stat == nil && !info.IsDir():
		return nil, &Problem{File: o.prefix + folder, What: "there is " + kindOf(info) + " in place of the folder", Mend: "make it a folder of definitions"}
	}
	what, mend := because(o.files, folder, err)
	return nil, &Problem{File: o.prefix + folder, What: "the folder " + what, Mend: mend}
}

// ymlFiles is the definitions among the folder's entries.
func ymlFiles(folder string, entries []fs.DirEntry) []string {
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && strings.HasSuffix(entry.Name(), ".yml") {
			files = append(files, path.Join(folder, entry.Name()))
		}
	}
	return files
}

// Names is the names of all builds, sorted.
func (l *Library) Names() []string { return sortedKeys(l.builds) }

// Load is the effective definition of the build, with the settings (key=value,
// from --set) applied last. Its error holds every mistake of the build's files.
func (l *Library) Load(name string, settings []string) (*Definition, error) {
	if _, known := l.builds[name]; !known {
		return nil, l.unknown(name)
	}
	definition, ld := l.load(name, settings)
	if err := ld.problems.err(); err != nil {
		return nil, err
	}
	return definition, nil
}

// load reads the build as Load does; what is wrong is in the loading.
func (l *Library) load(name string, settings []string) (*Definition, *loading) {
	ld := newLoading(l)
	chain := ld.chain(name)
	merged := mapping()
	var layers []Layer
	for _, build := range slices.Backward(chain) {
		layers = append(layers, ld.layer(build))
		drop(build.install, "install")
		ld.merge(merged, build.install, "")
		if given := value(build.install, "cloudinit"); given != nil {
			ld.cloudInit(&layers[len(layers)-1], value(merged, "cloudinit"), given)
		}
	}
	ld.apply(merged, settings)
	var file InstallFile
	if err := merged.Decode(&file); err != nil {
		if len(ld.problems) == 0 {
			ld.report(place{file: name}, err.Error(), "correct the value")
		}
		return nil, ld
	}
	definition := file.effective(name, layers)
	if definition.usesProject() {
		definition.Requirements = ld.requirements().all
	}
	definition.Vaulted = ld.vaulted
	ld.validate(definition, merged)
	return definition, ld
}

func (l *Library) unknown(name string) error {
	hint := "'vmctl list' shows what there is; 'vmctl new " + name + "' starts a new one"
	if near := Nearest(name, l.Names()); near != "" {
		hint = fmt.Sprintf("did you mean %q? 'vmctl list' shows what there is", near)
	} else if err := CheckName(name); err != nil {
		return err
	}
	return fail.New(fail.Usage, "", hint, "there is no build %q: no install.d/%s.yml", name, name)
}

// effective turns the merged file into a definition, without defaults.
func (f InstallFile) effective(name string, layers []Layer) *Definition {
	d := &Definition{
		Name: name, Description: f.Description, Source: f.Source, Disk: f.Disk, Firmware: f.Firmware,
		Hostname: f.Hostname, Vars: f.Vars, Secrets: f.Secrets, Facts: f.Facts, Python: f.Python, Boot: f.Boot, Test: f.Test, Outputs: f.Outputs, Layers: layers,
	}
	d.applyDefaults()
	return d
}
