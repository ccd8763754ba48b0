package definition

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Strays reports files in the definitions' folders that no build would read,
// those left out that a definition names as content for the image.
func (l *Library) Strays() Problems {
	named := map[string]bool{}
	for _, name := range l.Names() {
		_, ld := l.load(name, nil)
		for file := range ld.named {
			named[file] = true
		}
	}
	unused := newLoading(l)
	unused.requirements()
	strays := unused.problems
	for index, o := range l.roots {
		for _, folder := range []string{installFolder, commandsFolder} {
			entries, _ := o.list(folder) // NewLibrary has told what is wrong with it
			for _, entry := range entries {
				found := l.strays(o, folder, entry)
				strays = append(strays, slices.DeleteFunc(found, func(p Problem) bool {
					return named[l.mark(index)+strings.TrimPrefix(p.File, o.prefix)]
				})...)
			}
		}
	}
	return strays
}

// strays is what no build would read of one entry of install.d or commands.d.
func (l *Library) strays(o root, folder string, entry fs.DirEntry) Problems {
	inside := path.Join(folder, entry.Name())
	if info, err := fs.Stat(o.files, inside); err == nil && info.IsDir() {
		return l.strayDropIns(o, inside)
	}
	if stray := ignored(o, inside); stray != nil {
		return Problems{*stray}
	}
	name, yml := strings.CutSuffix(entry.Name(), ".yml")
	if _, known := l.builds[name]; yml && !known {
		return Problems{l.withoutBuild(o, inside, name)}
	}
	return nil
}

func (l *Library) strayDropIns(o root, folder string) Problems {
	entries, problem := o.list(folder)
	if problem != nil {
		return Problems{*problem}
	}
	var strays Problems
	for _, entry := range entries {
		file := path.Join(folder, entry.Name())
		if stray := ignored(o, file); stray != nil {
			strays = append(strays, *stray)
		}
	}
	name := path.Base(folder)
	if _, known := l.builds[name]; known {
		return strays
	}
	for _, file := range ymlFiles(folder, entries) {
		strays = append(strays, l.withoutBuild(o, file, name))
	}
	return strays
}

// ignored is the problem of a file whose name looks like a definition's.
func ignored(o root, file string) *Problem {
	if !strings.HasSuffix(file, ".yaml") {
		return nil
	}
	return &Problem{File: o.prefix + file, What: "the file is ignored", Mend: "rename it to end in .yml"}
}

func (l *Library) withoutBuild(o root, file, name string) Problem {
	mend := "write it, or rename this to the build it belongs to"
	if near := Nearest(name, l.Names()); near != "" {
		mend += "; did you mean \"" + near + "\"?"
	}
	return Problem{File: o.prefix + file, What: "there is no " + path.Join(installFolder, name+".yml"), Mend: mend}
}
