//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAFolderOfAnyName builds in a folder whose name means something to
// Ansible, shells and QEMU, with files of such names.
func TestAFolderOfAnyName(t *testing.T) {
	t.Parallel()
	evidence := filepath.Join(t.TempDir(), "evidence")
	folder := filepath.Join(t.TempDir(), `j {{ lookup('pipe', 'touch `+strings.ReplaceAll(evidence, "/", "'+'/'+'")+`') }} {{ 6 * 7 }} $HOME ~ "'%s, a=b`+"\nx")
	if err := os.MkdirAll(filepath.Join(folder, "install.d/odd"), 0o755); err != nil {
		t.Fatal(err)
	}
	tarball, err := rootTarball()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tarball, filepath.Join(folder, "install.d/root.tar")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "install.d/odd.yml"), `
source: {tarball: {path: root.tar}}
disk: {layout: bios, size: 1G}
firmware: [bios]
outputs: [qcow2, raw]
install:
  - name: Files
    files: [{path: /etc/copied, source: odd/$HOME $(id).txt}]
    templates: [{path: /etc/rendered, source: odd/page.j2}]
    roles: [stamp]
`)
	write(t, filepath.Join(folder, "install.d/odd/$HOME $(id).txt"), "as it is {{ 6 * 7 }}\n")
	write(t, filepath.Join(folder, "install.d/odd/page.j2"), "{% include 'inner.j2' %} {{ 6 * 7 }}\n")
	write(t, filepath.Join(folder, "install.d/odd/inner.j2"), "included")
	write(t, filepath.Join(folder, "roles/stamp/tasks/main.yml"), "- ansible.builtin.copy: {dest: /etc/stamped, src: stamp}\n")
	write(t, filepath.Join(folder, "roles/stamp/files/stamp"), "stamped\n")
	good(t, folder, "build", "odd", "--no-test", "--definitions", folder)
	d := openDisk(t, copyDisk(t, filepath.Join(folder, "images/odd/odd-amd64.raw")).raw)
	for path, want := range map[string]string{"/etc/copied": "as it is {{ 6 * 7 }}\n", "/etc/rendered": "included 42\n", "/etc/stamped": "stamped\n"} {
		if got := d.cat(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	good(t, folder, "push", "odd", "--force-untested")
	good(t, folder, "pull", "oci:images/oci/odd", "-o", "pulled")
	if _, err := os.Stat(evidence); err == nil {
		t.Error("a name was run")
	}
}

// TestRootLendsNothing has somebody else prepare the folders that root is told to
// use.
func TestRootLendsNothing(t *testing.T) {
	const stranger = "54322:54322"
	for name, tc := range map[string]struct {
		prepare string
		args    []string
	}{
		"output folder":    {"mkdir out", []string{"build", "debian", "--no-test", "-o", "out"}},
		"link for a lock":  {"mkdir out; ln -s ../victim out/.debian.lock", []string{"build", "debian", "--no-test", "-o", "out"}},
		"FIFO for a lock":  {"mkdir out; mkfifo out/.debian.lock", []string{"build", "debian", "--no-test", "-o", "out"}},
		"link as a folder": {"mkdir -p elsewhere out; ln -s ../elsewhere out/.debian.work", []string{"build", "debian", "--no-test", "-o", "out"}},
		"OCI layout":       {"mkdir out", []string{"push", debian(t).folder, "oci:out/layout"}},
		"archive":          {"mkdir out", []string{"push", debian(t).folder, "oci-archive:out/a.tar"}},
		"consoles":         {"mkdir out; ln -s ../victim out/boot-bios.log", []string{"test", debian(t).image("qcow2"), "--firmware", "bios", "--logs", "out"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command("sh", "-ec", tc.prepare+"; chown -hR "+stranger+" out")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			before := tool(t, "find", dir, "-printf", "%p %y %U\n")
			r := run(t, dir, tc.args...)
			if r.code != 3 || !strings.Contains(r.stderr, "belongs to somebody else") || !strings.Contains(r.stderr, "out") {
				t.Errorf("exit code %d\n%s", r.code, r.stderr)
			}
			if after := tool(t, "find", dir, "-printf", "%p %y %U\n"); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}
