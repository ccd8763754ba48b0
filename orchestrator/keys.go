package orchestrator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// parts is the digests of what goes into each stage of a build, but for the tree below
// it. What does not change a tree is in none of them: comments, the order of keys, line
// numbers, names of entries, the folder of the definitions, who builds.
type parts struct {
	Maker   string        `json:"maker"`   // of vmctl, with its playbooks, and of the time that tools are told
	Ansible string        `json:"ansible"` // of what applies layers
	Source  string        `json:"source"`
	Layers  [][]entryPart `json:"layers"` // of each entry that does anything
	Disk    string        `json:"disk"`
	Outputs string        `json:"outputs"` // of what is made of the disk, and how it is tested
}

// entryPart is what goes into one entry of a layer.
type entryPart struct {
	Digest string `json:"digest"`
	// Exact is the same less what may be read of the whole project.
	Exact string `json:"exact"`
	// Alone says that the entry leaves what others could see of it, by roles or playbooks. It
	// gets a run of Ansible to itself.
	Alone bool `json:"alone,omitempty"`
	// Facts says that it reads facts, or may do so: they are gathered before it.
	Facts bool `json:"facts,omitempty"`
	// Reads is the names of the facts that are written in it, with spaces between them.
	Reads string `json:"reads,omitempty"`
	// Python is the names of packages for Ansible that it installs itself, as far as that shows.
	Python string `json:"python,omitempty"`
	// Secrets is the names of those that it reads, with spaces between them.
	Secrets string `json:"secrets,omitempty"`
}

