package definition

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// reservedNames is what cannot be the name of a variable, and why.
var reservedNames = []struct {
	why   string
	names []string
}{
	{"holds the facts of the build: name, hostname, architecture, suite and layer", []string{"build"}},
	{"is the variable of Ansible's loops", []string{"item"}},
	{"is one of Ansible's own variables", []string{
		// ansible.vars.manager.VariableManager._get_magic_variables, of ansible-core 2.14
		"environment", "group_names", "groups", "hostvars", "omit", "play_hosts", "playbook_dir", "role_name", "role_names",
		"role_path", "role_uuid", "vars",
	}},
	{"is a function in every template of Ansible", []string{
		// ansible.template.Templar, of ansible-core 2.14, and jinja2.defaults.DEFAULT_NAMESPACE, of Jinja 3.1
		"cycler", "dict", "joiner", "lipsum", "lookup", "namespace", "now", "q", "query", "range", "undef",
	}},
	{"is a key of Ansible's plays, roles, blocks and tasks", []string{
		// ansible.vars.reserved.get_reserved_names, of ansible-core 2.14
		"action", "always", "any_errors_fatal", "args", "async", "async_val", "become", "become_exe", "become_flags",
		"become_method", "become_user", "block", "changed_when", "check_mode", "collections", "connection", "debugger",
		"delay", "delegate_facts", "delegate_to", "diff", "environment", "fact_path", "failed_when", "force_handlers",
		"gather_facts", "gather_subset", "gather_timeout", "handlers", "hosts", "ignore_errors", "ignore_unreachable",
		"local_action", "loop", "loop_control", "loop_with", "max_fail_percentage", "module_defaults", "name", "no_log",
		"notify", "order", "poll", "port", "post_tasks", "pre_tasks", "register", "remote_user", "rescue", "retries",
		"roles", "run_once", "serial", "strategy", "tags", "tasks", "throttle", "timeout", "until", "vars", "vars_files",
		"vars_prompt", "when",
	}},
	{"is a word of the Python language, which Ansible takes for no variable", []string{
		// keyword.kwlist, of Python 3
		"False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif",
		"else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or",
		"pass", "raise", "return", "try", "while", "with", "yield",
	}},
	{"is a word of Jinja", []string{"false", "none", "self", "super", "true"}},
}

// reservedPrefixes is the beginnings that a variable's name cannot have.
var reservedPrefixes = []struct{ prefix, why string }{
	{"ansible_", "is one of Ansible's own variables"},
	{"inventory_", "is one of Ansible's own variables"},
	{"with_", "is a key of Ansible's tasks"},
	{"vmctl_", "is a variable of vmctl's own playbooks"},
}

// checkVariable says why a variable cannot have the name, and what mends it.
func checkVariable(name string) (mend string, err error) {
	if !variablePattern.MatchString(name) {
		return "use letters, digits and underscores", fmt.Errorf("%q is no variable name", name)
	}
	for _, reserved := range reservedNames {
		if slices.Contains(reserved.names, name) {
			return "choose another name", fmt.Errorf("%q %s", name, reserved.why)
		}
	}
	for _, reserved := range reservedPrefixes {
		if strings.HasPrefix(name, reserved.prefix) {
			return "choose another name", fmt.Errorf("%q begins with %s: such a name %s", name, reserved.prefix, reserved.why)
		}
	}
	return "", nil
}

// checkScalarText reports where a scalar, a template for Ansible, reads what
// cannot be read there; once, however many aliases stand for it.
func (r *reader) checkScalarText(n *yaml.Node, file string) {
	if n.Kind != yaml.ScalarNode || r.scanned[n] || !isJinja(n.Value) {
		return
	}
	r.scanned[n] = true
	source := from(r.texts[file], n.Line)
	passed := 0
	for _, use := range dictionaryUses(n.Value) {
		before := strings.Count(n.Value[passed:use.offset], use.written)
		line := source.find(use.written, before)
		r.reportUse(r.placeOf(file, cmp.Or(line, n.Line)), use)
		passed = use.offset + len(use.written)
	}
}

// ahead is what is left of a file that is searched from its start to its end.
type ahead struct {
	text string
	line int // of its first byte
}

// from is the file's text from the line on.
func from(text string, line int) ahead {
	for range line - 1 {
		text = text[strings.IndexByte(text, '\n')+1:]
	}
	return ahead{text, line}
}

// find goes on to where the wanted text stands behind as many others of its
// kind, and returns its line, or 0 where there is none. YAML folds and indents
// lines, so that the value of a scalar does not tell the lines that it is on.
func (a *ahead) find(wanted string, before int) (line int) {
	for range before + 1 {
		index := strings.Index(a.text, wanted)
		if index < 0 {
			return 0
		}
		line = a.line + strings.Count(a.text[:index], "\n")
		a.line = line + strings.Count(wanted, "\n")
		a.text = a.text[index+len(wanted):]
	}
	return line
}

func (r *reader) reportUse(at place, use dictionaryUse) {
	r.report(at, fmt.Sprintf("%q reads Ansible's internal dictionary, where nothing is rendered", use.written), use.mend())
}
