package definition

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

const (
	largestTree  = 100_000 // nodes, aliases expanded
	deepestLevel = 64
)

// place is where a value was written.
type place struct {
	file string
	line int
}

// reader turns files into checked YAML trees and remembers where each node
// stands.
type reader struct {
	places   map[*yaml.Node]place
	problems Problems
	// broken is the values that do not have the shape of their key; they are
	// reported and then passed over, so that the rest can be validated.
	broken     map[*yaml.Node]bool
	brokenKeys []string // top-level keys that lack a value for that reason
	// misspelt is the mappings with a key that nobody knows: what they lack may
	// be what that key was meant to be.
	misspelt map[*yaml.Node]bool
	// incomplete says that a file of the build or of an ancestor could not be
	// read, or was not found: what is missing may be in it.
	incomplete bool
	texts      map[string]string // what was read, by file
	vaulted    []Vaulted
	scanned    map[*yaml.Node]bool
}

func newReader() reader {
	return reader{
		places: map[*yaml.Node]place{}, broken: map[*yaml.Node]bool{}, misspelt: map[*yaml.Node]bool{},
		texts: map[string]string{}, scanned: map[*yaml.Node]bool{},
	}
}

// unsure says whether the top-level key may lack a value for a reason that is
// reported already.
func (r *reader) unsure(key string) bool { return r.incomplete || slices.Contains(r.brokenKeys, key) }

// isMisspelt says whether n or a mapping in it has a key that nobody knows.
func (r *reader) isMisspelt(n *yaml.Node) bool {
	return r.misspelt[n] || slices.ContainsFunc(n.Content, r.isMisspelt)
}

func (r *reader) report(at place, what, mend string) {
	r.problems = append(r.problems, Problem{File: at.file, Line: at.line, What: what, Mend: mend})
}

// read parses the content of a file that must match the struct type shape. It
// returns the top mapping, or nil where the file holds nothing usable.
func (r *reader) read(file string, content []byte, shape reflect.Type) *yaml.Node {
	start := place{file, 1}
	switch {
	case !utf8.Valid(content):
		r.report(place{file, invalidLine(content)}, "the file is not UTF-8", "save it as UTF-8")
		return nil
	case len(bytes.TrimSpace(content)) == 0:
		r.report(start, "the file is empty", "write a definition or remove the file")
		return nil
	}
	var document yaml.Node
	if err := yaml.Load(content, &document); err != nil && onlyComments(content) {
		r.report(start, "the file holds comments alone", "write a definition or remove the file")
		return nil
	} else if err != nil {
		r.syntaxError(file, err)
		return nil
	}
	r.texts[file] = string(content)
	budget := largestTree
	root := r.expand(document.Content[0], file, deepestLevel, &budget)
	if root == nil {
		return nil
	}
	if !r.check(root, shape, "") && root.Kind != yaml.MappingNode {
		return nil
	}
	return root
}

func onlyComments(content []byte) bool {
	for line := range bytes.Lines(content) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			return false
		}
	}
	return true
}

func invalidLine(content []byte) int {
	line := 1
	for len(content) > 0 {
		char, size := utf8.DecodeRune(content)
		if char == utf8.RuneError && size == 1 {
			break
		}
		if char == '\n' {
			line++
		}
		content = content[size:]
	}
	return line
}

func (r *reader) syntaxError(file string, err error) {
	if several, ok := errors.AsType[*yaml.LoadErrors](err); ok {
		for _, one := range several.Errors {
			r.report(place{file, one.Mark.Line}, one.Message, "correct the YAML")
		}
		return
	}
	if one, ok := errors.AsType[*yaml.LoadError](err); ok {
		r.report(place{file, one.Mark.Line}, one.Message, "correct the YAML")
		return
	}
	r.report(place{file, 0}, err.Error(), "correct the YAML")
}

// expand copies the tree with every alias replaced by what it stands for. The
// budget of nodes and levels stops documents that would grow without bound.
func (r *reader) expand(n *yaml.Node, file string, levels int, budget *int) *yaml.Node {
	*budget--
	if *budget < 0 || levels == 0 {
		if *budget > -largestTree { // say it once
			*budget = -largestTree
			r.report(r.placeOf(file, n.Line), "the document is nested too deeply or its aliases expand to too much", "write the values out")
		}
		return nil
	}
	line := n.Line
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	copied := *n
	copied.Content, copied.Anchor, copied.Line = nil, "", line
	if n.Kind == yaml.ScalarNode && n.Tag == vaultTag {
		r.vaulted = append(r.vaulted, Vaulted{fmt.Sprintf("%s:%d", file, line), n.Value})
		copied = encrypted(n.Value, line)
		for _, part := range copied.Content {
			r.places[part] = r.placeOf(file, line)
		}
		r.places[&copied] = r.placeOf(file, line)
		return &copied
	}
	r.places[&copied] = r.placeOf(file, line)
	r.checkScalarText(n, file)
	for _, child := range n.Content {
		expanded := r.expand(child, file, levels-1, budget)
		if expanded == nil {
			return nil
		}
		copied.Content = append(copied.Content, expanded)
	}
	return &copied
}

