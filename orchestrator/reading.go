package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// reading is what a layer reads besides its own words. Where its text does not tell for
// certain, it counts as read: a layer that is made once too often is right, one that is
// found by mistake is not.
type reading struct {
	ctx    context.Context
	plan   Plan
	text   strings.Builder // all that Ansible renders or runs
	opaque bool            // there is more of that than is looked at
	bare   bool            // some of it reads variables without Jinja's delimiters
	files  []string        // absolute paths of files that tasks have copied from the builder
	within string          // the folder that is being read, "" for none
	tasks  bool            // tasks of roles and playbooks are read
	plays  bool            // of playbooks, too
	beside []string        // paths that are read beside the folders of roles and playbooks
	around bool            // more of the project is read than shows
}

// largestText is how much of a file is looked at for what it reads, in bytes. Templates
// are no larger.
const largestText = 4 << 20

// entry puts the digest of each file that an entry names in place of its name.
func (r *reading) entry(entry *definition.InstallEntry) error {
	one := definition.Definition{Layers: []definition.Layer{{Install: []definition.InstallEntry{*entry}}}}
	templates := map[*string]bool{}
	for i := range entry.Templates {
		templates[&entry.Templates[i].Source] = true
	}
	for _, asset := range one.Assets() {
		path, kind := r.plan.assetPath(*asset), ""
		if templates[asset] {
			included, err := r.template(path)
			if err != nil {
				return err
			}
			kind = included
		} else if filepath.Ext(path) == ".asc" {
			kind = ".asc" // such a key has another name in the image
		}
		digest, _, err := image.Digest(r.ctx, path)
		if err != nil {
			return err
		}
		*asset = digest + kind
	}
	return nil
}

var (
	// includeStatement is where a template reads another one.
	includeStatement = regexp.MustCompile(`(?s)\{%[-+]?\s*(?:include|import|extends|from)\b(.*?)%\}`)
	// plainNames is what it reads, where the names are written there.
	plainNames = regexp.MustCompile(`(?s)^\s*\[?\s*((?:"[^"\\]*"|'[^'\\]*')(?:\s*,\s*(?:"[^"\\]*"|'[^'\\]*'))*)\s*,?\s*\]?\s*(?:[-+]?$|(?:as|import|with|without|ignore)\b)`)
	quoted     = regexp.MustCompile(`"[^"\\]*"|'[^'\\]*'`)
	// ownMarks is a template with other delimiters than Jinja's.
	ownMarks = regexp.MustCompile(`^#jinja2:.*_string`)
	// lookups find files beside the template that calls them.
	lookups = regexp.MustCompile(`\b(?:lookup|query)\b|\bq\s*\(`)
	// placed is the variables of a template that tell where and when it was written.
	placed = regexp.MustCompile(`\btemplate_(?:path|fullpath|mtime)\b`)
)

// template looks at a template. It returns the digest of all that it includes.
func (r *reading) template(path string) (string, error) {
	folder := filepath.Dir(path)
	seen := map[string]bool{filepath.Base(path): true}
	var included []string
	for pending := []string{filepath.Base(path)}; len(pending) > 0; pending = pending[1:] {
		content, err := r.look(filepath.Join(folder, pending[0]))
		if err != nil {
			return "", err
		}
		names, certain := includedNames(content)
		if !certain {
			whole, err := r.folder(folder)
			return digestOf(whole), err
		}
		for _, name := range names {
			for _, candidate := range []string{filepath.Join("templates", name), filepath.Clean(name)} { // the order of Ansible
				if !filepath.IsLocal(candidate) || seen[candidate] {
					continue // Jinja refuses names that lead out
				}
				seen[candidate] = true
				digest, _, err := image.Digest(r.ctx, filepath.Join(folder, candidate))
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return "", err
				}
				included, pending = append(included, candidate, digest), append(pending, candidate)
			}
		}
	}
	if placed.MatchString(r.text.String()) {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		included = append(included, path, info.ModTime().String())
	}
	if len(included) == 0 {
		return "", nil
	}
	return digestOf(included), nil
}

