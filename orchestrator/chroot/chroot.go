// Package chroot makes an image's tree fit to run its own programs in, and
// takes all of that away again: devices, kernel file systems, name resolution,
// and stand-ins for what must not happen during a build.
package chroot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// deferInitramfs diverts update-initramfs, which Debian would run for each
// package that touches the initramfs; the boot loader stage runs it once.
const deferInitramfs = `set -e
command -v dpkg-divert >/dev/null || exit 0
[ "$(dpkg-divert --truename /usr/sbin/update-initramfs)" != /usr/sbin/update-initramfs.deferred ] || exit 0
dpkg-divert --quiet --local --rename --divert /usr/sbin/update-initramfs.deferred --add /usr/sbin/update-initramfs
printf '#!/bin/sh\n# The initramfs is made once, at the end of the build.\nexit 0\n' >/usr/sbin/update-initramfs
chmod 755 /usr/sbin/update-initramfs`

// deferred is how dpkg lists the diversion.
const deferred = "\n/usr/sbin/update-initramfs\n/usr/sbin/update-initramfs.deferred\n:\n"

const restoreInitramfs = `set -e
command -v dpkg-divert >/dev/null || exit 0
[ "$(dpkg-divert --truename /usr/sbin/update-initramfs)" = /usr/sbin/update-initramfs.deferred ] || exit 0
rm -f /usr/sbin/update-initramfs
dpkg-divert --quiet --local --rename --divert /usr/sbin/update-initramfs.deferred --remove /usr/sbin/update-initramfs`

// DeferInitramfsHook does the same for a tree at $1 that is being
// bootstrapped.
const DeferInitramfsHook = "unset TMPDIR\nchroot \"$1\" /bin/sh <<'END'\n" + deferInitramfs + "\nEND"

const (
	policyFile   = "/usr/sbin/policy-rc.d"
	policyScript = "#!/bin/sh\n# No service starts while the image is built.\nexit 101\n"
	daemonScript = "#!/bin/sh\n# No daemon starts while the image is built.\nexit 0\n"
)

