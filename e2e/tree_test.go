//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTreeThatBootsNowhere is what formats of the tree alone need: nothing of a boot loader gets into
// the tree, and nothing is missed for want of a boot test.
func TestTreeThatBootsNowhere(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	write(t, filepath.Join(folder, "install.d/small.yml"), "source: {tarball: {path: root.tar}}\ndisk: {layout: none, size: 2G}\noutputs: [tar]\n")
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands:\n  - run: touch /done\n")
	r := good(t, folder, "build", "small", "--cache", filepath.Join(folder, "cache"))
	if strings.Contains(r.stderr, "Boot test") || strings.Contains(r.stderr, "Initramfs") {
		t.Errorf("it was made to boot:\n%s", r.stderr)
	}
	files := strings.Fields(r.stdout)
	if len(files) != 1 {
		t.Fatalf("written are %v", files)
	}
	names := tool(t, "tar", "--list", "--file", filepath.Join(folder, files[0]))
	for name, want := range map[string]bool{"done": true, "usr/bin/dpkg": true, "boot/grub/grub.cfg": false, "etc/default/grub.d/vmctl.cfg": false} {
		if strings.Contains("\n"+strings.ReplaceAll(names, "\n./", "\n")+"\n", "\n"+name+"\n") != want {
			t.Errorf("%s: want %t", name, want)
		}
	}
	before, err := os.Stat(filepath.Join(folder, files[0]))
	if err != nil {
		t.Fatal(err)
	}
	good(t, folder, "build", "small", "--cache", filepath.Join(folder, "cache"))
	if after, err := os.Stat(filepath.Join(folder, files[0])); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was made again, though it cannot be tested: %v", err)
	}
}
