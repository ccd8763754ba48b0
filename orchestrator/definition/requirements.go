package definition

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// RequirementsFiles is where ansible-galaxy and its users look for what a project needs from
// elsewhere, from the folder that holds install.d.
var RequirementsFiles = []string{"requirements.yml", "roles/requirements.yml", "collections/requirements.yml"}

// Requirement is a role or collection that is installed from elsewhere.
type Requirement struct {
	Kind    string `yaml:"kind" json:"kind"`                           // RequiredRole or RequiredCollection
	Name    string `yaml:"name,omitempty" json:"name,omitempty"`       // "" for a collection that tells its own
	Source  string `yaml:"source,omitempty" json:"source,omitempty"`   // URL, path, or a role's name of Galaxy's
	Server  string `yaml:"server,omitempty" json:"server,omitempty"`   // URL of the Galaxy; "" for the usual one
	SCM     string `yaml:"scm,omitempty" json:"scm,omitempty"`         // git or hg; "" for none
	Version string `yaml:"version,omitempty" json:"version,omitempty"` // a tag, branch or commit, too
	Type    string `yaml:"type,omitempty" json:"type,omitempty"`       // of a collection, as Galaxy calls it; "" for what the source looks like
	Origin  string `yaml:"-" json:"origin,omitempty"`
}

// The kinds of requirements.
const (
	RequiredRole       = "role"
	RequiredCollection = "collection"
)

const (
	galaxyType = "galaxy"
	gitType    = "git"
)

var (
	roleNamePattern   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	collectionPattern = regexp.MustCompile(`^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$`)
	// overSSH is git's short form of an address.
	overSSH = regexp.MustCompile(`^[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:`)
	commit  = regexp.MustCompile(`^[0-9a-f]{7,64}$`)
	// numbered is a version, or the name of a tag that looks like one.
	numbered = regexp.MustCompile(`^=*v?[0-9]+(?:\.[0-9A-Za-z+~-]+)*$`)
)

// String is what people call it. It has no user and query of an address.
func (r Requirement) String() string {
	name := r.Name
	if name == "" {
		name = address(r.Source)
	}
	return strings.TrimSpace(r.Kind + " " + name + " " + r.Version)
}

// galaxys says whether Galaxy knows it by its name.
func (r Requirement) galaxys() bool {
	if r.Kind == RequiredCollection {
		return r.Type == galaxyType
	}
	return r.SCM == "" && !strings.ContainsAny(r.Source, "/:") && !strings.Contains(r.Source, ".tar")
}

// Local is the path that it is installed from, absolute or from the folder that holds
// install.d; "" for what is elsewhere.
func (r Requirement) Local() string {
	if r.galaxys() {
		return ""
	}
	source := strings.TrimPrefix(r.Source, "git+")
	if file, ok := strings.CutPrefix(source, "file://"); ok {
		return file
	}
	if strings.Contains(source, "://") || overSSH.MatchString(source) {
		return ""
	}
	return source
}

// Git says whether it comes from a repository of git.
func (r Requirement) Git() bool {
	if r.Kind == RequiredRole {
		return r.SCM == gitType
	}
	return r.Type == gitType || r.Type == "" && (strings.HasPrefix(r.Source, "git+") || overSSH.MatchString(r.Source) || strings.HasSuffix(r.Source, ".git"))
}

// Moves says whether it may be another one tomorrow. What is local counts by its content, and
// is what it is.
func (r Requirement) Moves() bool {
	switch {
	case r.galaxys() && r.Kind == RequiredRole:
		return r.Version == ""
	case r.galaxys():
		return !numbered.MatchString(r.Version)
	case r.Local() == "" && (r.SCM != "" || r.Git()):
		return !commit.MatchString(r.Version) && !numbered.MatchString(r.Version)
	}
	return false
}

// redacted is without what may be secret of addresses.
func (r Requirement) redacted() Requirement {
	r.Source, r.Server = address(r.Source), address(r.Server)
	return r
}