// Enter prepares the tree at root for programs of its own, which see hostname as the
// machine's name. devices is a folder made by Devices; it becomes the tree's /dev. The
// release undoes all of it, after endProcesses has ended what still runs in the tree.
func Enter(h host.Host, root, devices, hostname string, endProcesses func() error) (release func() error, err error) {
	tree := host.Tree(root)
	var stack scope.Stack
	defer func() {
		if err != nil {
			stack.CloseInto(&err)
		}
	}()
	if err := h.Sethostname(hostname); err != nil {
		return nil, err
	}
	for _, m := range mounts(root, devices) {
		if _, err := os.Stat("/sys/firmware"); err != nil && m.Target == filepath.Join(root, "sys/firmware") {
			continue // a machine whose firmware tells nothing
		}
		if err := mountOn(h, m, &stack); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(makeStandIns(tree), makeRuntime(root)); err != nil {
		return nil, err
	}
	if err := makeTemporary(root); err != nil {
		return nil, err
	}
	if err := bindResolver(h, tree, &stack); err != nil {
		return nil, err
	}
	forget, err := knowItself(tree, hostname)
	if err != nil {
		return nil, err
	}
	stack.Push("forget the machine's name", forget)
	daemon, err := standIns(tree)
	if err != nil {
		return nil, err
	}
	stack.Push("remove the stand-ins", func() error { return removeStandIns(tree, daemon) })
	stack.Push("end the tree's processes", endProcesses)
	return stack.Close, nil
}

// DeferInitramfs keeps update-initramfs from doing anything in the tree, which is
// entered, and in all trees that are made of it, until RestoreInitramfs.
func DeferInitramfs(ctx context.Context, h host.Host, root string) error {
	diversions, err := host.Tree(root).Read("/var/lib/dpkg/diversions")
	if err == nil && strings.Contains("\n"+string(diversions), deferred) {
		return nil
	}
	return h.Run(ctx, shell(root, deferInitramfs))
}

// RestoreInitramfs brings the real update-initramfs back, to be run once.
func RestoreInitramfs(ctx context.Context, h host.Host, root string) error {
	return h.Run(ctx, shell(root, restoreInitramfs))
}

func shell(root, script string) host.Command {
	return host.Cmd("/bin/sh", "-c", script).In(root)
}

// mounts is what the tree gets, in order. Of the host's /dev only what Devices binds
// is shared, of its /sys nothing that tells the firmware or could change it; /proc is
// the jail's own, in which the kernel's settings are read-only.
func mounts(root, devices string) []host.Mount {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	at := func(dir string) string { return filepath.Join(root, dir) }
	return []host.Mount{
		{Source: "/proc", Target: at("proc"), Flags: unix.MS_BIND | unix.MS_REC},
		host.BindAll("/sys", at("sys")),
		{Source: "tmpfs", Target: at("sys/firmware"), Type: "tmpfs", Flags: quiet | unix.MS_RDONLY, Data: "mode=0755"},
		{Source: devices, Target: at("dev"), Flags: unix.MS_BIND | unix.MS_REC},
		{Source: "tmpfs", Target: at("run"), Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=0755"},
	}
}

// makeRuntime makes what programs expect in /run although they are not started: sshd does so
// to check its settings.
func makeRuntime(root string) error {
	run := filepath.Join(root, "run")
	lock := filepath.Join(run, "lock")
	return errors.Join(os.MkdirAll(filepath.Join(run, "sshd"), 0o755), os.MkdirAll(lock, 0o755), os.Chmod(lock, os.ModeSticky|0o777))
}

// makeTemporary makes the tree's /tmp where there is none. It belongs to the tree, so that
// one entry finds what another has left there, whether their trees were stored in between
// or not; sealing empties it.
func makeTemporary(root string) error {
	path := filepath.Join(root, "tmp")
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, os.ModeSticky|0o777))
}

func mountOn(h host.Host, m host.Mount, stack *scope.Stack) error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	unmount, err := h.Mount(m)
	if err != nil {
		return err
	}
	stack.Push("unmount "+m.Target, unmount)
	return nil
}

// nodes is the devices of the host that every program expects. They are bound, since a
// user namespace can make none.
var nodes = []string{"null", "zero", "full", "random", "urandom", "tty"}

// Devices makes a minimal /dev at dir: a tmpfs with what programs expect. The host's
// other devices are not in it; its console is a sink.
func Devices(h host.Host, dir string) (release func() error, err error) {
	var stack scope.Stack
	defer func() {
		if err != nil {
			stack.CloseInto(&err)
		}
	}()
	if err := mountOn(h, host.Mount{Source: "tmpfs", Target: dir, Type: "tmpfs", Flags: unix.MS_NOSUID, Data: "mode=0755"}, &stack); err != nil {
		return nil, err
	}
	for _, name := range append(nodes, "console") {
		source, target := filepath.Join("/dev", name), filepath.Join(dir, name)
		if name == "console" {
			source = "/dev/null"
		}
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return nil, err
		}
		unmount, err := h.Mount(host.Bind(source, target, true)) // its owner and mode; it can be written
		if err != nil {
			return nil, err
		}
		stack.Push("unmount "+target, unmount)
	}
	for _, link := range []struct{ name, target string }{
		{"fd", "/proc/self/fd"}, {"stdin", "fd/0"}, {"stdout", "fd/1"}, {"stderr", "fd/2"}, {"ptmx", "pts/ptmx"},
	} {
		if err := os.Symlink(link.target, filepath.Join(dir, link.name)); err != nil {
			return nil, err
		}
	}
	shm := filepath.Join(dir, "shm") // its mode is set apart, since mkdir(2) obeys the umask
	if err := errors.Join(os.Mkdir(shm, 0o755), os.Chmod(shm, os.ModeSticky|0o777)); err != nil {
		return nil, err
	}
	return stack.Close, mountOn(h, pts(dir), &stack)
}

