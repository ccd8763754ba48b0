package definition_test

import (
	"strconv"
	"strings"
	"testing"
)

func TestTheInternalDictionaryIsRefused(t *testing.T) {
	for text, want := range map[string][]string{
		"{{ vars.site }}":                                     {`"vars.site" reads Ansible's internal dictionary, where nothing is rendered: write {{ site }}`},
		"{{vars.site}}":                                       {`"vars.site": write {{ site }}`},
		"a {{- vars . site | upper -}} b":                     {`"vars . site": write {{ site }}`},
		"{{ vars['site'] }}":                                  {`"vars['site']": write {{ site }}`},
		`{{ vars["site"].name }}`:                             {`"vars[\"site\"]": write {{ site }}`},
		"{{ vars.site.name[0] }}":                             {`"vars.site": write {{ site }}`},
		"{{ vars.get('site') }}":                              {`"vars.get('site')": write {{ site }}`},
		"{{ vars.get('site', 'x') }}":                         {`"vars.get": write {{ lookup('ansible.builtin.vars', NAME) }}`},
		"{{ vars[site] }}":                                    {`"vars": write {{ lookup('ansible.builtin.vars', NAME) }}`},
		"{{ vars | to_json }}":                                {`"vars": write {{ lookup('ansible.builtin.vars', NAME) }}`},
		"{% if vars.site is defined %}x{% endif %}":           {`"vars.site": write site`},
		"{%- for a in vars.list %}{{ a }}{% endfor %}":        {`"vars.list": write list`},
		"{% set site = vars.site %}":                          {`"vars.site": write site`},
		"{{ {'a': {'b': 1}}.a }}{{ vars.site }}":              {`"vars.site": write {{ site }}`},
		"{{ '}}' ~ vars.site }}":                              {`"vars.site": write {{ site }}`},
		`{{ 'it\'s' ~ vars.site }}`:                           {`"vars.site": write {{ site }}`},
		"{{ f(vars.a, x == vars.b) }}":                        {`"vars.a": write {{ a }}`, `"vars.b": write {{ b }}`},
		"{% raw %}{{ vars.a }}{% endraw %}{{ vars.b }}":       {`"vars.b": write {{ b }}`},
		"{# {{ vars.a }} #}{{ vars.b }}":                      {`"vars.b": write {{ b }}`},
		"{{ vars.site":                                        {`"vars.site": write {{ site }}`},
		"{{ site }}":                                          nil,
		"vars.site $vars['site'] { vars.site } %vars.site":    nil,
		"{{ hostvars.x }}{{ hostvars['x'].vars.y }}":          nil,
		"{{ a.vars.b }}{{ a . vars['b'] }}{{ a[0].vars }}":    nil,
		"{{ 'vars.site' }}{{ \"vars['x']\" }}":                nil,
		"{{ lookup('vars', 'site') }}{{ q('vars', site) }}":   nil,
		"{{ my_vars.site }}{{ vars_site }}{{ varsx.y }}":      nil,
		"{{ a | vars }}{{ a is vars }}{{ a is not vars }}":    nil,
		"{{ f(vars=1) }}{{ f(a, vars = 1) }}":                 nil,
		"{# {{ vars.site }} #}":                               nil,
		"{%- raw -%}{{ vars.site }}{%- endraw -%}":            nil,
		"{% raw %}{{ vars.site }}":                            nil,
		"{% for vars in list %}{{ vars.site }}{% endfor %}":   nil,
		"{% set vars = {} %}{{ vars.site }}":                  nil,
		"{% macro m(a, vars) %}{{ vars.site }}{% endmacro %}": nil,
		"{% import 'a' as vars %}{{ vars.site() }}":           nil,
		"${#a[@]} {{":                                         nil,
	} {
		content := map[string]string{"install.d/x.yml": base, "commands.d/x.yml": "commands:\n  - run: " + strconv.Quote(text) + "\n"}
		var lines []string
		for _, line := range want {
			what, mend, _ := strings.Cut(line, ": ")
			what, _, _ = strings.Cut(what, " reads")
			lines = append(lines, "commands.d/x.yml:2: "+what+" reads Ansible's internal dictionary, where nothing is rendered: "+mend)
		}
		if got := strings.Join(mistakes(content), "\n"); got != strings.Join(lines, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", text, got, strings.Join(lines, "\n"))
		}
	}
}

