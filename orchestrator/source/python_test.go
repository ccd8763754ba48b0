package source_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// dpkgTree is a tree of packages, each with those that it needs.
type dpkgTree struct {
	*hosttest.Fake
	needs map[string][]string
	auto  map[string]bool
}

func (d *dpkgTree) Run(ctx context.Context, c host.Command) error {
	if c.Path == "apt-mark" {
		for _, name := range c.Args[1:] {
			d.auto[name] = true
		}
	}
	return d.Fake.Run(ctx, c)
}

func (d *dpkgTree) Output(_ context.Context, c host.Command) ([]byte, error) {
	var out strings.Builder
	if c.Path == "dpkg-query" {
		for name := range d.needs {
			out.WriteString("installed\t" + name + "\t1\tamd64\t" + name + "\t1\t9\n")
		}
		return []byte(out.String()), nil
	}
	remove := map[string]bool{}
	switch at := slices.Index(c.Args, "purge"); {
	case at > 0: // and what needs them
		for _, name := range c.Args[at+1:] {
			remove[name] = true
		}
		for range d.needs {
			for name, needs := range d.needs {
				remove[name] = remove[name] || slices.ContainsFunc(needs, func(n string) bool { return remove[n] })
			}
		}
	case slices.Contains(c.Args, "autoremove"):
		for name := range d.needs {
			remove[name] = d.auto[name]
		}
		for range d.needs {
			for name, needs := range d.needs {
				for _, needed := range needs {
					remove[needed] = remove[needed] && remove[name]
				}
			}
		}
	default:
		return nil, errors.New("unknown command")
	}
	for name, gone := range remove {
		if gone {
			out.WriteString("Remv " + name + " [1]\n")
		}
	}
	return []byte(out.String()), nil
}

func TestWhatWasBroughtForAnsibleGoes(t *testing.T) {
	plain := map[string][]string{"python3": {"libpython3"}, "libpython3": nil, "python3-apt": {"python3", "libapt"}, "libapt": nil, "apt": {"libapt"}}
	with := func(name string, needs ...string) map[string][]string {
		all := map[string][]string{name: needs}
		for other, needs := range plain {
			all[other] = needs
		}
		return all
	}
	for name, tc := range map[string]struct {
		needs         map[string][]string
		auto, named   []string
		gone, needing string
	}{
		"nothing needs it":         {needs: plain, gone: "libpython3 python3 python3-apt"},
		"a package needs it":       {needs: with("cloud-init", "python3"), gone: "python3-apt", needing: "cloud-init"},
		"an orphan of the user's":  {needs: with("tool"), auto: []string{"tool"}, gone: "libpython3 python3 python3-apt"},
		"an orphan needs it":       {needs: with("tool", "libpython3"), auto: []string{"tool"}, gone: "", needing: "tool"},
		"the user has named it":    {needs: plain, named: []string{"python3"}, gone: "python3-apt"},
		"the user has named both":  {needs: plain, named: []string{"python3", "python3-apt"}},
		"a library is needed, too": {needs: with("vim", "libpython3"), gone: "python3 python3-apt"},
		"there is none":            {needs: map[string][]string{"apt": nil}},
	} {
		d := &dpkgTree{Fake: &hosttest.Fake{}, needs: tc.needs, auto: map[string]bool{"libpython3": true, "libapt": true}}
		for _, orphan := range tc.auto {
			d.auto[orphan] = true
		}
		gone, needing, err := source.RemoveAnsiblePackages(t.Context(), d, "/tree", tc.named)
		slices.Sort(gone)
		if err != nil || strings.Join(gone, " ") != tc.gone || strings.Join(needing, " ") != tc.needing {
			t.Errorf("%s: gone %v, needing %v, %v", name, gone, needing, err)
		}
		purged := slices.ContainsFunc(d.Calls, func(call string) bool { return strings.Contains(call, "apt-get --quiet --yes purge") })
		if purged != (tc.gone != "") {
			t.Errorf("%s: %q", name, d.Calls)
		}
	}
}