func pts(devices string) host.Mount {
	return host.Mount{
		Source: "devpts", Target: filepath.Join(devices, "pts"), Type: "devpts",
		Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: "newinstance,ptmxmode=0666,mode=0620,gid=5",
	}
}

// bindResolver gives the tree the host's name resolution, read-only. Where the
// image's resolv.conf is a link into /run, the file is put where it points.
func bindResolver(h host.Host, tree host.Tree, stack *scope.Stack) error {
	content, err := os.ReadFile(debian.ResolvConf)
	if tree.Readlink(debian.ResolvConf) == debian.NoResolver {
		stack.Push("keep the name servers of a layer", func() error { return keepResolver(tree, content) })
	}
	if err != nil {
		return nil // a host without name resolution can still build from an address
	}
	if target := tree.Readlink(debian.ResolvConf); target != "" {
		return tree.Write(filepath.Join("/etc", resolve(target)), content, 0o644)
	}
	const copied = "/run/host-resolv.conf"
	if err := tree.Write(copied, content, 0o644); err != nil {
		return err
	}
	if !tree.Exists(debian.ResolvConf) {
		if err := tree.Write(debian.ResolvConf, nil, 0o644); err != nil {
			return err
		}
	}
	source, err := tree.Path(copied)
	if err != nil {
		return err
	}
	target, err := tree.Path(debian.ResolvConf)
	if err != nil {
		return err
	}
	unmount, err := h.Mount(host.Bind(source, target, true))
	if err != nil {
		return err
	}
	stack.Push("unmount "+target, unmount)
	return nil
}

// keepResolver makes name servers that programs have written through the link a file of the
// tree's. Where they have added to what the host has, that is left out.
func keepResolver(tree host.Tree, hosts []byte) error {
	if tree.Readlink(debian.ResolvConf) != debian.NoResolver {
		return nil
	}
	found, err := tree.Read(debian.ResolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	given, own := nameServers(hosts), nameServers(found)
	without := slices.DeleteFunc(slices.Clone(own), func(line string) bool { return slices.Contains(given, line) })
	if len(without) == len(own)-len(given) { // all of them are there still
		own = without
	}
	if !slices.ContainsFunc(own, func(line string) bool { return strings.HasPrefix(line, "nameserver") }) {
		return nil
	}
	return tree.Write(debian.ResolvConf, []byte(strings.Join(own, "\n")+"\n"), 0o644)
}

// nameServers is the lines of resolv.conf(5), less empty ones.
func nameServers(content []byte) (lines []string) {
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// resolve is a link's target relative to /etc.
func resolve(target string) string {
	if filepath.IsAbs(target) {
		return filepath.Join("..", target)
	}
	return target
}

// standIns puts policy-rc.d and a start-stop-daemon that starts nothing into
// the tree, and returns where the real one is, or "".
func standIns(tree host.Tree) (daemon string, err error) {
	if err := tree.Write(policyFile, []byte(policyScript), 0o755); err != nil {
		return "", err
	}
	const name = "/sbin/start-stop-daemon"
	path, err := tree.Path(name)
	if err != nil || !tree.Exists(name) {
		return "", err
	}
	if err := os.Rename(path, path+realSuffix); err != nil {
		return "", err
	}
	return path, tree.Write(strings.TrimPrefix(path, string(tree)), []byte(daemonScript), 0o755)
}

const realSuffix = ".real"

// removeStandIns puts the real start-stop-daemon back, unless an upgrade of
// dpkg has brought a new one.
func removeStandIns(tree host.Tree, daemon string) error {
	problems := []error{tree.Remove(policyFile)}
	if daemon != "" {
		content, err := os.ReadFile(daemon)
		if err == nil && string(content) != daemonScript {
			err = os.Remove(daemon + realSuffix)
		} else {
			err = os.Rename(daemon+realSuffix, daemon)
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}