// placeOf is the line of the file; a setting of the command line has none.
func (r *reader) placeOf(file string, line int) place {
	if _, isFile := r.texts[file]; !isFile {
		line = 0
	}
	return place{file, line}
}

type scalarChecker interface {
	checkScalar(value string) (mend string, err error)
}

var (
	layoutType     = reflect.TypeFor[Layout]()
	seedFileType   = reflect.TypeFor[SeedFile]()
	roleType       = reflect.TypeFor[Role]()
	partitionType  = reflect.TypeFor[Partition]()
	partitionsType = reflect.TypeFor[[]Partition]()
)

// check reports where n does not have the shape of t and says whether n can be
// used at all. path is the key, for messages.
func (r *reader) check(n *yaml.Node, t reflect.Type, path string) bool {
	usable := r.shape(n, t, path)
	if !usable {
		r.broken[n] = true
	}
	return usable
}

func (r *reader) shape(n *yaml.Node, t reflect.Type, path string) bool {
	at := r.places[n]
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		r.report(at, label(path)+"has no value", "give it one or remove the key")
		return false
	}
	if isEncrypted(n) && t.Kind() != reflect.Interface {
		return r.reportEncrypted(n, path)
	}
	if t == layoutType {
		if n.Kind == yaml.SequenceNode {
			return r.check(n, partitionsType, path)
		}
		t = reflect.TypeFor[string]()
	}
	if t == seedFileType && n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		return true
	}
	if t == seedFileType {
		return r.wantKind(n, yaml.MappingNode, "keys with values, a file's name or its text", path) && r.checkUnique(n)
	}
	if t == roleType && n.Kind == yaml.ScalarNode {
		t = reflect.TypeFor[string]()
	}
	if checker, ok := reflect.Zero(t).Interface().(scalarChecker); ok {
		if !r.wantKind(n, yaml.ScalarNode, "a single value", path) {
			return false
		}
		mend, err := checker.checkScalar(n.Value)
		if err != nil {
			r.report(at, label(path)+err.Error(), mend)
		}
		return err == nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return r.check(n, t.Elem(), path)
	case reflect.Struct:
		return r.wantKind(n, yaml.MappingNode, "keys with values", path) && r.checkStruct(n, t, path)
	case reflect.Map:
		return r.wantKind(n, yaml.MappingNode, "keys with values", path) && r.checkMap(n, t, path)
	case reflect.Slice:
		return r.checkList(n, t, path)
	case reflect.Interface:
		return r.checkUnique(n)
	default:
		return r.wantKind(n, yaml.ScalarNode, "a single value", path) && r.checkScalarKind(n, t.Kind(), path)
	}
}

func label(path string) string {
	if path == "" {
		return "the file "
	}
	return path + ": "
}

var kindNames = map[yaml.Kind]string{
	yaml.MappingNode: "keys with values", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value",
}

func (r *reader) wantKind(n *yaml.Node, kind yaml.Kind, name, path string) bool {
	if n.Kind == kind {
		return true
	}
	mend := map[yaml.Kind]string{
		yaml.MappingNode:  "write 'key: value' lines below it",
		yaml.SequenceNode: "write '- item' lines below it, or [a, b]",
		yaml.ScalarNode:   "write one value after the colon",
	}[kind]
	if unquotedJinja(n) {
		mend = `put Jinja expressions in quotes: "{{ … }}"`
	}
	r.report(r.places[n], fmt.Sprintf("%sexpected %s, found %s", label(path), name, kindNames[n.Kind]), mend)
	return false
}

// unquotedJinja says whether n is what YAML makes of {{ x }} without quotes: a
// mapping whose key is a mapping.
func unquotedJinja(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode
}

func (r *reader) checkScalarKind(n *yaml.Node, kind reflect.Kind, path string) bool {
	switch kind {
	case reflect.Bool:
		if n.Tag != "!!bool" {
			r.report(r.places[n], fmt.Sprintf("%s%q is neither true nor false", label(path), n.Value), "write true or false")
			return false
		}
	case reflect.Int:
		if _, err := strconv.Atoi(n.Value); err != nil {
			r.report(r.places[n], fmt.Sprintf("%s%q is not a whole number", label(path), n.Value), "write digits alone")
			return false
		}
	}
	return true
}

