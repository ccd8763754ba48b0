package orchestrator

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestOnlyPackagesThatNothingPrecedesComeEarly(t *testing.T) {
	a := definition.InstallEntry{Packages: []string{"aa"}}
	b := definition.InstallEntry{Packages: []string{"bb"}, Files: []definition.File{{Path: "/x"}}}
	c := definition.InstallEntry{Packages: []string{"cc"}}
	for name, tc := range map[string]struct {
		layers []definition.Layer
		want   string
	}{
		"up to an entry with files": {[]definition.Layer{{Install: []definition.InstallEntry{a, b, c}}}, "aa bb"},
		"across layers":             {[]definition.Layer{{Install: []definition.InstallEntry{a}}, {Install: []definition.InstallEntry{c}}}, "aa"},
		"up to commands":            {[]definition.Layer{{Install: []definition.InstallEntry{a}, Commands: []definition.CommandEntry{{Run: "x"}}}, {Install: []definition.InstallEntry{c}}}, "aa"},
		"not behind a repository":   {[]definition.Layer{{Install: []definition.InstallEntry{{Repositories: []definition.Repository{{}}, Packages: []string{"rr"}}, a}}}, ""},
		"not behind an answer":      {[]definition.Layer{{Install: []definition.InstallEntry{{Debconf: []definition.Debconf{{}}, Packages: []string{"rr"}}, a}}}, ""},
		"not with recommends":       {[]definition.Layer{{Install: []definition.InstallEntry{{Recommends: true, Packages: []string{"rr"}}}}}, ""},
		"not with a version":        {[]definition.Layer{{Install: []definition.InstallEntry{{Packages: []string{"rr=1"}}}}}, ""},
		"not with Jinja":            {[]definition.Layer{{Install: []definition.InstallEntry{{Packages: []string{"{{ rr }}"}}}}}, ""},
		"not behind a mask":         {[]definition.Layer{{Install: []definition.InstallEntry{{Services: definition.Services{Masked: []string{"x"}}}, a}}}, ""},
	} {
		d := definition.Definition{Source: definition.Source{Bootstrap: &definition.Bootstrap{}}, Layers: tc.layers}
		if got := strings.Join(earlyPackages(d), " "); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
		for l, layer := range withoutEarly(d) {
			for e, entry := range layer.Install {
				for _, pkg := range d.Layers[l].Install[e].Packages {
					if slices.Contains(strings.Fields(tc.want), pkg) == slices.Contains(entry.Packages, pkg) {
						t.Errorf("%s: package %s is installed twice or never", name, pkg)
					}
				}
			}
		}
		if d.Source.Bootstrap = nil; len(earlyPackages(d)) > 0 {
			t.Errorf("%s: a tarball takes packages", name)
		}
	}
}

func TestBlameNamesTheEntry(t *testing.T) {
	d := definition.Definition{Name: "web", Source: definition.Source{Bootstrap: &definition.Bootstrap{}}, Layers: []definition.Layer{{Install: []definition.InstallEntry{
		{Packages: []string{"nginx"}}, {Name: "Tools", Origin: "install.d/web.yml:7", Packages: []string{"lesss", "vim"}},
	}}}}
	for _, line := range []string{"E: Unable to locate package lesss", "E: Package 'lesss' has no installation candidate"} {
		err := blame(d, &fail.Error{Kind: fail.Build, Tail: "Reading package lists...\n" + line, Err: errors.New("exit status 100")})
		if got := err.Error(); got != "build web: install.d/web.yml:7: Tools: there is no package lesss in the archive" {
			t.Errorf("%s: %s", line, got)
		}
	}
	other := errors.New("no network")
	if err := blame(d, other); !errors.Is(err, other) {
		t.Errorf("error %v", err)
	}
}
