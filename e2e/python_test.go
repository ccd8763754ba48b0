//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestTransientPythonIsGone builds without the Python that was brought for Ansible, and a
// child of that build, whose entries Ansible still applies, with a package that needs it.
func TestTransientPythonIsGone(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "install.d/lean.yml"), "extends: debian\npython: transient\ninstall: [{files: [{path: /etc/lean, content: \"lean\\n\"}]}]\n")
	write(t, filepath.Join(folder, "install.d/scripted.yml"), "extends: lean\ninstall: [{packages: [python3-six]}]\n")
	r := good(t, folder, "build", "lean", "scripted", "--no-test", "--format", "raw")
	if !strings.Contains(r.stderr, "lean: removed ") || !strings.Contains(r.stderr, " python3.13-minimal ") || !strings.Contains(r.stderr, "scripted: removed ") {
		t.Errorf("nothing is told of it:\n%s", r.stderr)
	}
	in := func(name, script string) string {
		t.Helper()
		return good(t, folder, "shell", name, "--", "sh", "-c", script).stdout
	}
	const consistent = "dpkg --audit; apt-get check >/dev/null && echo consistent; apt-get --simulate autoremove | grep ^Remv; cat /etc/lean; "
	if got := in("lean", consistent+"ls -d /usr/bin/python3* /usr/lib/python3*; true"); got != "consistent\nlean\n" {
		t.Errorf("without Python: %q", got)
	}
	if got := in("scripted", consistent+"python3 -c 'import six; print(6)'"); got != "consistent\nlean\n6\n" {
		t.Errorf("with a package that needs it: %q", got)
	}
	for name, want := range map[string]bool{"lean": false, "scripted": true} {
		if packages := tool(t, "cat", filepath.Join(folder, "images", name, "packages.json")); strings.Contains(packages, `"name": "python3"`) != want {
			t.Errorf("%s has packages %s", name, packages)
		}
	}
}