func (r *reader) checkList(n *yaml.Node, t reflect.Type, path string) bool {
	if !r.wantKind(n, yaml.SequenceNode, "a list", path) {
		return false
	}
	usable := true
	for i, item := range n.Content {
		usable = r.check(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)) && usable
	}
	return usable
}

// pairs calls f for each key of a mapping, reports keys given twice, and says
// whether all went well.
func (r *reader) pairs(n *yaml.Node, f func(key, value *yaml.Node) bool) bool {
	usable, seen := true, map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := r.places[key]
		if key.Kind != yaml.ScalarNode {
			mend := "write a plain word before the colon"
			if unquotedJinja(n) {
				mend = `put Jinja expressions in quotes: "{{ … }}"`
			}
			r.report(at, "a key is not a plain word", mend)
			usable = false
			continue
		}
		if first, twice := seen[key.Value]; twice {
			r.report(at, fmt.Sprintf("key %q is given twice", key.Value), fmt.Sprintf("keep one; the first is on line %d", first))
			usable = false
			continue
		}
		seen[key.Value] = at.line
		usable = f(key, value) && usable
	}
	return usable
}

func (r *reader) checkUnique(n *yaml.Node) bool {
	usable := true
	switch n.Kind {
	case yaml.MappingNode:
		usable = r.pairs(n, func(_, value *yaml.Node) bool { return r.checkUnique(value) })
	case yaml.SequenceNode:
		for _, item := range n.Content {
			usable = r.checkUnique(item) && usable
		}
	}
	return usable
}

func (r *reader) checkMap(n *yaml.Node, t reflect.Type, path string) bool {
	return r.pairs(n, func(key, value *yaml.Node) bool {
		if path == "vars" {
			if mend, err := checkVariable(key.Value); err != nil {
				r.report(r.places[key], "vars: "+err.Error(), mend)
			}
		}
		if name, found := strings.CutPrefix(key.Value, "ansible_"); found && path == "facts" {
			r.report(r.places[key], "facts: "+key.Value+" begins with ansible_", "write "+name)
		}
		if path == "facts" && holdsEncrypted(value) {
			return r.reportEncrypted(value, join(path, key.Value))
		}
		if t.Elem().Kind() == reflect.Interface {
			return r.checkUnique(value)
		}
		return r.check(value, t.Elem(), join(path, key.Value))
	})
}

func (r *reader) checkStruct(n *yaml.Node, t reflect.Type, path string) bool {
	fields := fieldsOf(t)
	usable := r.pairs(n, func(key, value *yaml.Node) bool {
		field, known := fields[key.Value]
		if !known {
			r.unknownKey(n, key, path, fields)
			return true // the rest of the file is still worth reading
		}
		return r.check(value, field.Type, join(path, key.Value))
	})
	if !strings.Contains(path, "[") {
		return usable // drop-ins and children may give a part; the whole is validated later
	}
	for name, field := range fields {
		if !slices.Contains(strings.Split(field.Tag.Get("jsonschema"), ","), "required") {
			continue
		}
		if value(n, name) != nil {
			continue
		}
		if !r.misspelt[n] {
			r.report(r.places[n], fmt.Sprintf("%skey %q is missing", label(path), name), "add it")
		}
		usable = false
	}
	return usable
}

// unknownKey reports a key that the struct with the fields does not have. The
// key that it was meant to be, or the one that holds it, lacks a value then.
func (r *reader) unknownKey(n, key *yaml.Node, path string, fields map[string]reflect.StructField) {
	names := sortedKeys(fields)
	near, mend := Nearest(key.Value, names), "known here: "+strings.Join(names, ", ")
	if near != "" {
		mend = fmt.Sprintf("did you mean %q?", near)
	}
	r.report(r.places[key], fmt.Sprintf("unknown key %q", join(path, key.Value)), mend)
	r.misspelt[n] = true
	top, _, _ := strings.Cut(join(path, near), ".")
	r.brokenKeys = append(r.brokenKeys, top)
}

func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if name != "-" {
			fields[name] = field
		}
	}
	return fields
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// value is the node of key in the mapping n, or nil.
func value(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func setValue(n *yaml.Node, key string, to *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = to
			return
		}
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, to)
}

func drop(n *yaml.Node, key string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content = slices.Delete(n.Content, i, i+2)
			return
		}
	}
}