// needed is what the files of requirements ask for.
type needed struct {
	all    []Requirement
	unsure bool // something in them was not understood, and is reported
}

// mayHave says whether there is a role of that name among them.
func (n needed) mayHave(role string) bool {
	return n.unsure || slices.ContainsFunc(n.all, func(r Requirement) bool { return r.Kind == RequiredRole && r.Name == role })
}

// requirements is what the files of the working folder ask for; their mistakes are reported.
func (ld *loading) requirements() needed {
	if ld.needed == nil {
		before := len(ld.problems)
		all := ld.readRequirements()
		ld.needed = &needed{all, len(ld.problems) > before}
	}
	return *ld.needed
}

func (ld *loading) readRequirements() (all []Requirement) {
	in := ld.library.roots[0]
	for _, file := range RequirementsFiles {
		if !isThere(in.files, file) {
			continue
		}
		content, err := readFile(in.files, file, largestDefinition)
		if err != nil {
			what, mend := because(in.files, file, err)
			ld.report(place{in.prefix + file, 0}, "the file "+what, mend)
			continue
		}
		all = append(all, ld.requirementsIn(file, in.prefix+file, content)...)
	}
	seen := map[string]bool{}
	for _, r := range all {
		if name := r.Kind + " " + r.Name; r.Name != "" && seen[name] {
			ld.report(ld.placeOfOrigin(r.Origin), fmt.Sprintf("the %s is named twice", name), "keep one")
		} else {
			seen[name] = true
		}
	}
	return all
}

// placeOfOrigin is the place that an origin names.
func (ld *loading) placeOfOrigin(origin string) place {
	at := strings.LastIndexByte(origin, ':')
	var line int
	_, _ = fmt.Sscanf(origin[at+1:], "%d", &line) // written by origin
	return place{origin[:at], line}
}

func (ld *loading) requirementsIn(file, shown string, content []byte) (all []Requirement) {
	var document yaml.Node
	if onlyComments(content) {
		return nil
	}
	if err := yaml.Load(content, &document); err != nil || len(document.Content) != 1 {
		ld.syntaxError(shown, err)
		return nil
	}
	ld.texts[shown] = string(content)
	budget := largestTree
	top := ld.expand(document.Content[0], shown, deepestLevel, &budget)
	switch {
	case top == nil:
		return nil
	case top.Kind == yaml.SequenceNode && !strings.HasPrefix(file, "collections/"):
		return ld.requiredRoles(top)
	case top.Kind != yaml.MappingNode:
		ld.report(ld.places[top], "the file has no lists of roles and collections", "write 'roles:' and 'collections:', as ansible-galaxy knows them")
		return nil
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, list := top.Content[i].Value, top.Content[i+1]
		switch {
		case list.Tag == "!!null":
		case key != "roles" && key != "collections":
			ld.report(ld.places[top.Content[i]], fmt.Sprintf("unknown key %q", key), "known here: roles, collections")
		case list.Kind != yaml.SequenceNode:
			ld.report(ld.places[list], key+": expected a list", "begin each item with a hyphen")
		case key == "roles":
			all = append(all, ld.requiredRoles(list)...)
		default:
			all = append(all, ld.requiredCollections(list)...)
		}
	}
	return all
}

// words is the values of a requirement's keys. What ansible-galaxy passes over is passed over.
func (ld *loading) words(n *yaml.Node, refused map[string]string) (map[string]string, bool) {
	values := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		if why := refused[key]; why != "" {
			ld.report(ld.places[n.Content[i]], key+" is not supported", why)
			return nil, false
		}
		if value.Kind == yaml.ScalarNode && value.Tag != "!!null" {
			values[key] = value.Value
		}
	}
	return values, true
}

const hintRequirement = "write {name: NAME, src: URL or path, version: VERSION}, or a name of Galaxy's"

