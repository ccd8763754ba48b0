package seal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestApplyLeavesNothingOfTheBuilder(t *testing.T) {
	tree := host.Tree(t.TempDir())
	for _, name := range []string{
		"/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub", "/var/lib/systemd/random-seed",
		"/var/lib/apt/lists/mirror_dists", "/var/cache/apt/archives/a.deb", "/var/log/dpkg.log", "/var/log/apt/term.log",
		"/root/.ansible/x", "/var/tmp/.hidden", "/etc/shadow-", "/usr/lib/python3/x/__pycache__/y.pyc",
		"/boot/efi/loader/random-seed", "/var/log/a[b/log",
	} {
		if err := tree.Write(name, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/etc/ssh/sshd_config", "/usr/lib/python3/x/y.py", "/usr/lib/systemd/systemd-resolved"} {
		if err := tree.Write(name, []byte("keep"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Write("/etc/resolv.conf", []byte("nameserver 10.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tree.MkdirAll("/srv/spool"), tree.Write("/srv/spool/kept", []byte("keep"), 0o644), tree.Symlink("/srv/spool", "/var/log/linked")); err != nil {
		t.Fatal(err)
	}
	if err := Apply(string(tree)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(string(tree), func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if string(content) == "secret" {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/etc/machine-id": "uninitialized\n", "/etc/ssh/sshd_config": "keep", "/usr/lib/python3/x/y.py": "keep", "/srv/spool/kept": "keep",
	} {
		if got, err := tree.Read(name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if target := tree.Readlink("/etc/resolv.conf"); target != stubResolv {
		t.Errorf("resolv.conf points to %q", target)
	}
	if info, err := os.Stat(filepath.Join(string(tree), "var/log/apt")); err != nil || !info.IsDir() {
		t.Errorf("the log folder of a package is gone: %v", err)
	}
}

func TestPresetKeepsDisabledUnitsDisabled(t *testing.T) {
	got := preset("apache2.service  disabled enabled\nrsync.service disabled enabled\n\n")
	if want := lastMatters + "disable apache2.service\ndisable rsync.service\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
