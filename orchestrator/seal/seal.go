// Package seal turns the tree of one machine into an image for many: what is
// the builder's or must differ between machines goes, and the first boot makes
// it anew.
package seal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// removed is what an image must not carry, in terms of host.Tree.Remove.
var removed = []string{
	"/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub",
	"/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/boot/loader/random-seed", "/boot/*/loader/random-seed", "/efi/loader/random-seed",
	"/var/lib/apt/lists/*",
	"/var/cache/debconf/*-old", "/var/lib/dpkg/*-old", "/var/cache/ldconfig/aux-cache", "/var/cache/man/*",
	"/var/backups/*", "/etc/.resolv.conf.systemd-resolved.bak", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-",
	"/var/lib/dhcp/*", "/var/lib/dhcpcd/*", "/var/lib/NetworkManager/*.lease",
	"/root/.ansible", "/root/.bash_history", "/root/.wget-hsts", "/root/.viminfo", "/root/.cache",
	"/run/*", "/tmp/*", "/tmp/.[!.]*", "/var/tmp/*", "/var/tmp/.[!.]*",
	"/var/crash/*", "/var/spool/mail/*",
}

// volatile is what a machine writes by itself while it runs, besides what is removed.
var volatile = []string{
	machineID, "/lost+found", "/dev/*", "/proc/*", "/sys/*",
	"/var/log/journal/*", "/var/log/wtmp*", "/var/log/btmp*", "/var/log/lastlog*", "/var/lib/wtmpdb/*", "/var/lib/lastlog/*",
	"/var/lib/systemd/timers/*", "/var/lib/systemd/timesync/*", "/var/lib/private/systemd/*", "/var/lib/systemd/rfkill/*", "/var/lib/systemd/backlight/*",
	"/var/lib/systemd/coredump/*", "/var/lib/systemd/pstore/*", "/var/lib/systemd/network/*",
	"/var/lib/apt/periodic/*", "/var/lib/apt/daily_lock", "/var/lib/logrotate/status*", "/var/lib/NetworkManager/*", "/var/lib/chrony/*",
}

// IsVolatile says whether a name in a tree is of what a machine writes by itself while it
// runs, or of what is removed from every image.
func IsVolatile(name string) bool {
	return name == debian.ResolvConf || slices.ContainsFunc(slices.Concat(removed, packageCaches, volatile), func(pattern string) bool {
		match, err := path.Match(pattern, name)
		return match && err == nil
	})
}

// packageCaches is what apt and dpkg make anew when they need it.
var packageCaches = []string{"/var/cache/apt/*.bin", "/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*"}

// DropCaches removes what a layer need not carry: apt's own caches are larger than many
// a package.
func DropCaches(root string) error { return host.Tree(root).Remove(packageCaches...) }

const keygenUnit = "ssh-host-keys.service"

// keygen makes the host keys that are missing; Debian's own unit exists only
// from 13 on and runs on first boots alone.
const keygen = `[Unit]
Description=Make the ssh host keys that are missing
ConditionPathIsReadWrite=/etc/ssh
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
Before=ssh.service ssh.socket sshd-keygen.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=ssh.service ssh.socket
`

// noPrompt lets the first boot take settings from credentials but never ask on
// a console where nobody sits.
const (
	noPromptFile = "/etc/systemd/system/systemd-firstboot.service.d/no-prompt.conf"
	noPrompt     = "[Service]\nExecStart=\nExecStart=systemd-firstboot\n"
)

const (
	machineID   = "/etc/machine-id"
	stubResolv  = "../run/systemd/resolve/stub-resolv.conf"
	presetFile  = "/etc/systemd/system-preset/00-image.preset"
	lastMatters = "# Units that the build left disabled; systemd would enable them on the first boot.\n"
)

// Clean removes from the tree at root, which must not be entered, what an image must not
// carry, and what the builds of two days differ in.
func Clean(root string) error {
	tree := host.Tree(root)
	if err := errors.Join(tree.Remove(removed...), DropCaches(root)); err != nil {
		return err
	}
	if err := emptyLogs(tree); err != nil {
		return err
	}
	if err := tree.Write(machineID, []byte("uninitialized\n"), 0o644); err != nil { // machine-id(5)
		return err
	}
	return removeBytecode(tree)
}

