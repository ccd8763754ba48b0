package definition_test

import (
	"slices"
	"strings"
	"testing"
)

const withRole = base + "install: [{roles: [common]}]\n"

func TestRequirementsAreReadAsAnsibleGalaxyReadsThem(t *testing.T) {
	const files = `roles:
  - geerlingguy.nginx,2.8.0
  - name: common
    src: https://user:hunter2@git.example/roles/common.git
    scm: git
    version: main
  - src: git+https://git.example/roles/firewall.git
    version: v1.2.0
  - {src: "https://files.example/archive.tar.gz", name: archive}
  - {src: /usr, name: folder}
  - src: git@git.example:roles/chrony.git
    scm: git
    version: 0123456789abcdef0123456789abcdef01234567
collections:
  - community.docker
  - {name: acme.tools, version: "1.0.0", source: "https://galaxy.example/"}
  - {name: "git+https://git.example/collection.git", type: git, version: main}
  - {name: "https://files.example/acme-motd-1.0.0.tar.gz"}
  - {name: acme.web, version: ">=1.0.0"}
`
	d := load(t, map[string]string{"install.d/x.yml": withRole, "requirements.yml": files}, "x")
	var got []string
	for _, r := range d.Redacted().Requirements {
		line := r.String() + " from " + r.Source
		if r.Git() {
			line += " (git)"
		}
		if r.Moves() {
			line += " (moves)"
		}
		got = append(got, strings.TrimSuffix(line, " from "))
	}
	want := []string{
		"role geerlingguy.nginx 2.8.0 from geerlingguy.nginx",
		"role common main from https://git.example/roles/common.git (git) (moves)",
		"role firewall v1.2.0 from https://git.example/roles/firewall.git (git)",
		"role archive from https://files.example/archive.tar.gz",
		"role folder from /usr",
		"role chrony 0123456789abcdef0123456789abcdef01234567 from git@git.example:roles/chrony.git (git)",
		"collection community.docker from  (moves)",
		"collection acme.tools 1.0.0",
		"collection git+https://git.example/collection.git main from git+https://git.example/collection.git (git) (moves)",
		"collection https://files.example/acme-motd-1.0.0.tar.gz from https://files.example/acme-motd-1.0.0.tar.gz",
		"collection acme.web >=1.0.0 from  (moves)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if d.Requirements[1].Origin != "requirements.yml:3" {
		t.Errorf("origin %s", d.Requirements[1].Origin)
	}
}

func TestRequirementsOfABuildWithoutRolesAreNotRead(t *testing.T) {
	d := load(t, map[string]string{"install.d/x.yml": base, "requirements.yml": "collections: [acme.tools]"}, "x")
	if len(d.Requirements) > 0 {
		t.Errorf("%v", d.Requirements)
	}
}

func TestMistakesInRequirements(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"a role of nobody":       {map[string]string{"requirements.yml": "roles: [{src: other.one}]"}, []string{`install.d/x.yml:2: roles: there is no role "common"`}},
		"a role of requirements": {map[string]string{"roles/requirements.yml": "[{src: acme.common, name: common}]"}, nil},
		"an unknown key":         {map[string]string{"requirements.yml": "roles: []\nroels: []\n"}, []string{`requirements.yml:2: unknown key "roels"`}},
		"no list":                {map[string]string{"requirements.yml": "roles: common"}, []string{"requirements.yml:1: roles: expected a list"}},
		"no mapping":             {map[string]string{"collections/requirements.yml": "- acme.tools"}, []string{"collections/requirements.yml:1: the file has no lists"}},
		"no YAML":                {map[string]string{"requirements.yml": "roles: ["}, []string{"requirements.yml:"}},
		"an include":             {map[string]string{"requirements.yml": "- include: other.yml"}, []string{"requirements.yml:1: include is not supported"}},
		"a role that leads out":  {map[string]string{"requirements.yml": "- {src: acme.common, name: ../common}"}, []string{"requirements.yml:1: roles: the requirement has no usable name"}},
		"a missing folder":       {map[string]string{"requirements.yml": "roles:\n- {src: ./none, name: common}"}, []string{"requirements.yml:2: roles: there is no ./none"}},
		"a missing archive":      {map[string]string{"requirements.yml": "- acme.common,,common\n", "collections/requirements.yml": "collections:\n- /none.tar.gz\n"}, []string{"collections/requirements.yml:2: collections: there is no /none.tar.gz"}},
		"a role twice":           {map[string]string{"requirements.yml": "- {src: acme.common, name: common}\n", "roles/requirements.yml": "- {src: acme.other, name: common}\n"}, []string{"roles/requirements.yml:1: the role common is named twice"}},
		"a collection unnamed":   {map[string]string{"requirements.yml": "roles: [{src: a.b, name: common}]\ncollections: [{version: '1'}]"}, []string{"requirements.yml:2: collections: the requirement has no usable name"}},
		"a signature":            {map[string]string{"requirements.yml": "collections: [{name: a.b, signatures: [x]}]"}, []string{"requirements.yml:1: signatures is not supported"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.files["install.d/x.yml"] = withRole
			beginWith(t, mistakes(tc.files), tc.want)
		})
	}
	l := library(map[string]string{"install.d/x.yml": base, "requirements.yml": "roles: 5"})
	if strays := l.Strays(); len(strays) != 1 || strays[0].Line != 1 {
		t.Errorf("lint does not see what nobody uses: %v", strays)
	}
}
