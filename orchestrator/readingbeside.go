package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// What roles and playbooks read of a project beside their own folders, as ../vars/x.yml does. A
// path that is written in full is looked for where Ansible looks; where one is not, all of the
// project counts that may be meant.

// notAnsibles is the folders of a project that are vmctl's; those that begin with a dot are
// nobody's.
var notAnsibles = []string{"install.d", "commands.d", "conf.d", "locks", "images"}

// ansiblesOwn is what lies in a project besides vmctl's own folders.
func ansiblesOwn(project string) (entries []fs.DirEntry, err error) {
	all, err := os.ReadDir(project)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range all {
		if name := entry.Name(); !strings.HasPrefix(name, ".") && !slices.Contains(notAnsibles, name) {
			entries = append(entries, entry)
		}
	}
	return entries, nil
}

// isResult says whether what lies in a project is, or may be, what builds and other verbs have
// made or are making there.
func isResult(project string, entry fs.DirEntry) bool {
	name := entry.Name()
	switch extension := filepath.Ext(name); {
	case entry.Type().IsRegular():
		return slices.Contains(diskformat.Suffixes(), extension) || extension == ".iso" || extension == ".log"
	case slices.Contains(kindFolders, name):
		return false
	}
	return strings.HasSuffix(name, definition.FailedSuffix) || hasImages(filepath.Join(project, name))
}

// hasImages says whether a folder is that of a build's results, or holds such folders, of builds
// that have failed, too, or that run.
func hasImages(folder string) bool {
	for _, below := range []string{ManifestName, "*/" + ManifestName, "*" + definition.FailedSuffix + "/" + LogName, ".*.work"} {
		if found, _ := filepath.Glob(filepath.Join(globbed.Replace(folder), below)); len(found) > 0 {
			return true
		}
	}
	return false
}

var (
	// kindFolders is where Ansible looks for a file first, beside what names it: by the kind of
	// task.
	kindFolders = []string{"", "files", "templates", "vars", "tasks"}
	// leavesFolders is a path that leads out of the folder of a playbook or role, without being
	// written in full.
	leavesFolders = regexp.MustCompile(`(?:playbook_dir|role_path|inventory_dir).*(?:\.\.|\bdirname\b)|(?:\.\.|\bdirname\b).*(?:playbook_dir|role_path|inventory_dir)`)
)

func leadsUp(path string) bool { return slices.Contains(strings.Split(path, "/"), "..") }

// names notes what the tasks of a file name: files elsewhere on the builder, and those beside the
// folder that is read.
func (r *reading) names(file, content string) {
	absolute, relative := namedByTasks(r.relative(file), content)
	r.files = append(r.files, absolute...)
	if !r.tasks {
		return
	}
	for _, path := range relative {
		switch {
		case r.within != "" && r.within != file && !leadsUp(path): // which is read as a whole
		case isJinja(path):
			literal, rest, _ := strings.Cut(path, "{")
			r.around = r.around || !r.staysWithin(file, strings.Count(literal, "..")) || strings.Contains(rest, "..")
		default:
			r.beside = append(r.beside, r.candidates(file, path)...)
		}
	}
	far := farthestUp(content)
	r.around = r.around || leavesFolders.MatchString(content) || far > 0 && !r.staysWithin(file, far)
}

// staysWithin says whether a path that begins so many folders up is in the role that is read,
// wherever Ansible looks for it first: in a folder of the role for each kind of file. With a
// playbook it also looks beside that.
func (r *reading) staysWithin(file string, up int) bool {
	return !r.plays && r.within != "" && r.within != file && up <= 1
}

// isJinja says whether a text is rendered.
func isJinja(text string) bool { return strings.Contains(text, "{{") || strings.Contains(text, "{%") }

// relative is a file's name in the project, or in what is read.
func (r *reading) relative(file string) string {
	for _, root := range []string{r.plan.Project, r.plan.Installed, filepath.Dir(r.within)} {
		if name, err := filepath.Rel(root, file); err == nil && filepath.IsLocal(name) {
			return name
		}
	}
	return file
}

// candidates is where Ansible may look for a path that a file names.
func (r *reading) candidates(file, path string) (all []string) {
	roots := []string{filepath.Dir(file), filepath.Join(r.plan.Project, playbooksFolder)}
	if r.within != "" && r.within != file {
		roots = append(roots, r.within)
	}
	for _, root := range slices.Clone(roots) {
		if real, err := filepath.EvalSymlinks(root); err == nil && real != root {
			roots = append(roots, real)
		}
	}
	for _, root := range roots {
		for _, kind := range kindFolders {
			candidate := filepath.Join(root, kind, path)
			if !slices.Contains(all, candidate) {
				all = append(all, candidate)
			}
		}
	}
	return all
}