func TestTheInternalDictionaryIsFoundOnItsLine(t *testing.T) {
	got := mistakes(map[string]string{
		"install.d/x.yml": base + `description: "{{ vars.a }}"
vars:
  b: "one
    two {{ vars.b }}"
  c: >-
    vars.c
    {{ vars.c }} {{ vars.c }}
  d: &d
    - e: |

        first
        {{ vars.d }}
        {{ vars.d }}
  f: *d
install:
  - files:
      - {path: /a, source: plain.txt}
    templates:
      - {path: /b, source: page.j2}
      - {path: /c, source: own.j2}
`,
		"install.d/plain.txt": "{{ vars.site }}",
		"install.d/page.j2":   "<html>\n{% if a %}\n{{ vars.site }}\n{% endif %}",
		"install.d/own.j2":    "#jinja2:variable_start_string:'[%', variable_end_string:'%]'\n{{ vars.site }}",
	}, `vars.g="{{ vars.x }}"`)
	beginWith(t, got, []string{
		`--set vars.g: "vars.x" reads`, `install.d/page.j2:3: "vars.site" reads`, `install.d/x.yml:2: "vars.a" reads`, `install.d/x.yml:5: "vars.b" reads`,
		`install.d/x.yml:8: "vars.c" reads`, `install.d/x.yml:13: "vars.d" reads`, `install.d/x.yml:14: "vars.d" reads`,
	})
}

func TestNamesOfVariables(t *testing.T) {
	for name, why := range map[string]string{
		"build":              "holds the facts of the build",
		"item":               "is the variable of Ansible's loops",
		"hostvars":           "is one of Ansible's own variables",
		"playbook_dir":       "is one of Ansible's own variables",
		"vars":               "is one of Ansible's own variables",
		"ansible_host":       "begins with ansible_",
		"inventory_hostname": "begins with inventory_",
		"vmctl_entry":        "begins with vmctl_",
		"with_items":         "begins with with_",
		"lookup":             "is a function in every template",
		"q":                  "is a function in every template",
		"environment":        "is one of Ansible's own variables",
		"gather_facts":       "is a key of Ansible's plays, roles, blocks and tasks",
		"name":               "is a key of Ansible's plays",
		"not":                "is a word of the Python language",
		"None":               "is a word of the Python language",
		"none":               "is a word of Jinja",
		"a-b":                "is no variable name",
		"1a":                 "is no variable name",
	} {
		want := `: vars: "` + name + `" ` + why
		content := map[string]string{"install.d/x.yml": base + "vars:\n  fine: 1\n  " + name + ":\n    key: 1\n"}
		if got := mistakes(content); len(got) != 1 || !strings.HasPrefix(got[0], "install.d/x.yml:4"+want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if got := mistakes(map[string]string{"install.d/x.yml": base}, "vars."+name+"=1"); len(got) != 1 || !strings.HasPrefix(got[0], "--set vars."+name+want) {
			t.Errorf("--set vars.%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"layer", "entry", "entry_index", "site", "builds", "items", "_x", "timezone", "Name"} {
		if got := mistakes(map[string]string{"install.d/x.yml": base + "vars: {" + name + ": 1}"}); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	nested := map[string]string{"install.d/x.yml": base + "vars: {site: {name: a, vars: b, a-b: c}}"}
	if got := mistakes(nested); got != nil {
		t.Errorf("keys inside of a variable: %q", got)
	}
}