// includedNames is what a template includes, and whether that is all.
func includedNames(template string) (names []string, certain bool) {
	if ownMarks.MatchString(template) || lookups.MatchString(template) {
		return nil, false
	}
	for _, statement := range includeStatement.FindAllStringSubmatch(template, -1) {
		list := plainNames.FindStringSubmatch(statement[1])
		if list == nil {
			return nil, false
		}
		for _, name := range quoted.FindAllString(list[1], -1) {
			names = append(names, strings.TrimLeft(name[1:len(name)-1], "/"))
		}
	}
	return names, true
}

// look adds a file's text to what is rendered, and returns it.
func (r *reading) look(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, largestText+1))
	if err != nil || bytes.IndexByte(content, 0) >= 0 {
		return "", err // what has zeros is no text
	}
	r.opaque = r.opaque || len(content) > largestText || bytes.Contains(content, []byte(vaultMark))
	r.text.WriteString("\n")
	r.text.Write(content)
	r.names(path, string(content))
	return string(content), nil
}

// folder is the digest of a folder, all of which may be rendered.
func (r *reading) folder(path string) (string, error) {
	var in folderDigest
	if err := in.add(r.ctx, path); err != nil {
		return "", err
	}
	exact := false
	r.within = path
	defer func() { r.within = "" }()
	for _, file := range in.files {
		if besideRole(strings.TrimPrefix(file, path)) {
			continue
		}
		content, err := r.look(file)
		if err != nil {
			return "", err
		}
		exact = exact || copiesAsItIs.MatchString(content)
	}
	r.bare = true
	if exact {
		return digestOf(in.lines, in.exact), nil
	}
	return digestOf(in.lines), nil
}

// besideRole says whether a file of a role is for its readers and its developers alone.
func besideRole(path string) bool {
	in := strings.Split(path, "/")
	return !slices.Contains(in, "templates") &&
		(slices.Contains(in, "molecule") || slices.Contains(in, "tests") || strings.EqualFold(filepath.Ext(path), ".md"))
}

// copiesAsItIs is a role that copies modes or links of its files. Otherwise they are
// those of whoever checked it out.
var copiesAsItIs = regexp.MustCompile(`\b(?:preserve|local_follow|synchronize|local_action|delegate_to|connection)\b`)

// leavesRole is where a role may read what belongs to others.
var leavesRole = regexp.MustCompile(`\b(?:include|import)_role\b|\bdependencies["']?:\s*(?:[^\s\[]|\[\s*[^\s\]])|\.\./|\bdirname\b|(?i:roles_path)`)

// roles is the digest of the roles of those names: each by itself, or all that there are
// where they read each other.
func (r *reading) roles(names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	var digests []string
	for _, name := range names {
		path := r.plan.rolePath(name)
		if path == "" {
			r.opaque = true // of a collection, or known only when it runs
			return r.allRoles()
		}
		from := r.text.Len()
		digest, err := r.folder(path)
		if err != nil {
			return "", err
		}
		if leavesRole.MatchString(r.text.String()[from:]) {
			r.opaque = true // the other role may be of a collection
			return r.allRoles()
		}
		digests = append(digests, name, digest)
	}
	return digestOf(digests), nil
}

// allRoles is the digest of all roles that there are.
func (r *reading) allRoles() (digest string, err error) {
	var digests []string
	for _, path := range r.plan.rolesPaths() {
		digest, err := r.folder(path)
		if err != nil {
			return "", err
		}
		digests = append(digests, digest)
	}
	return digestOf(digests), nil
}

// readsAnyVariable is where the names of the variables that are read are not written.
var readsAnyVariable = regexp.MustCompile(`\b(?:hostvars|varnames|with_vars|with_varnames|lookup|query)\b|\bq\s*\(|\bvars\b(?:\s*[^\s:/]|\s*$)`)

