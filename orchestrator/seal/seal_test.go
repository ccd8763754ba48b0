package seal

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// bySealScript seals a folder as a machine seals itself.
func bySealScript(t *testing.T) func(root string) error {
	return func(root string) error {
		cmd := exec.CommandContext(t.Context(), "sh", "-s", root)
		cmd.Stdin, cmd.Stderr = strings.NewReader(Script("AAAAkey")), os.Stderr
		return cmd.Run()
	}
}

func TestNothingOfTheBuilderIsLeft(t *testing.T) {
	for name, seals := range map[string]func(root string) error{
		"a tree": func(root string) error {
			return cmp.Or(host.Tree(root).Symlink(debian.NoResolver, debian.ResolvConf), Apply(root))
		},
		"a machine": bySealScript(t),
	} {
		t.Run(name, func(t *testing.T) { leavesNothing(t, seals) })
	}
}

func leavesNothing(t *testing.T, seals func(root string) error) {
	t.Helper()
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
	if err := errors.Join(tree.MkdirAll("/var/log/app/vhost"), tree.MkdirAll("/srv/spool"), tree.Write("/srv/spool/kept", []byte("keep"), 0o644), tree.Symlink("/srv/spool", "/var/log/linked")); err != nil {
		t.Fatal(err)
	}
	if err := seals(string(tree)); err != nil {
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
	if logs, err := tree.Glob("/var/log/*/*"); err != nil || !slices.Equal(logs, []string{"/var/log/app/vhost"}) {
		t.Errorf("in folders of logs are %q, %v", logs, err)
	}
	if info, err := os.Stat(filepath.Join(string(tree), "var/log/apt")); err != nil || !info.IsDir() {
		t.Errorf("the log folder of a package is gone: %v", err)
	}
}

// What others than root log into stays, without what was logged.
func TestLogsOfOthersStay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("as another user than root, for whom all files are of others")
	}
	for name, seals := range map[string]func(root string) error{"tree": Clean, "script": bySealScript(t)} {
		tree := host.Tree(t.TempDir())
		for _, log := range []string{"/var/log/app.log", "/var/log/app/access.log", "/var/log/app/access.log.1", "/var/log/app/access.log.2.gz", "/var/log/installer/syslog"} {
			if err := tree.Write(log, []byte("secret"), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(filepath.Join(string(tree), log), cmp.Or(os.Getuid(), 65534), -1); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmp.Or(tree.MkdirAll("/etc"), seals(string(tree))); err != nil {
			t.Fatal(err)
		}
		for log, there := range map[string]bool{"app.log": true, "app/access.log": true, "app/access.log.1": false, "app/access.log.2.gz": false, "installer": false} {
			info, err := tree.Lstat("/var/log/" + log)
			if (err == nil) != there || there && info.Size() != 0 || there && info.Mode().Perm() != 0o640 {
				t.Errorf("%s, %s: %v, %v", name, log, info, err)
			}
		}
	}
}

// What a layer has made of it is its own, a link of the build's goes.
func TestNameServersOfALayerStay(t *testing.T) {
	for content, want := range map[string]string{"nameserver 192.0.2.1\n": "nameserver 192.0.2.1\n", "": ""} {
		tree := host.Tree(t.TempDir())
		if err := cmp.Or(Begin(string(tree)), tree.Write(debian.ResolvConf, []byte(content), 0o644), Apply(string(tree))); err != nil {
			t.Fatal(err)
		}
		if got, err := tree.Read(debian.ResolvConf); err != nil || string(got) != want || tree.Readlink(debian.ResolvConf) != "" {
			t.Errorf("%q, %v", got, err)
		}
	}
	tree := host.Tree(t.TempDir())
	if err := cmp.Or(Begin(string(tree)), Apply(string(tree))); err != nil {
		t.Fatal(err)
	}
	if info, err := tree.Lstat(debian.ResolvConf); err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestPresetKeepsDisabledUnitsDisabled(t *testing.T) {
	got := preset("apache2.service  disabled enabled\nrsync.service disabled enabled\n\n")
	if want := lastMatters + "disable apache2.service\ndisable rsync.service\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a machine was told for a run, and what it remembers of it, goes; what the image says
// itself stays.
func TestAScriptForgetsTheRun(t *testing.T) {
	tree := host.Tree(t.TempDir())
	kept := map[string]string{
		"/home/a/.ssh/authorized_keys": "ssh-ed25519 BBBB mine\n", "/var/lib/cloud/seed/nocloud/user-data": "#cloud-config\n", "/home/b/.ssh/authorized_keys": "ssh-ed25519 CCCC b\n",
	}
	for name, content := range map[string]string{
		"/root/.ssh/authorized_keys":   "ssh-ed25519 AAAAkey vmctl x\n",
		"/home/a/.ssh/authorized_keys": "no-pty ssh-ed25519 AAAAkey vmctl x\nssh-ed25519 BBBB mine\n",
		"/var/lib/cloud/instance/x":    "x", "/var/lib/cloud/data/x": "x", "/usr/bin/cloud-init": "", "/etc/netplan/50-cloud-init.yaml": "x",
		"/var/lib/systemd/timers/stamp-x": "x", "/var/log/journal/0123/system.journal": "x",
	} {
		if err := tree.Write(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range kept {
		if !tree.Exists(name) {
			if err := tree.Write(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-s", string(tree))
	cmd.Stdin = strings.NewReader(Script("AAAAkey"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range kept {
		if got, err := tree.Read(name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"/root/.ssh/authorized_keys", "/var/lib/cloud/instance", "/var/lib/cloud/data", "/etc/netplan/50-cloud-init.yaml", "/var/lib/systemd/timers/stamp-x", "/var/log/journal/0123"} {
		if tree.Exists(name) {
			t.Errorf("%s is left", name)
		}
	}
}
