package seal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

const ownFSTab = "# <file system> <mount point> <type> <options> <dump> <pass>\nUUID=r / ext4 errors=remount-ro 0 1\nUUID=E-F /boot/efi vfat umask=0077 0 2\nUUID=s none swap sw 0 0\n"

func TestWhatALayerWroteIsMergedOrRefused(t *testing.T) {
	ownHosts := hosts("web.example.org")
	for name, tc := range map[string]struct {
		path, found, want, problem string
	}{
		"fstab unchanged":             {fstabFile, ownFSTab, ownFSTab, ""},
		"fstab with a line more":      {fstabFile, ownFSTab + "nas:/srv /srv nfs defaults 0 0\n", ownFSTab + "nas:/srv /srv nfs defaults 0 0\n", ""},
		"fstab with other options":    {fstabFile, strings.Replace(ownFSTab, "errors=remount-ro", "noatime", 1), strings.Replace(ownFSTab, "errors=remount-ro", "noatime", 1), ""},
		"fstab written anew":          {fstabFile, "# mine\ntmpfs /tmp tmpfs size=1G 0 0", "UUID=r / ext4 errors=remount-ro 0 1\nUUID=E-F /boot/efi vfat umask=0077 0 2\nUUID=s none swap sw 0 0\n# mine\ntmpfs /tmp tmpfs size=1G 0 0", ""},
		"fstab with another swap":     {fstabFile, ownFSTab + "/swapfile none swap sw 0 0\n", ownFSTab + "/swapfile none swap sw 0 0\n", ""},
		"fstab with other words":      {fstabFile, "/dev/disk/by-uuid/r / ext4 defaults 0 1\nUUID=\"E-F\" /boot/efi vfat defaults 0 2\nUUID=s swap swap sw 0 0\n", "/dev/disk/by-uuid/r / ext4 defaults 0 1\nUUID=\"E-F\" /boot/efi vfat defaults 0 2\nUUID=s swap swap sw 0 0\n", ""},
		"hosts with another name":     {hostsFile, strings.Replace(ownHosts, "web.example.org web", "other", 1), "127.0.1.1\tweb.example.org web\n" + strings.Replace(ownHosts, "web.example.org web", "other", 1), ""},
		"fstab removed":               {fstabFile, "", strings.SplitN(ownFSTab, "\n", 2)[1], ""},
		"fstab with another root":     {fstabFile, "LABEL=other / ext4 defaults 0 1\n", "", "LABEL=other on /"},
		"fstab with a second root":    {fstabFile, ownFSTab + "LABEL=other /boot/efi/ vfat defaults 0 1\n", "", "LABEL=other on /boot/efi"},
		"hosts unchanged":             {hostsFile, ownHosts, ownHosts, ""},
		"hosts with a line more":      {hostsFile, ownHosts + "10.0.0.1 db\n", ownHosts + "10.0.0.1 db\n", ""},
		"hosts written anew":          {hostsFile, "127.0.0.1 localhost\n10.0.0.1 db\n", "127.0.1.1\tweb.example.org web\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.0.1 localhost\n10.0.0.1 db\n", ""},
		"hosts with a name elsewhere": {hostsFile, strings.Replace(ownHosts, "127.0.1.1", "10.0.0.7", 1), strings.Replace(ownHosts, "127.0.1.1", "10.0.0.7", 1), ""},
		"hostname unchanged":          {hostnameFile, "web.example.org\n", "web.example.org\n", ""},
		"hostname emptied":            {hostnameFile, "# from DHCP\n", "# from DHCP\n", ""},
		"hostname changed":            {hostnameFile, "db\n", "", `names the machine "db"`},
	} {
		t.Run(name, func(t *testing.T) {
			tree := host.Tree(t.TempDir())
			identity := Identity{Hostname: "web.example.org", FSTab: ownFSTab}
			if err := Begin(string(tree)); err != nil {
				t.Fatal(err)
			}
			if tc.found == "" {
				if err := tree.Remove(tc.path); err != nil {
					t.Fatal(err)
				}
			} else if err := tree.Write(tc.path, []byte(tc.found), 0o640); err != nil {
				t.Fatal(err)
			}
			err := identity.Settle(string(tree))
			if tc.problem != "" {
				if fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), tc.problem) || fail.Hint(err) == "" {
					t.Errorf("error %v", err)
				}
				return
			}
			if got, _ := tree.Read(tc.path); err != nil || string(got) != tc.want {
				t.Errorf("%v, got\n%s\nwant\n%s", err, got, tc.want)
			}
			if info, err := os.Stat(filepath.Join(string(tree), tc.path)); tc.found == tc.want && (err != nil || info.Mode() != 0o640) {
				t.Errorf("%v, %v: what needed no change was written", info.Mode(), err)
			}
		})
	}
}

func TestTheSourceOfAnotherMachineDoesNotCount(t *testing.T) {
	tree := host.Tree(t.TempDir())
	for path, content := range map[string]string{fstabFile: "LABEL=old / ext4 defaults 0 1\n", hostnameFile: "old\n"} {
		if err := tree.Write(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	identity := Identity{Hostname: "new", FSTab: ownFSTab}
	if err := Begin(string(tree)); err != nil {
		t.Fatal(err)
	}
	if err := identity.Settle(string(tree)); err != nil {
		t.Error(err)
	}
}

// The name servers of whoever builds are in no tree, and so in no identifier.
func TestTheBuildersNameServersDoNotCount(t *testing.T) {
	tree := host.Tree(t.TempDir())
	if err := tree.Write(debian.ResolvConf, []byte("nameserver 10.0.0.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Begin(string(tree)); err != nil {
		t.Fatal(err)
	}
	if target := tree.Readlink(debian.ResolvConf); target != debian.NoResolver {
		t.Errorf("it leads to %q", target)
	}
	if err := tree.Symlink(stubResolv, debian.ResolvConf); err != nil {
		t.Fatal(err)
	}
	if err := Begin(string(tree)); err != nil || tree.Readlink(debian.ResolvConf) != stubResolv {
		t.Errorf("a link is now %q, %v", tree.Readlink(debian.ResolvConf), err)
	}
}