// digestOf is the digest of values as JSON, each by itself.
func digestOf(values ...any) string {
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	for _, value := range values {
		if err := encoder.Encode(value); err != nil {
			panic(fmt.Sprintf("a part of a key cannot be written: %v", err)) // types of ours alone
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// following is the key of what a part makes of the tree below.
func following(below store.Key, part string) store.Key {
	return store.Key(digestOf(below, part))
}

// sourceKey is the key of the source's tree, made of archives in that state.
func (p parts) sourceKey(archive []source.Release) store.Key {
	return store.Key(digestOf(p.Source, archive))
}

// keyParts digests all inputs of a build. maker is the digest of the code of vmctl.
func (p Plan) keyParts(ctx context.Context, maker string, with toolset) (all parts, err error) {
	tools := with.versions
	p.overlaid, p.whole = with.tree != "", &wholeProject{}
	if err := writable(p.Definition.Vars); err != nil {
		return parts{}, err
	}
	collections, err := installedCollections(ctx, with.collections())
	if err != nil {
		return parts{}, err
	}
	d := p.Definition
	all.Maker = digestOf(maker, os.Getenv("SOURCE_DATE_EPOCH"))
	all.Ansible = digestOf(all.Maker, of(tools, ansibleTools...), collections)
	if p.Lock != nil {
		all.Ansible = digestOf(all.Ansible, p.Lock.Fetched)
	}
	all.Disk = digestOf(d.Disk, d.Boot, d.Hostname)
	all.Outputs = digestOf(p.BaseName(), outputs(d), d.Firmware, d.Test, hidden(d), of(tools, outputTools(d)...))
	if all.Source, err = p.sourcePart(ctx, all.Maker, tools); err != nil {
		return parts{}, err
	}
	for i, layer := range withoutEarly(d) {
		entries := []entryPart{}
		for j := range entriesOf(layer) {
			part, err := p.entryPart(ctx, all.Ansible, i, j)
			if err != nil {
				return parts{}, err
			}
			entries = append(entries, part)
		}
		all.Layers = append(all.Layers, entries)
	}
	return all, nil
}

// writable refuses variables that JSON, in which Ansible gets them, cannot hold.
func writable(vars map[string]any) error {
	for name, value := range vars {
		if _, err := json.Marshal(value); err != nil {
			return fail.New(fail.Usage, "vars: "+name, "put quotes around numbers that are keys of mappings, and around .nan and .inf", "Ansible cannot be given the value: %w", err)
		}
	}
	return nil
}

// of is the versions of some tools.
func of(tools map[string]string, names ...string) map[string]string {
	some := map[string]string{}
	for _, name := range names {
		if version, known := tools[name]; known {
			some[name] = version
		}
	}
	return some
}

// outputTools is the packages of the host that shape disk and images, and test them.
func outputTools(d definition.Definition) []string {
	packages := []string{"fdisk", "qemu-utils", "qemu-img", arch.Target.QEMU.Package, arch.Target.QEMU.Binary}
	for _, part := range d.Disk.Layout.Resolve() {
		if kind := filesystem.Named(part.Filesystem); kind != nil {
			for _, tool := range kind.Tools {
				packages = append(packages, tool.Package)
			}
		}
	}
	for _, tool := range format.ToolsOf(d.Outputs...) {
		packages = append(packages, tool.Package)
	}
	for _, name := range d.Firmware {
		packages = append(packages, arch.Target.FirmwareNamed(name).Package)
	}
	return packages
}

// hidden is what no_log keeps out of build.json: the one made before may tell too much.
func hidden(d definition.Definition) []bool {
	var entries []bool
	for _, layer := range d.Layers {
		for _, e := range layer.Install {
			entries = append(entries, e.NoLog)
		}
		for _, e := range layer.Commands {
			entries = append(entries, e.NoLog)
		}
	}
	return entries
}

// sourcePart is the digest of all that the source is made of, but for the archive.
func (p Plan) sourcePart(ctx context.Context, maker string, tools map[string]string) (string, error) {
	var named []*string
	s := p.Definition.Source
	switch {
	case s.OCI != nil:
		return digestOf(maker, "oci", p.Pinned.Digest, source.Needed(p.sourceOptions(""))), nil
	case s.Installer != nil:
		return p.installerPart(ctx, maker, tools)
	case s.CloudImage != nil:
		digest, err := p.cloudImageDigest(ctx)
		return digestOf(maker, "cloudimage", digest, of(tools, "qemu-utils", "qemu-img"), source.Needed(p.sourceOptions(""))), err
	case s.Outside():
		s.Tarball = &definition.Tarball{Path: s.Tarball.SHA256}
	case s.Tarball != nil:
		s.Tarball = new(*s.Tarball)
		named = append(named, &s.Tarball.Path)
	case s.Bootstrap.Keyring != "":
		s.Bootstrap = new(*s.Bootstrap)
		named = append(named, &s.Bootstrap.Keyring)
	}
	for _, asset := range named { // where it lies changes nothing
		digest, _, err := image.Digest(ctx, p.assetPath(*asset))
		if err != nil {
			return "", err
		}
		*asset = digest
	}
	if t := s.Tarball; t != nil && t.SHA256 != "" && t.SHA256 != t.Path {
		return "", fail.New(fail.Build, "source.tarball", "get the file again, or correct the digest", "its SHA-256 is %s, and %s is wanted", t.Path, t.SHA256)
	}
	var makers map[string]string
	if s.Bootstrap != nil {
		makers = of(tools, "mmdebstrap", "apt", "dpkg")
	}
	return digestOf(maker, makers, source.Command(s, "ROOT", p.sourceOptions("")).String()), nil
}

// assetPath is where the file lies that a definition names.
func (p Plan) assetPath(asset string) string {
	if path, known := p.Assets[asset]; known {
		return path
	}
	return asset
}

// entriesOf is a layer for each of its entries, without those that do nothing.
func entriesOf(layer definition.Layer) []definition.Layer {
	var entries []definition.Layer
	for i := range layer.Install {
		does := unnamed(layer.Install[i])
		does.On = "" // which is where, not what
		if !reflect.ValueOf(does).IsZero() {
			entries = append(entries, definition.Layer{Name: layer.Name, Install: layer.Install[i : i+1]})
		}
	}
	for i := range layer.Commands {
		entries = append(entries, definition.Layer{Name: layer.Name, Commands: layer.Commands[i : i+1]})
	}
	return entries
}

// originOf is the file and line of the entry of a layer of one.
func originOf(one definition.Layer) string {
	for _, e := range one.Install {
		return e.Origin
	}
	return one.Commands[0].Origin
}

// unnamed is the entry without what is shown of it, but not made.
func unnamed(entry definition.InstallEntry) definition.InstallEntry {
	entry.Name, entry.NoLog, entry.Origin = "", false, ""
	if len(entry.Packages) == 0 {
		entry.Packages, entry.Recommends = nil, false
	}
	return entry
}

// readsFacts is what Ansible finds out about the image, or keeps of a run.
var readsFacts = regexp.MustCompile(`\bansible_|\bhostvars\b|\bsetup\b`)

// entryPart is the part of an entry of a layer, both by their numbers, given the digest of
// what applies it.
func (p Plan) entryPart(ctx context.Context, ansible string, number, entry int) (entryPart, error) {
	d := p.Definition
	single, err := copied(definition.Definition{Layers: entriesOf(withoutEarly(d)[number])[entry : entry+1]})
	if err != nil {
		return entryPart{}, err
	}
	layer, origin := &single.Layers[0], originOf(single.Layers[0])
	read := reading{ctx: ctx, plan: p}
	var project string
	alone := false
	for i := range layer.Install {
		layer.Install[i] = unnamed(layer.Install[i])
		if err := read.entry(&layer.Install[i]); err != nil {
			return entryPart{}, err
		}
		if project, err = read.project(layer.Install[i]); err != nil {
			return entryPart{}, err
		}
		alone = project != ""
	}
	for i := range layer.Commands {
		entry := &layer.Commands[i]
		entry.Name, entry.NoLog, entry.Origin = "", false, ""
	}
	if project == "" {
		if project, err = read.inventoryVariables(layer); err != nil {
			return entryPart{}, err
		}
	}
	of := func() (part entryPart, err error) {
		vars := read.variables(*layer, d.Vars)
		all := map[string]any{"layer": layer, "project": project, "vars": vars, "hostname": hostnameIn(d, number)}
		names, facts, named, err := read.surroundings(number, all)
		if err != nil {
			return part, fail.Wrap(fail.Build, origin, err)
		}
		facts = facts || alone // actions such as service ask for some without naming them
		return entryPart{
			Digest: digestOf(ansible, all), Alone: alone, Facts: facts, Reads: named, Secrets: strings.Join(names, " "), Python: read.python(layer, vars),
		}, nil
	}
	part, err := of()
	if part.Exact = part.Digest; err != nil || !read.around || p.whole == nil {
		return part, err
	}
	whole, err := p.whole.of(ctx, p.Project)
	if err != nil {
		return entryPart{}, err
	}
	exact := part.Exact
	read.opaque = true
	beside, err := read.lookAround()
	if err != nil {
		return entryPart{}, fail.Wrap(fail.Build, origin, err)
	}
	if part, err = of(); err != nil {
		return entryPart{}, err
	}
	part.Exact, part.Digest = exact, digestOf(part.Digest, whole, beside)
	return part, nil
}

// surroundings adds to a part of a key what is read besides variables of the definition. It
// returns the names of secrets among that, whether facts are, and the names of those, as far as
// they show.
func (r *reading) surroundings(layer int, part map[string]any) (secrets []string, facts bool, named string, err error) {
	d := r.plan.Definition
	if part["outside"], err = r.outside(); err != nil {
		return nil, false, "", err
	}
	if r.build() {
		part["build"] = []string{d.Name, d.Hostname}
	}
	secrets = r.secrets(d.Secrets)
	sums := map[string]string{}
	for _, name := range secrets {
		sums[name] = r.plan.SecretSums[name]
	}
	if len(sums) > 0 {
		part["secrets"] = sums
	}
	facts = r.opaque || readsFacts.MatchString(r.text.String())
	if facts {
		all := r.plan.facts(layer)
		part["facts"], named = r.facts(all), r.named(all)
	}
	return secrets, facts, named, nil
}

// hostnameIn is the machine's name while a layer is applied: the build's own in the last
// one alone, so that builds that extend another share its tree.
func hostnameIn(d definition.Definition, layer int) string {
	if layer == len(d.Layers)-1 {
		return d.Hostname
	}
	return d.Layers[layer].Name
}

// copied is a definition that shares nothing with the original.
func copied(d definition.Definition) (definition.Definition, error) {
	var c definition.Definition
	content, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(content, &c)
	}
	return c, err
}

// sharedCollections is where Ansible finds collections besides its own.
const sharedCollections = "/usr/share/ansible/collections"

// installedCollections is the digest of the collections in a folder that nobody edits.
func installedCollections(ctx context.Context, folder string) (string, error) {
	digest, _, err := collectionsIn(ctx, folder, true)
	return digest, err
}

// collectionsIn is the digest of the collections in a folder, and how many there are: of all
// that is in them, or where listed, of their lists of files with digests, if they have one.
func collectionsIn(ctx context.Context, folder string, listed bool) (digest string, number int, err error) {
	found, err := filepath.Glob(filepath.Join(globbed.Replace(folder), "ansible_collections", "*", "*"))
	if err != nil {
		return "", 0, err
	}
	slices.Sort(found)
	var all []string
	for _, collection := range found {
		if info, err := os.Stat(collection); err != nil || !info.IsDir() {
			continue
		}
		digest, err := collectionDigest(ctx, collection, listed)
		if err != nil {
			return "", 0, err
		}
		name, err := filepath.Rel(folder, collection)
		if err != nil {
			return "", 0, err
		}
		all = append(all, name, digest)
		number++
	}
	return digestOf(all), number, nil
}

func collectionDigest(ctx context.Context, folder string, listed bool) (string, error) {
	if listed {
		if digest, _, err := image.Digest(ctx, filepath.Join(folder, "FILES.json")); err == nil {
			return digest, nil
		}
	}
	var in folderDigest
	if err := in.add(ctx, folder); err != nil {
		return "", err
	}
	return digestOf(in.lines), nil
}

// globbed is a path in a pattern of filepath.Match that means itself.
var globbed = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
