package orchestrator

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/spec"
)

func TestOnlyPackagesThatNothingPrecedesComeEarly(t *testing.T) {
	a := spec.InstallEntry{Packages: []string{"aa"}}
	b := spec.InstallEntry{Packages: []string{"bb"}, Files: []spec.File{{Path: "/x"}}}
	c := spec.InstallEntry{Packages: []string{"cc"}}
	for name, tc := range map[string]struct {
		layers []spec.Layer
		want   string
	}{
		"up to an entry with files": {[]spec.Layer{{Install: []spec.InstallEntry{a, b, c}}}, "aa bb"},
		"across layers":             {[]spec.Layer{{Install: []spec.InstallEntry{a}}, {Install: []spec.InstallEntry{c}}}, "aa cc"},
		"up to commands":            {[]spec.Layer{{Install: []spec.InstallEntry{a}, Commands: []spec.CommandEntry{{Run: "x"}}}, {Install: []spec.InstallEntry{c}}}, "aa"},
		"not behind a repository":   {[]spec.Layer{{Install: []spec.InstallEntry{{Repositories: []spec.Repository{{}}, Packages: []string{"rr"}}, a}}}, ""},
		"not behind an answer":      {[]spec.Layer{{Install: []spec.InstallEntry{{Debconf: []spec.Debconf{{}}, Packages: []string{"rr"}}, a}}}, ""},
		"not with recommends":       {[]spec.Layer{{Install: []spec.InstallEntry{{Recommends: true, Packages: []string{"rr"}}}}}, ""},
		"not with a version":        {[]spec.Layer{{Install: []spec.InstallEntry{{Packages: []string{"rr=1"}}}}}, ""},
		"not with Jinja":            {[]spec.Layer{{Install: []spec.InstallEntry{{Packages: []string{"{{ rr }}"}}}}}, ""},
		"not behind a mask":         {[]spec.Layer{{Install: []spec.InstallEntry{{Services: spec.Services{Masked: []string{"x"}}}, a}}}, ""},
	} {
		d := spec.Definition{Source: spec.Source{Bootstrap: &spec.Bootstrap{}}, Layers: tc.layers}
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
	d := spec.Definition{Name: "web", Source: spec.Source{Bootstrap: &spec.Bootstrap{}}, Layers: []spec.Layer{{Install: []spec.InstallEntry{
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