// variables is those of vars that the layer, or one of them, reads. What they read
// counts as read by the layer.
func (r *reading) variables(layer definition.Layer, vars map[string]any) map[string]any {
	r.words(layer, false)
	used := map[string]any{}
	for again := true; again; {
		again = false
		text := r.text.String()
		any := r.opaque || readsAnyVariable.MatchString(text)
		for _, name := range slices.Sorted(maps.Keys(vars)) {
			if _, known := used[name]; known || !any && !strings.Contains(text, name) {
				continue
			}
			used[name], again = vars[name], true
			r.words(vars[name], r.bare)
		}
	}
	return used
}

// words adds the strings in a value to what is rendered: those that hold templates, or
// all, since conditions of roles need no delimiters.
func (r *reading) words(value any, bare bool) {
	var plain any
	if content, err := json.Marshal(value); err != nil || json.Unmarshal(content, &plain) != nil {
		r.opaque = true
		return
	}
	var each func(any)
	each = func(value any) {
		switch value := value.(type) {
		case string:
			r.opaque = r.opaque || strings.HasPrefix(value, vaultMark)
			if bare || strings.Contains(value, "{{") || strings.Contains(value, "{%") {
				r.text.WriteString("\n" + value)
			}
		case []any:
			for _, item := range value {
				each(item)
			}
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(value)) {
				each(key)
				each(value[key])
			}
		}
	}
	each(plain)
}

// readsBuild is the facts of the build; packages have such names, too.
var readsBuild = regexp.MustCompile(`\bbuild\b(?:[^-]|$)`)

func (r *reading) build() bool { return r.opaque || readsBuild.MatchString(r.text.String()) }

// Lookups of files of the builder, also as loops: what they are told, in a line or as a list
// below it.
var (
	fileLookup = regexp.MustCompile(`\b(?:lookup|query|q)\s*\(\s*["']([a-z_.]+)["']\s*,([^)]*)`)
	fileLoop   = regexp.MustCompile(`(?m)\bwith_(?:file|fileglob|filetree|first_found)["']?\s*:([^\n]*(?:\n[ \t]*(?:-[^\n:]*)?$)*)`)
	comment    = regexp.MustCompile(`(?m)(?:^|[ \t])#.*$`)
	quotedPath = regexp.MustCompile(`"(/[^"{}\n]*)|'(/[^'{}\n]*)`)
	barePath   = regexp.MustCompile(`(?m)(?:^|[\[,:\s])(/[^"'{}\n,\]]*)`)
)

// notOfFiles is lookups of something else, which may look like a path.
var notOfFiles = []string{"pipe", "env", "url", "vars", "lines"}

// outsidePaths is the absolute paths and patterns that lookups of files name.
func outsidePaths(text string) (all []string) {
	find := func(in string, kinds ...*regexp.Regexp) {
		for _, kind := range kinds {
			for _, found := range kind.FindAllStringSubmatch(in, -1) {
				all = append(all, strings.TrimSpace(strings.Join(found[1:], "")))
			}
		}
	}
	text = comment.ReplaceAllString(text, "")
	for _, use := range fileLookup.FindAllStringSubmatch(text, -1) {
		if plugin := use[1][strings.LastIndexByte(use[1], '.')+1:]; !slices.Contains(notOfFiles, plugin) {
			find(use[2], quotedPath)
		}
	}
	for _, use := range fileLoop.FindAllStringSubmatch(text, -1) {
		find(strings.ReplaceAll(use[1], "- ", "\n"), quotedPath, barePath)
	}
	return all
}

var (
	// firstFound is a list of files, or of folders, by keys of its own.
	firstFound = regexp.MustCompile(`first_found(?s:.{0,400})`)
	// upwards is folders above in a path, with what is before them.
	upwards = regexp.MustCompile(`([^\s"'\[,(=]?)((?:\.\./)+|\.\.$)`)
)

