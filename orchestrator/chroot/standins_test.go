package chroot

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// absolute is where a stand-in names a file of the tree.
var absolute = regexp.MustCompile(`([\s"'=])/(usr|etc|run|bin|sbin)\b`)

// entered is a folder that the stand-ins take for the tree, with programs of the tree's and
// files.
func entered(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := makeStandIns(host.Tree(root)); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(filepath.Join(root, StandIns))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		path := filepath.Join(root, StandIns, file.Name())
		content, err := os.ReadFile(path)
		if err == nil && file.Type().IsRegular() {
			first, rest, _ := bytes.Cut(content, []byte("\n"))
			err = os.WriteFile(path, append(append(first, '\n'), absolute.ReplaceAll(rest, []byte("${1}"+root+"/$2"))...), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		if err := host.Tree(root).Write(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// What a program answers, with its exit code where that is not 0, and what is deferred then.
func TestStandIns(t *testing.T) {
	const systemd = `#!/bin/sh
case $* in
  --version) printf 'systemd 257 (257.8-1~deb13u2)\n+PAM -GNUTLS\n' ;;
  *) echo "really $SYSTEMD_OFFLINE $*" ;;
esac
`
	root := entered(t, map[string]string{
		"/usr/bin/systemctl": systemd, "/usr/bin/timedatectl": "#!/bin/sh\necho really $*\n", "/usr/bin/udevadm": "#!/bin/sh\necho really $*\n", "/usr/sbin/grub-mkconfig": "#!/bin/sh\necho really $*\n",
		"/usr/lib/systemd/system/a.service": "", "/usr/lib/systemd/system/systemd-timesyncd.service": "",
		"/usr/lib/systemd/ntp-units.d/80-timesync.list": "systemd-timesyncd.service\n", "/usr/lib/systemd/ntp-units.d/50-chrony.list": "# best\nchrony.service\n",
	})
	for _, tc := range []struct{ call, want, deferred string }{
		{"systemctl --version", "systemd 257 (257.8-1~deb13u2)\n+PAM -GNUTLS\n", ""},
		{"systemctl --no-pager --help", "really  --no-pager --help\n", ""},
		{"systemctl show --property=Version", "Version=257.8-1~deb13u2\n", ""},
		{"systemctl show -p Version --value", "257.8-1~deb13u2\n", ""},
		{"systemctl show -p Features -p SystemState", "Features=+PAM -GNUTLS\nSystemState=offline\n", ""},
		{"systemctl show -P FragmentPath a", "ROOT/usr/lib/systemd/system/a.service\n", ""},
		{"systemctl show -PLoadState b.timer", "not-found\n", ""},
		{"systemctl show -p LoadState a", "LoadState=loaded\n", ""},
		{"systemctl is-active a", "inactive\nexit 3\n", ""},
		{"systemctl list-units", "", ""},
		{"systemctl enable --now a", "really 1 enable a\n", "systemctl start a"},
		{"systemctl mask a --now", "really 1 mask a\n", ""},
		{"timedatectl set-ntp true", "really 1 --quiet enable systemd-timesyncd.service\n", "systemctl start systemd-timesyncd.service"},
		{"timedatectl --no-ask-password set-ntp 0", "really 1 --quiet disable systemd-timesyncd.service\n", ""},
		{"timedatectl set-ntp perhaps", "exit 1\n", ""},
		{"timedatectl set-time 12:00", "", "timedatectl set-time 12:00"},
		{"timedatectl show -P CanNTP", "yes\n", ""},
		{"timedatectl --version", "really --version\n", ""},
		{"udevadm control --reload-rules", "", "udevadm control --reload-rules"},
		{"udevadm --debug trigger --subsystem-match=net", "", "udevadm --debug trigger --subsystem-match=net"},
		{"udevadm settle", "", "udevadm settle"},
		{"udevadm info --export-db", "really info --export-db\n", ""},
		{"update-grub", "", "update-grub"},
		{"update-grub2", "", "update-grub2"},
		{"grub-mkconfig -o /boot/grub/grub.cfg", "", "grub-mkconfig -o /boot/grub/grub.cfg"},
		{"grub-mkconfig --output=/boot/grub/grub.cfg", "", "grub-mkconfig --output=/boot/grub/grub.cfg"},
		{"grub-mkconfig -o /boot/other.cfg", "really -o /boot/other.cfg\n", ""},
		{"modprobe loop", "", "modprobe loop"},
	} {
		written := filepath.Join(root, StandIns, deferredFile)
		if err := os.RemoveAll(written); err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(tc.call)
		cmd := exec.Command(filepath.Join(root, StandIns, words[0]), words[1:]...)
		out, err := cmd.Output()
		got := strings.ReplaceAll(string(out), root, "ROOT")
		if err != nil {
			got += strings.Replace(err.Error(), "exit status", "exit", 1) + "\n"
		}
		calls, err := Deferred(root)
		if err != nil {
			t.Fatal(err)
		}
		if told := strings.Join(calls, "\n"); got != tc.want || told != tc.deferred {
			t.Errorf("%s: %q, deferred %q; want %q, deferred %q", tc.call, got, told, tc.want, tc.deferred)
		}
	}
}

// The clock is set by nothing in a tree that has no service for it.
func TestNoServiceForTheClock(t *testing.T) {
	root := entered(t, map[string]string{"/usr/bin/systemctl": "#!/bin/sh\n"})
	out, err := exec.Command(filepath.Join(root, StandIns, "timedatectl"), "set-ntp", "true").CombinedOutput()
	if err == nil || string(out) != "Failed to set ntp: NTP not supported\n" {
		t.Errorf("%s, %v", out, err)
	}
}

// What has programs of a tree run is told which of them stand in for others.
func TestStandInsEnv(t *testing.T) {
	got := StandInsEnv([]string{"PATH=/usr/bin"})
	want := []string{
		"PATH=/run/stand-ins:/usr/bin", "VMCTL_STAND_INS=/run/stand-ins",
		"VMCTL_STOOD_FOR=grub-mkconfig halt modprobe mount poweroff reboot rmmod service shutdown swapoff swapon sysctl systemctl timedatectl udevadm umount update-grub update-grub2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
