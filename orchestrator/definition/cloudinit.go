package definition

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/seed"
)

// datasourcesFile comes after the one that Debian's package has (90_dpkg.cfg), and so beats it.
const datasourcesFile = "/etc/cloud/cloud.cfg.d/95-datasources.cfg"

// defaultDatasources looks at nothing but disks and the image itself. None goes on without,
// where nobody has said anything.
var defaultDatasources = []string{"NoCloud", "None"}

var datasourcePattern = regexp.MustCompile(`^[A-Za-z0-9]+$`)

// cloudInit turns what a build tells cloud-init, with what those that it extends do, into
// entries of its layer, so that it is rendered, kept secret and stored as all else is. own is
// what the build itself says of that.
func (ld *loading) cloudInit(layer *Layer, n, own *yaml.Node) {
	if ld.broken[n] || n.Kind != yaml.MappingNode {
		return
	}
	sources := defaultDatasources
	if list := value(n, "datasources"); list != nil && !ld.broken[list] {
		sources = nil
		for _, item := range list.Content {
			if !datasourcePattern.MatchString(item.Value) {
				ld.report(ld.places[item], fmt.Sprintf("cloudinit.datasources: %q is no data source", item.Value), "name them as cloud-init's documentation does, such as NoCloud or Ec2")
			}
			sources = append(sources, item.Value)
		}
	}
	var entries []InstallEntry
	var checks []CommandEntry
	add := func(at place, name string, e InstallEntry) {
		e.Name, e.Origin = "cloud-init: "+name, fmt.Sprintf("%s:%d", at.file, at.line)
		entries = append(entries, e)
	}
	add(ld.places[own], "data sources", InstallEntry{Files: []File{{Path: datasourcesFile, Content: "datasource_list: [" + strings.Join(sources, ", ") + "]\n"}}})
	given := slices.DeleteFunc(slices.Clone(seed.Names), func(name string) bool { return value(n, name) == nil })
	for _, name := range given {
		part := value(n, name)
		if ld.broken[part] {
			continue
		}
		at := ld.places[part]
		if refined := value(own, name); refined != nil {
			at = ld.places[refined]
		}
		add(at, name, ld.seedFile(name, part))
		checks = append(checks, schemaCheck(name, entries[len(entries)-1].Origin))
	}
	for name, nothing := range map[string]string{seed.UserData: seed.Nothing, seed.MetaData: "{}\n"} { // without both it is no seed
		if len(given) > 0 && !slices.Contains(given, name) {
			entries[0].Files = append(entries[0].Files, File{Path: path.Join(seed.Folder, name), Content: nothing, Mode: seedMode})
		}
	}
	slices.SortFunc(entries[0].Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	layer.Install = append(layer.Install, entries...)
	layer.Commands = append(checks, layer.Commands...)
}

// seedMode is of files that may hold passwords.
const seedMode Mode = "0600"

// seedFile is the entry that writes one file of a seed.
func (ld *loading) seedFile(name string, n *yaml.Node) InstallEntry {
	file := File{Path: path.Join(seed.Folder, name), Mode: seedMode}
	switch {
	case n.Kind == yaml.MappingNode && holdsEncrypted(n):
		ld.reportEncrypted(n, "cloudinit."+name)
	case n.Kind == yaml.MappingNode:
		file.Content = settingsText(name, n)
		if len(jinjaIn(n)) == 0 {
			ld.reportSeed(ld.places[n], name, []byte(file.Content), false)
		}
	case strings.Contains(n.Value, "\n"):
		if file.Content = n.Value; !isJinja(n.Value) {
			ld.reportSeed(ld.places[n], name, []byte(n.Value), false)
		}
	case strings.HasSuffix(n.Value, ".j2"):
		file.Source = ld.template(n)
		return InstallEntry{Templates: []File{file}}
	default:
		before := len(ld.problems)
		file.Source = ld.asset(n, seed.Largest)
		if len(ld.problems) > before {
			break
		}
		in := ld.locate(n)
		content, err := readFile(in.files, in.name, seed.Largest)
		if err != nil {
			ld.reportAsset(n, in, err)
			break
		}
		ld.reportSeed(place{in.opens, 0}, name, content, true)
	}
	return InstallEntry{Files: []File{file}}
}

// reportSeed reports what is wrong with a file of a seed, at its own lines where it is one.
func (ld *loading) reportSeed(at place, name string, content []byte, own bool) {
	mistake := seed.Check(name, content)
	if mistake == nil {
		return
	}
	if own {
		at.line = mistake.Line
	}
	what := mistake.Error()
	if _, several, found := strings.Cut(what, ": "); found && own && mistake.Line > 0 {
		what = several
	}
	ld.report(at, name+": "+what, mistake.Mend)
}

// schemaCheck has the cloud-init of the image say whether it takes what the file has become.
// What it prints may hold what is secret in the settings.
func schemaCheck(name, origin string) CommandEntry {
	file := path.Join(seed.Folder, name)
	run := `command -v cloud-init >/dev/null || { echo "cloud-init is not in the image: add it to the packages" >&2; exit 1; }
`
	kind := ""
	switch name {
	case seed.NetworkConfig: // which it checks since 24.1
		run += "cloud-init schema --help | grep -q schema-type || exit 0\n"
		kind = " --schema-type " + name
	case seed.UserData, seed.VendorData:
		run += "head -n 1 " + file + " | grep -q '^" + seed.CloudConfig + "' || exit 0\n"
	default:
		return CommandEntry{Name: "cloud-init: is there", Origin: origin, Run: run}
	}
	run += fmt.Sprintf(`cloud-init schema --config-file %s%s >/dev/null 2>&1 || { echo "cloud-init's schema refuses %s" >&2; exit 1; }
`, file, kind, name)
	return CommandEntry{Name: "cloud-init: schema of " + name, Origin: origin, Run: run}
}

// settingsText is settings as a file of a seed. A string with Jinja becomes an expression that
// yields it as JSON, which is YAML: what it renders to needs no quotes then, and a lone
// expression keeps its type.
func settingsText(name string, n *yaml.Node) string {
	copied := plainCopy(n)
	texts := map[string]string{}
	for _, scalar := range jinjaIn(copied) {
		mark := "vmctl-jinja-" + strconv.Itoa(len(texts)) + "-"
		texts[mark] = asJSON(scalar.Value)
		scalar.Value, scalar.Style = mark, 0
	}
	out, err := yaml.Dump(copied)
	if err != nil {
		panic(fmt.Sprintf("what was read as YAML cannot be written: %v", err))
	}
	text := string(out)
	for mark, expression := range texts {
		text = strings.ReplaceAll(text, mark, expression)
	}
	if name == seed.UserData || name == seed.VendorData {
		return seed.CloudConfig + "\n" + text
	}
	return text
}

// plainCopy is the tree without comments, whose lines may come from several files.
func plainCopy(n *yaml.Node) *yaml.Node {
	copied := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Style: n.Style}
	for _, child := range n.Content {
		copied.Content = append(copied.Content, plainCopy(child))
	}
	return copied
}

