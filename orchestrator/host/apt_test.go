package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAptRunsDpkgInACell(t *testing.T) {
	given := []string{"-o", "Dir::Bin::dpkg=env", "-o", "DPkg::Options::=--unset=TMPDIR", "-o", "DPkg::Options::=dpkg", "-o", "DPkg::Chroot-Directory=/tree", "--yes", "install", "-oAPT::Status-Fd=5", "vim"}
	want := []string{
		"-o", "DPkg::Chroot-Directory=/", "-o", "Dir::Bin::dpkg=/cells/dpkg-in", "-o", "DPkg::Install::Recursive::Minimum=100000", "-o", "DPkg::MaxArgBytes=1000000",
		"-o", "DPkg::Options::=/tree", "-o", "DPkg::Options::=env", "-o", "DPkg::Options::=--unset=TMPDIR", "-o", "DPkg::Options::=dpkg",
		"--yes", "install", "-o", "APT::Status-Fd=5", "vim",
	}
	if got := inCells(given, "/cells/dpkg-in"); !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
	plain := []string{"update", "--error-on=any"}
	if got := inCells(plain, "/cells/dpkg-in"); !slices.Equal(got, plain) {
		t.Errorf("without a tree: %q", got)
	}
}

// TestAptObeysNoPackage has a package change the settings after apt has got its lists.
func TestAptObeysNoPackage(t *testing.T) {
	tree, folder := t.TempDir(), filepath.Join(t.TempDir(), "apt")
	parts, config := filepath.Join(tree, "etc/apt/apt.conf.d"), filepath.Join(tree, "tmp-apt.conf")
	put := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(parts, 0o755); err != nil {
		t.Fatal(err)
	}
	put(filepath.Join(parts, "01ours"), "ours")
	put(config, "Dir \""+tree+"\";\n")
	given := []string{"PATH=/bin", "APT_CONFIG=" + config}
	var env []string
	for _, args := range [][]string{{"update"}, {"--yes", "install"}} {
		var err error
		if env, err = earlySettings(folder, args, given); err != nil {
			t.Fatal(err)
		}
		put(filepath.Join(parts, "99evil"), "evil")
		put(config, "evil")
	}
	content, err := os.ReadFile(Variable(env, "APT_CONFIG"))
	if err != nil || !strings.HasPrefix(string(content), "Dir \""+tree+"\";\n") || !strings.Contains(string(content), "Dir::Etc::parts \""+folder+"/parts/\";") {
		t.Errorf("%s, %v", content, err)
	}
	if names, _ := filepath.Glob(folder + "/parts/*"); len(names) != 1 || filepath.Base(names[0]) != "01ours" {
		t.Errorf("settings: %v", names)
	}
	if env, err := earlySettings(filepath.Join(folder, "none"), []string{"install"}, given); err != nil || !slices.Equal(env, given) {
		t.Errorf("without lists: %q, %v", env, err)
	}
}