// Apply seals the tree at root, which must no longer be entered.
func Apply(root string) error {
	if err := Clean(root); err != nil {
		return err
	}
	tree := host.Tree(root)
	// systemd-update-done.service(8): nothing under /usr is newer than the
	// caches, so the first boot need not make them again.
	for _, name := range []string{"/etc/.updated", "/var/.updated"} {
		if err := tree.Write(name, nil, 0o644); err != nil {
			return err
		}
	}
	return sealResolver(tree)
}

// removeBytecode removes what Python compiled for the builder's convenience;
// it is a cache that Python fills again where it may.
func removeBytecode(tree host.Tree) error {
	return filepath.WalkDir(string(tree), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "__pycache__" {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return filepath.SkipDir
		}
		return nil
	})
}

// FirstBoot installs what makes the image's secrets anew, and keeps the units
// that are disabled disabled: on a first boot systemd applies its presets,
// whose default is to enable. The tree at root must be entered.
func FirstBoot(ctx context.Context, h host.Host, root string) error {
	tree := host.Tree(root)
	if !tree.Exists("/usr/bin/systemctl") {
		return nil
	}
	if err := tree.Write(noPromptFile, []byte(noPrompt), 0o644); err != nil {
		return err
	}
	if tree.Exists("/usr/sbin/sshd") {
		if err := tree.Write("/etc/systemd/system/"+keygenUnit, []byte(keygen), 0o644); err != nil {
			return err
		}
		if err := h.Run(ctx, host.Cmd("systemctl", "enable", keygenUnit).In(root)); err != nil {
			return err
		}
	}
	out, err := h.Output(ctx, host.Cmd("systemctl", "list-unit-files", "--state=disabled", "--no-legend", "--no-pager", "--plain").In(root))
	if err != nil {
		return err
	}
	return tree.Write(presetFile, []byte(preset(string(out))), 0o644)
}

// preset is the preset file for the units that systemctl list-unit-files
// lists.
func preset(listing string) string {
	var b strings.Builder
	b.WriteString(lastMatters)
	for line := range strings.Lines(listing) {
		if fields := strings.Fields(line); len(fields) > 0 {
			fmt.Fprintf(&b, "disable %s\n", fields[0])
		}
	}
	return b.String()
}

// logsOfOthers is folders of logs of which nothing stays.
var logsOfOthers = []string{"/var/log/journal/*", "/var/log/installer"}

// rotated is a log that no program writes to any more.
var rotated = regexp.MustCompile(`\.(\d+(\.\w+)?|gz|xz|zst|old)$`)

// emptyLogs removes what the build logged. Folders stay, and files of others than root, without
// what is in them: their owners may write there, and could not make them.
func emptyLogs(tree host.Tree) error {
	if err := tree.Remove(logsOfOthers...); err != nil {
		return err
	}
	logs, err := tree.Path("/var/log")
	if err != nil {
		return err
	}
	return filepath.WalkDir(logs, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || entry.IsDir():
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && isOthers(info) && !rotated.MatchString(entry.Name()) {
			return os.Truncate(path, 0)
		}
		return os.Remove(path)
	})
}

// isOthers says whether a file has another owner than root, and no other name.
func isOthers(info fs.FileInfo) bool {
	stat, known := info.Sys().(*syscall.Stat_t)
	return known && stat.Uid != 0 && stat.Nlink == 1
}

// FreeResolver lets a machine that starts as the tree at root have its own name servers there: what
// gets them by DHCP may leave links alone.
func FreeResolver(root string) error {
	tree := host.Tree(root)
	if tree.Readlink(debian.ResolvConf) != debian.NoResolver {
		return nil
	}
	return tree.Write(debian.ResolvConf, nil, 0o644)
}

// sealResolver leaves no name server of the builder behind: a link to systemd-resolved where the
// image has it, else an empty file. What a layer has written is its own.
func sealResolver(tree host.Tree) error {
	if content, err := tree.Read(debian.ResolvConf); err == nil && len(content) > 0 {
		return nil
	}
	switch target := tree.Readlink(debian.ResolvConf); {
	case target != "" && target != debian.NoResolver:
		return nil
	case tree.Exists("/usr/lib/systemd/systemd-resolved"):
		return tree.Symlink(stubResolv, debian.ResolvConf)
	}
	return tree.Write(debian.ResolvConf, nil, 0o644)
}
