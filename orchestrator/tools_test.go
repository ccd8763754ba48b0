package orchestrator

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestToolsAreTheirSourceAlone(t *testing.T) {
	if err := checkTools(plan(t, "tools").Definition); err != nil {
		t.Error(err)
	}
	err := checkTools(plan(t, "debian").Definition)
	if fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "debian asks for more") || fail.Hint(err) == "" {
		t.Errorf("%v", err)
	}
	installed := definition.Definition{Name: "desktop", Source: definition.Source{Installer: &definition.Installer{}}}
	if err := checkTools(installed); fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), "desktop has an installer") {
		t.Errorf("%v", err)
	}
}

func TestToolsLackWhatABuildNeeds(t *testing.T) {
	needs := NeedsOf(plan(t, "debian").Definition, true, "")
	err := toolset{tree: t.TempDir()}.checkPrograms(needs)
	if fail.ExitCode(err) != 3 || !strings.Contains(err.Error(), "mkfs.ext4 (package e2fsprogs)") || strings.Contains(err.Error(), "qemu-system") {
		t.Errorf("%v", err)
	}
	if err := (toolset{}).checkPrograms(needs); err != nil {
		t.Errorf("of this machine's own, which preflight checks: %v", err)
	}
}

// What a tools tree brings need not be on the host: but for the programs that make the tree.
func TestWhatAHostNeedsBesidesTools(t *testing.T) {
	needs := NeedsOf(plan(t, "debian").Definition, true, "")
	needs.Tools = true
	for _, tool := range needs.tools() {
		if slices.Contains([]string{"mmdebstrap", "ansible-playbook", "mkfs.ext4", "qemu-img"}, tool.Name) {
			t.Errorf("needs %s", tool.Name)
		}
	}
	if !slices.ContainsFunc(needs.tools(), func(tool debian.Tool) bool { return strings.HasPrefix(tool.Name, "qemu-system") }) {
		t.Error("needs no QEMU for its boot tests")
	}
	of := func(s definition.Source) (names []string) {
		for _, tool := range NeedsOfTools(definition.Definition{Source: s}, "").tools() {
			names = append(names, tool.Name)
		}
		return names
	}
	if !slices.Contains(of(definition.Source{Bootstrap: &definition.Bootstrap{}}), "mmdebstrap") || slices.Contains(of(definition.Source{OCI: &definition.OCI{}}), "mmdebstrap") {
		t.Error("mmdebstrap makes trees of archives, and no others")
	}
}

func TestToolsThatAreTooOld(t *testing.T) {
	for version, old := range map[string]bool{"2.14.3-1": false, "2.19.0~beta6-1": false, "2.13.4-1": true, "3.0-1": false} {
		if got := tooOld([]debian.Package{{Name: "ansible-core", Version: version}}); (got != "") != old {
			t.Errorf("%s: %q", version, got)
		}
	}
	if tooOld([]debian.Package{{Name: "ansible", Version: "2.10.7+merged"}}) == "" || tooOld([]debian.Package{{Name: "ansible", Version: "7.7.0"}, {Name: "odd", Version: "x"}}) != "" {
		t.Error("ansible 2.10, which had all in it, is too old; ansible 7.7 is a set of collections")
	}
}

func TestWhatToolsHideIsRefused(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/usr/share", link); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		b    Builder
		plan Plan
		work string
		want bool
	}{
		"nothing":  {Builder{Store: "/var/cache/vmctl"}, Plan{Project: "/srv/lab"}, "/srv/images", false},
		"store":    {Builder{Store: "/usr/local/store"}, Plan{}, "", true},
		"project":  {Builder{}, Plan{Project: "/usr/src/lab"}, "", true},
		"by links": {Builder{}, Plan{Project: link}, "", true},
		"asset":    {Builder{}, Plan{Assets: map[string]string{"key": "/usr/share/keyrings/x.gpg"}}, "", true},
		"results":  {Builder{}, Plan{}, "/usr/local/images", true},
	} {
		if err := tc.b.checkHidden(tc.plan, tc.work); (fail.ExitCode(err) == 2) != tc.want || tc.want != (fail.Hint(err) != "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