// besideFolders is the digests of what is read beside the folders of roles and playbooks, where
// words are further texts that may have paths.
func (r *reading) besideFolders(words []string) ([]string, error) {
	for _, text := range words {
		r.around = r.around || leavesFolders.MatchString(text) || farthestUp(text) > 0
	}
	return r.namedBeside(map[string]bool{})
}

// lookAround looks at tasks, variables and templates beside the playbooks, which may be read, and
// returns the digests of what these name.
func (r *reading) lookAround() ([]string, error) {
	for _, name := range append([]string{"handlers"}, kindFolders[1:]...) {
		err := filepath.WalkDir(filepath.Join(r.plan.Project, name), func(path string, entry fs.DirEntry, err error) error {
			extension := filepath.Ext(path)
			if err == nil && entry.Type().IsRegular() && (slices.Contains(variableEndings[1:], extension) || extension == ".j2") {
				_, err = r.look(path)
			}
			if unseen(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return r.namedBeside(map[string]bool{})
}

// namedBeside is the digests of all that is named beside the folders, also by what is found so, but for
// what is seen already.
func (r *reading) namedBeside(seen map[string]bool) (digests []string, err error) {
	for ; len(r.beside) > 0; r.beside = r.beside[1:] {
		path := r.beside[0]
		if seen[path] {
			continue
		}
		seen[path] = true
		if holds(path, r.plan.Project) { // a folder with all of it, or none
			r.around = true
			continue
		}
		if _, err := os.Stat(path); err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		} else if err != nil {
			digests = append(digests, r.relative(path))
			continue
		}
		digest, err := r.folder(path)
		if err != nil {
			return nil, err
		}
		digests = append(digests, r.relative(path), digest)
	}
	return digests, nil
}

// holds says whether a path lies in a folder, or is it.
func holds(folder, path string) bool {
	name, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(name)
}

// mostOfProject is how much of a project counts by its bytes: what there is more counts by sizes
// and times.
const mostOfProject = 256 << 20

// wholeProject is the digest of all that may be meant in a project, as it is when a build begins,
// without what links lead to elsewhere.
type wholeProject struct {
	once   sync.Once
	digest string
	err    error
}

// of is the digest of that project.
func (w *wholeProject) of(ctx context.Context, project string) (string, error) {
	w.once.Do(func() { w.digest, w.err = digestOfProject(ctx, project) })
	return w.digest, w.err
}

func digestOfProject(ctx context.Context, project string) (string, error) {
	entries, err := ansiblesOwn(project)
	if err != nil {
		return "", err
	}
	var lines []string
	left := int64(mostOfProject)
	for _, entry := range entries {
		name := entry.Name()
		if name == collectionsFolder || isResult(project, entry) { // the first counts by itself
			continue
		}
		root := filepath.Join(project, name)
		if slices.Contains(kindFolders, name) {
			if real, err := filepath.EvalSymlinks(root); err == nil {
				root = real
			}
		}
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case unseen(err):
				return nil
			case err != nil:
				return err
			case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "__pycache__"):
				return fs.SkipDir
			}
			line, err := inProject(ctx, project, path, entry, &left)
			if unseen(err) {
				return nil
			}
			lines = append(lines, name+strings.TrimPrefix(path, root)+" "+line)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return digestOf(lines), nil
}

// unseen is an error about a file that Ansible does not read either.
func unseen(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}

// inProject is what of a file counts, and leaves less to count by its bytes.
func inProject(ctx context.Context, project, path string, entry fs.DirEntry, left *int64) (string, error) {
	link := ""
	if entry.Type()&fs.ModeSymlink != 0 {
		link, _ = os.Readlink(path)
		if real, err := filepath.EvalSymlinks(path); err != nil || !holds(project, real) {
			return link, nil
		}
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return link, err
	}
	if info.Size() > *left {
		return fmt.Sprintf("%s %d %s", link, info.Size(), info.ModTime().UTC()), nil
	}
	*left -= info.Size()
	digest, _, err := image.Digest(ctx, path)
	return fmt.Sprintf("%s %t %s", link, info.Mode()&0o100 != 0, digest), err
}
