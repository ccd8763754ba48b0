//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackages makes what others get twice, as other users in other folders would, and installs
// Debian's package in a clean tree.
func TestPackages(t *testing.T) {
	t.Parallel()
	first, second := makePackages(t, "022"), makePackages(t, "077")
	for _, pattern := range []string{"vmctl-*-linux-*", "SHA256SUMS", "*.deb"} {
		files, err := filepath.Glob(filepath.Join(first, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("there is no %s: %v", pattern, err)
		}
		for _, file := range files {
			tool(t, "cmp", file, filepath.Join(second, filepath.Base(file)))
		}
	}
	tool(t, "sh", "-ec", `cd "$1" && sha256sum --check --strict SHA256SUMS && ./vmctl-*-amd64 --version && grep -q pkg:golang/github.com/spf13/cobra@v ./*.spdx.json`, "sh", first)
	installPackage(t, first)
}

func makePackages(t *testing.T, umask string) (folder string) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "dist")
	tool(t, "sh", "-ec", `umask "$1"; export VMCTL_CACHE="$2"; exec make -C .. dist deb ARCHES=amd64 DIST="$2"`, "sh", umask, folder)
	return folder
}

// installPackage has apt find all that the package wants, and dpkg install it alone.
func installPackage(t *testing.T, folder string) {
	t.Helper()
	tarball, err := rootTarball()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	tool(t, "tar", "-xpf", tarball, "-C", tree)
	packages, err := filepath.Glob(filepath.Join(folder, "*.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("%v, %v", packages, err)
	}
	tool(t, "cp", packages[0], filepath.Join(tree, "vmctl.deb"))
	within := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", "--mount-proc=" + filepath.Join(tree, "proc"), "chroot", tree}, args...)...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	within("apt-get", "--quiet", "update")
	planned := within("apt-get", "--quiet", "--simulate", "--install-recommends", "install", "/vmctl.deb")
	for _, name := range []string{"mmdebstrap", "ansible", "qemu-system-x86", "ovmf", "partclone"} {
		if !strings.Contains(planned, "Inst "+name+" ") {
			t.Errorf("apt would not install %s", name)
		}
	}
	within("dpkg", "--force-depends", "--install", "/vmctl.deb")
	binaries, err := filepath.Glob(filepath.Join(folder, "vmctl-*-linux-amd64"))
	if err != nil || len(binaries) != 1 {
		t.Fatalf("%v, %v", binaries, err)
	}
	if version := within("vmctl", "--version"); version != tool(t, binaries[0], "--version") {
		t.Errorf("it is of version %s", version)
	}
	if list := within("vmctl", "list"); !strings.Contains(list, "debian-cloud") {
		t.Errorf("the shipped builds are not in it: %s", list)
	}
	for _, path := range []string{
		"man/man1/vmctl.1.gz", "man/man1/vmctl-build.1.gz", "doc/vmctl/README.md", "doc/vmctl/copyright",
		"bash-completion/completions/vmctl", "zsh/vendor-completions/_vmctl", "fish/vendor_completions.d/vmctl.fish",
	} {
		info, err := os.Stat(filepath.Join(tree, "usr/share", path))
		if err != nil || info.Mode().Perm() != 0o644 || info.Size() == 0 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	within("bash", "-ec", ". /usr/share/bash-completion/completions/vmctl; complete -p vmctl")
	if verified := within("dpkg", "--verify", "vmctl"); verified != "" {
		t.Errorf("other files than the package's: %s", verified)
	}
	within("dpkg", "--purge", "vmctl")
	if _, err := os.Stat(filepath.Join(tree, "usr/share/doc/vmctl")); err == nil {
		t.Error("files are left of it")
	}
}