// farthestUp is how many folders up paths begin that lookups of files name: more than there are,
// where they begin otherwise.
func farthestUp(text string) (far int) {
	text = comment.ReplaceAllString(text, "")
	look := func(paths string) {
		for _, up := range upwards.FindAllStringSubmatch(paths, -1) {
			if far = max(far, strings.Count(up[2], "..")); up[1] != "" {
				far = math.MaxInt
			}
		}
	}
	for _, use := range fileLookup.FindAllStringSubmatch(text, -1) {
		if plugin := use[1][strings.LastIndexByte(use[1], '.')+1:]; !slices.Contains(notOfFiles, plugin) {
			look(use[2])
		}
	}
	for _, use := range fileLoop.FindAllStringSubmatch(text, -1) {
		look(use[1])
	}
	for _, use := range firstFound.FindAllString(text, -1) {
		look(use)
	}
	return far
}

// outside is the digests of the builder's files that tasks name, and lookups, by themselves or by
// a pattern.
func (r *reading) outside() (digests []string, err error) {
	for _, named := range append(outsidePaths(r.text.String()), r.files...) {
		paths, err := filepath.Glob(named)
		if err != nil || len(paths) == 0 {
			paths = []string{named}
		}
		for _, path := range append([]string{named}, paths...) {
			if r.plan.overlaid && hiddenByTools(path) {
				return nil, fail.New(fail.Usage, "--tools", "copy it beside the definition, or use this machine's own programs: --tools host", "a lookup or a task names %s, and the tools tree lies over that", path)
			}
		}
		for _, path := range paths {
			var in folderDigest
			if err := in.add(r.ctx, path); err != nil {
				return nil, err
			}
			digests = append(digests, path, digestOf(in.lines))
		}
	}
	return digests, nil
}

// folderDigest is all that is in a folder, through links.
type folderDigest struct {
	lines []string // names, contents, and whether it is a program: what git keeps
	exact []string // modes, and where links lead
	files []string // paths of the files
}

// add adds a folder, or a file. What is not there counts, too.
func (d *folderDigest) add(ctx context.Context, path string) error {
	return d.walk(ctx, path, ".", nil)
}

func (d *folderDigest) walk(ctx context.Context, path, name string, above []fs.FileInfo) error {
	info, err := os.Stat(path)
	if link, linked := os.Readlink(path); linked == nil {
		d.exact = append(d.exact, fmt.Sprintf("%q to %q", name, link))
	}
	circle := func(folder fs.FileInfo) bool { return os.SameFile(folder, info) }
	switch {
	case err != nil:
		if _, there := os.Lstat(path); there == nil || errors.Is(err, fs.ErrNotExist) {
			d.lines = append(d.lines, fmt.Sprintf("%q leads nowhere", name))
			return nil
		}
		return err
	case info.IsDir() && slices.ContainsFunc(above, circle):
		d.lines = append(d.lines, fmt.Sprintf("%q leads up by %d", name, len(above)-slices.IndexFunc(above, circle)))
	case info.IsDir():
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		d.lines, d.exact = append(d.lines, fmt.Sprintf("%q/", name)), append(d.exact, info.Mode().String())
		for _, entry := range entries {
			if entry.Name() == ".git" || entry.Name() == "__pycache__" {
				continue
			}
			if err := d.walk(ctx, filepath.Join(path, entry.Name()), filepath.Join(name, entry.Name()), append(above[:len(above):len(above)], info)); err != nil {
				return err
			}
		}
	case info.Mode().IsRegular():
		digest, _, err := image.Digest(ctx, path)
		if err != nil {
			return err
		}
		d.files = append(d.files, path)
		d.lines, d.exact = append(d.lines, fmt.Sprintf("%q %t %s", name, info.Mode()&0o100 != 0, digest)), append(d.exact, info.Mode().String())
	}
	return nil
}
