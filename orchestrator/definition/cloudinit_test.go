package definition_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

// told is what the last layer writes for cloud-init, and what it checks, by their places.
func told(d *definition.Definition) map[string]string {
	layer, found := d.Layers[len(d.Layers)-1], map[string]string{}
	for _, e := range layer.Install {
		for _, f := range slices.Concat(e.Files, e.Templates) {
			found[f.Path[strings.LastIndex(f.Path, "/")+1:]] = fmt.Sprintf("%s %s%s%s", e.Origin, f.Mode, f.Content, f.Source)
		}
	}
	for _, c := range layer.Commands {
		found[c.Name] = c.Origin
	}
	return found
}

func TestCloudInitBecomesEntries(t *testing.T) {
	d := load(t, map[string]string{
		"install.d/a.yml": base + "install: [{packages: [cloud-init]}]\ncloudinit:\n  user-data:\n    users: [default]\n    password: \"{{ pw }}\"\n",
		"install.d/b.yml": "extends: a\ncloudinit:\n  datasources: [NoCloud, Ec2]\n  user-data:\n    # mine\n    motd: \"a {{ x }}\\n{% if y %}b{% endif %}\"\n" +
			"    packages: [less]\n  network-config: net.yml\n  vendor-data: vendor.j2\n",
		"install.d/net.yml":   "version: 2\n",
		"install.d/vendor.j2": "#!/bin/sh\necho {{ x }}\n",
	}, "b")
	for name, want := range map[string]string{
		"95-datasources.cfg": "install.d/b.yml:3 datasource_list: [NoCloud, Ec2]\n",
		"user-data": "install.d/b.yml:6 0600#cloud-config\nusers: [default]\npassword: {{ (pw) | to_json }}\n" +
			"motd: {% filter to_json %}a {{ x }}\n{% if y %}b{% endif %}{% endfilter %}{{ '' }}\npackages: [less]\n",
		"meta-data":                            "install.d/b.yml:3 0600{}\n",
		"network-config":                       "install.d/b.yml:8 0600install.d/net.yml",
		"vendor-data":                          "install.d/b.yml:9 0600install.d/vendor.j2",
		"cloud-init: schema of user-data":      "install.d/b.yml:6",
		"cloud-init: schema of vendor-data":    "install.d/b.yml:9",
		"cloud-init: schema of network-config": "install.d/b.yml:8",
	} {
		if got := told(d)[name]; got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	if len(d.SeedParts()) != 6 || len(d.Layers[0].Commands) != 1 {
		t.Errorf("%+v", d.Layers)
	}
	alone := load(t, map[string]string{"install.d/x.yml": base + "cloudinit: {datasources: [None]}"}, "x")
	if got := told(alone); len(got) != 1 || len(alone.SeedParts()) != 0 {
		t.Errorf("%v", got)
	}
}

func TestMistakesOfCloudInit(t *testing.T) {
	for name, tc := range map[string]struct{ cloudinit, file, want string }{
		"no first line":         {"{user-data: f}", "users: []\n", "install.d/f:1: user-data: cloud-init does not know what it is by its first line"},
		"no YAML":               {"{user-data: f}", "#cloud-config\nusers: []\nx: [\n", "install.d/f:4: user-data: "},
		"no file":               {"{user-data: g}", "", "install.d/x.yml:2: there is no file install.d/g"},
		"a text":                {"{user-data: \"users: []\\n\"}", "", "install.d/x.yml:2: user-data: cloud-init does not know"},
		"no version":            {"\n  network-config:\n    ethernets: {}", "", "install.d/x.yml:4: network-config: it does not say of which version it is"},
		"a list":                {"{user-data: [a]}", "", "install.d/x.yml:2: cloudinit.user-data: expected keys with values, a file's name or its text"},
		"unknown":               {"{userdata: {}}", "", `install.d/x.yml:2: unknown key "cloudinit.userdata": did you mean "user-data"?`},
		"no source":             {"{datasources: ['a b']}", "", `install.d/x.yml:2: cloudinit.datasources: "a b" is no data source`},
		"encrypted":             {"{user-data: {password: !vault x}}", "", "install.d/x.yml:2: cloudinit.user-data: !vault is understood in the values of vars alone"},
		"Ansible's own mapping": {"{user-data: {password: '{{ vars.x }}'}}", "", `install.d/x.yml:2: "vars.x" reads Ansible's internal dictionary`},
	} {
		t.Run(name, func(t *testing.T) {
			beginWith(t, mistakes(map[string]string{"install.d/x.yml": base + "cloudinit: " + tc.cloudinit + "\n", "install.d/f": tc.file}), []string{tc.want})
		})
	}
	if got := mistakes(map[string]string{"install.d/x.yml": base}, "cloudinit.user-data={}"); len(got) != 1 || !strings.Contains(got[0], "cloudinit cannot be set here") {
		t.Errorf("%q", got)
	}
}