func (ld *loading) requiredRoles(list *yaml.Node) (all []Requirement) {
	for _, item := range list.Content {
		values, usable := ld.words(item, map[string]string{"include": "put what it includes into this file"})
		if item.Kind == yaml.ScalarNode { // SRC[,VERSION[,NAME]]
			words := strings.SplitN(strings.TrimSpace(item.Value), ",", 3)
			for i, key := range []string{"src", "version", "name"}[:len(words)] {
				values[key] = words[i]
			}
		}
		if !usable {
			continue
		}
		r := requiredRole(values)
		r.Origin = ld.origin(item)
		if !roleNamePattern.MatchString(r.Name) {
			ld.report(ld.places[item], "roles: the requirement has no usable name", hintRequirement)
			continue
		}
		if ld.checkLocal(r, item) {
			all = append(all, r)
		}
	}
	return all
}

// requiredRole is the role that ansible-galaxy would take the values for.
func requiredRole(values map[string]string) Requirement {
	r := Requirement{Kind: RequiredRole, Name: values["name"], SCM: values["scm"], Version: values["version"]}
	source := values["src"]
	if r.Name == "" && source == "" {
		r.Name = values["role"]
	}
	if source == "" {
		return r
	}
	if strings.Contains(source, "github.com") && strings.Contains(source, "http") && !strings.Contains(source, "+") && !strings.HasSuffix(source, ".tar.gz") {
		r.SCM = gitType
	}
	if scm, rest, ok := strings.Cut(source, "+"); ok && (scm == gitType || scm == "hg") {
		r.SCM, source = scm, rest
	}
	if r.Name == "" {
		r.Name = strings.TrimSuffix(strings.TrimSuffix(path.Base(source), ".git"), ".tar.gz")
	}
	r.Source = source
	return r
}

func (ld *loading) requiredCollections(list *yaml.Node) (all []Requirement) {
	for _, item := range list.Content {
		values, usable := ld.words(item, map[string]string{"signatures": "name its version, and leave them out: signatures are not checked here"})
		if item.Kind == yaml.ScalarNode {
			values["name"] = strings.TrimSpace(item.Value)
			if name, version, ok := strings.Cut(item.Value, ":"); ok && collectionPattern.MatchString(name) {
				values["name"], values["version"] = name, version
			}
		}
		if !usable {
			continue
		}
		r := Requirement{Kind: RequiredCollection, Name: values["name"], Version: values["version"], Type: values["type"], Origin: ld.origin(item)}
		galaxys := r.Type == galaxyType || r.Type == "" && collectionPattern.MatchString(r.Name)
		switch {
		case galaxys && collectionPattern.MatchString(r.Name):
			r.Server, r.Type = values["source"], galaxyType
		case galaxys || r.Name == "" && values["source"] == "":
			ld.report(ld.places[item], "collections: the requirement has no usable name", "write NAMESPACE.NAME, an address or a path")
			continue
		case values["source"] != "":
			r.Source = values["source"]
		default:
			r.Name, r.Source = "", r.Name
		}
		if ld.checkLocal(r, item) {
			all = append(all, r)
		}
	}
	return all
}

// checkLocal reports a local source that is not there.
func (ld *loading) checkLocal(r Requirement, n *yaml.Node) bool {
	name := r.Local()
	if name == "" {
		return true
	}
	in := ld.library.roots[0]
	files, inside := in.files, path.Clean(filepath.ToSlash(name))
	if working, ok := files.(folder); ok && !path.IsAbs(inside) && !filepath.IsLocal(inside) {
		inside, _ = filepath.Abs(filepath.Join(working.path, inside))
	}
	if path.IsAbs(inside) {
		files, inside = Folder("/"), strings.TrimPrefix(inside, "/")
	}
	if inside == "" || isThere(files, inside) {
		return true
	}
	ld.report(ld.places[n], fmt.Sprintf("%ss: there is no %s", r.Kind, name), "put it there or correct the path; a relative one starts from the folder that holds install.d")
	return false
}

// usesProject says whether a build has roles or playbooks, which may need what is required.
func (d *Definition) usesProject() bool {
	for _, layer := range d.Layers {
		for _, e := range layer.Install {
			if len(e.Roles)+len(e.Playbooks) > 0 {
				return true
			}
		}
	}
	return false
}
