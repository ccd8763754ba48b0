//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/btw-img/btw-img/orchestrator"
)

// small is a build that takes seconds, and most of the programs that make images.
const small = `source: {bootstrap: {suite: trixie, variant: minbase}}
disk: {size: 1G, layout: none}
install:
  - {name: Greeting, files: [{path: /etc/motd, content: "{{ ansible_facts.distribution }}\n"}], users: [{name: alice}]}
outputs: [tar, squashfs]
`

// TestToolsTree builds with the programs of a tools tree: roles with an Ansible that the host
// does not have, and a disk that has the same bytes on a Debian of another release, which has
// no program for it.
func TestToolsTree(t *testing.T) {
	t.Parallel()
	docker(t)
	folder := project(t)
	site := filepath.Join(folder, "install.d/site.yml")
	tool(t, "sed", "--in-place", "s/engine, agent, banned/banned/", site) // without those whose archive somebody has to serve
	with := []string{"--tools", "debian-13", "--no-test"}
	var m orchestrator.Manifest
	t.Run("roles", func(t *testing.T) {
		good(t, folder, append([]string{"build", "site", "--format", "qcow2"}, with...)...)
		readJSON(t, filepath.Join(folder, "images/site/build.json"), &m)
		if !strings.HasPrefix(m.Tools["ansible-core"], "2.19") || m.ToolsTree != "debian-13" || m.Tools["qemu-system-x86"] == m.Tools["qemu-utils"] {
			t.Errorf("made by %v of %q", m.Tools, m.ToolsTree)
		}
		if got := good(t, folder, "shell", "site", "--tools", "debian-13", "--", "cat", "/etc/motd").stdout; got != "FROM THE DEFINITION!\n" {
			t.Errorf("motd: %q", got)
		}
		if r := run(t, folder, "shell", "site", "--tools", "host", "--", "true"); strings.Contains(r.stderr, "after Seal") {
			t.Errorf("this host's own programs have not made it:\n%s", r.stderr)
		}
	})

	bench := t.TempDir()
	write(t, filepath.Join(bench, "install.d/small.yml"), small)
	good(t, bench, append([]string{"build", "small"}, with...)...)
	var here, there orchestrator.Manifest
	readJSON(t, filepath.Join(bench, "images/small/build.json"), &here)

	t.Run("a build with more than a source is none", func(t *testing.T) {
		r := run(t, bench, "build", "small", "--no-test", "--tools", "small")
		if r.code != 2 || !strings.Contains(r.stderr, "small asks for more than its source") {
			t.Errorf("exit code %d\n%s", r.code, r.stderr)
		}
		r = run(t, bench, "build", "small", "--no-test", "--tools", "nonesuch")
		if r.code != 2 || !strings.Contains(r.stderr, "--tools nonesuch") {
			t.Errorf("exit code %d\n%s", r.code, r.stderr)
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		good(t, bench, "build", "tools", "-o", "shelf")
		tool(t, "cp", filepath.Join(bench, "shelf/tools/tools-13-amd64.oci.tar"), filepath.Join(bench, "tools.oci.tar"))
		script := `cd /builds && mv images before && vmctl build small --no-test --tools host; test $? = 3 &&
			vmctl build small --no-test --tools oci-archive:/builds/tools.oci.tar`
		code, log := contain(t, bareDebian(t), script, map[string]string{"VMCTL_CACHE": "/builds/.layers"}, func(c *container.HostConfig) {
			c.SecurityOpt = []string{"seccomp=unconfined", "apparmor=unconfined"}
			c.Binds = []string{bench + ":/builds"}
		})
		if code != 0 {
			t.Fatalf("exit code %d\n%s", code, log)
		}
		readJSON(t, filepath.Join(bench, "images/small/build.json"), &there)
		if there.Disk != here.Disk {
			t.Errorf("the disk is %v there, and here %v", there.Disk, here.Disk)
		}
		for i, output := range there.Outputs {
			if output.SHA256 == "" || output.SHA256 != here.Outputs[i].SHA256 {
				t.Errorf("%s has other bytes there", output.Name)
			}
		}
		if len(there.Outputs) != 2 {
			t.Errorf("outputs: %v", there.Outputs)
		}
		if t.Failed() {
			list := `tar --list --verbose --file `
			t.Log(tool(t, "bash", "-c", `cd `+bench+`; diff <(`+list+`before/small/*.tar) <(`+list+`images/small/*.tar); mkdir a b; tar -C a -xf before/small/*.tar; tar -C b -xf images/small/*.tar; diff --recursive --no-dereference a b; true`))
		}
	})
	nothingLeft(t, bench)
}