// jinjaIn is the scalars that Jinja renders.
func jinjaIn(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.ScalarNode && isJinja(n.Value) {
		return []*yaml.Node{n}
	}
	var found []*yaml.Node
	for _, child := range n.Content {
		found = append(found, jinjaIn(child)...)
	}
	return found
}

// loneExpression is a text that is one expression and nothing else.
var loneExpression = regexp.MustCompile(`^\s*\{\{([^{}]+)\}\}\s*$`)

// asJSON is Jinja that yields as JSON what the text yields. The empty expression keeps the
// newline behind a statement, which Jinja takes away.
func asJSON(text string) string {
	if lone := loneExpression.FindStringSubmatch(text); lone != nil && !strings.ContainsAny(lone[1][:1]+lone[1][len(lone[1])-1:], "-+") {
		return "{{ (" + strings.TrimSpace(lone[1]) + ") | to_json }}"
	}
	return "{% filter to_json %}" + text + "{% endfilter %}{{ '' }}"
}

// SeedPart is a file that a definition tells cloud-init.
type SeedPart struct {
	Name     string // in the seed
	Origin   string // file:line
	File     File
	Rendered bool // what it says is known once Jinja has rendered it
}

// SeedParts is the files that the definition tells cloud-init. Of one name, the last counts.
func (d Definition) SeedParts() []SeedPart {
	var parts []SeedPart
	for _, layer := range d.Layers {
		for _, entry := range layer.Install {
			for i, file := range slices.Concat(entry.Files, entry.Templates) {
				if path.Dir(file.Path) == seed.Folder {
					parts = append(parts, SeedPart{path.Base(file.Path), entry.Origin, file, i >= len(entry.Files) || isJinja(file.Content)})
				}
			}
		}
	}
	return parts
}
