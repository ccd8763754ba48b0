package guest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// What the disk of a guest holds besides the tree. Systemd starts the unit since the
// kernel's command line wants it, so nothing of the tree is another than it was.
const (
	unitName    = "vmctl-agent.service"
	unitFile    = "/etc/systemd/system/" + unitName
	programFile = "/usr/local/lib/vmctl-agent.py"
	machineID   = "/etc/machine-id"
	python      = "/usr/bin/python3"
)

// KeptSocket is where programs of a guest ask for files that the builder keeps: whoever says a
// digest and a newline gets the file, or nothing.
const KeptSocket = "/run/vmctl-kept.socket"

const unit = `[Unit]
Description=Does what vmctl asks for
IgnoreOnIsolate=yes

[Service]
ExecStart=` + python + ` -ISB ` + programFile + ` ` + KeptSocket + `
Environment=HOME=/root USER=root LOGNAME=root SHELL=/bin/sh LANG=C.UTF-8 LC_ALL=C.UTF-8
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1
TasksMax=infinity
`

// IsOwn says whether a name is of what Furnish adds.
func IsOwn(name string) bool { return name == unitFile || name == programFile }

// Furnish gives a copy of a tree the agent, and makes it a machine that has started before:
// on a first boot systemd would apply its presets to units that the tree has chosen. id is a
// machine id (machine-id(5)).
func Furnish(root, id string) error {
	tree := host.Tree(root)
	for _, needed := range []struct{ file, hint string }{
		{python, "add python3 to the packages of an entry before it"},
		{"/usr/bin/systemctl", "add systemd-sysv to the packages of an entry before it"},
	} {
		if !tree.Exists(needed.file) {
			return fail.New(fail.Build, "", needed.hint, "the tree has no %s, which a guest needs that it starts as", needed.file)
		}
	}
	found, err := tree.Read(machineID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if text := strings.TrimSpace(string(found)); text == "" || text == "uninitialized" {
		if err := tree.Write(machineID, []byte(id+"\n"), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(tree.Write(unitFile, []byte(unit), 0o644), tree.Write(programFile, []byte(agentProgram), 0o644))
}

// Kernel is what a tree begins with, as paths of the host.
type Kernel struct{ Image, Initramfs string }

var numbers = regexp.MustCompile(`[0-9]+|[^0-9]+`)

// compareVersions is in the order of kernels' versions.
func compareVersions(a, b string) int {
	return slices.CompareFunc(numbers.FindAllString(a, -1), numbers.FindAllString(b, -1), func(a, b string) int {
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		switch {
		case errX == nil && errY == nil:
			return x - y
		case (errX == nil) != (errY == nil):
			return map[bool]int{true: 1, false: -1}[errX == nil]
		}
		return strings.Compare(a, b)
	})
}

// NewestKernel is the newest kernel of a tree, with its initramfs.
func NewestKernel(root string) (Kernel, error) {
	tree := host.Tree(root)
	names, err := tree.Glob("/boot/vmlinuz-*")
	if err != nil {
		return Kernel{}, err
	}
	if len(names) == 0 {
		return Kernel{}, NoKernel()
	}
	version := strings.TrimPrefix(path.Base(slices.MaxFunc(names, compareVersions)), "vmlinuz-")
	initramfs := "/boot/initrd.img-" + version
	if !tree.Exists(initramfs) {
		return Kernel{}, fail.New(fail.Build, "", "add initramfs-tools to the packages of an entry before it", "the tree has no %s", initramfs)
	}
	image, err := tree.Path("/boot/vmlinuz-" + version)
	if err != nil {
		return Kernel{}, err
	}
	file, err := tree.Path(initramfs)
	return Kernel{image, file}, err
}

// NoKernel is the error of a tree that cannot start.
func NoKernel() error {
	return fail.New(fail.Build, "", "add "+arch.Target.Kernel+" to the packages of an entry before it", "the tree has no kernel in /boot, which a guest needs that it starts as")
}

// Cmdline is the kernel's command line of a guest of that name, whose root file system is on
// a device.
func Cmdline(device, hostname string) string {
	return strings.Join([]string{
		"root=" + device, "rw", "rootfstype=ext4", "rootflags=noatime,noinit_itable", "fsck.mode=skip", "panic=-1", "console=ttyS0",
		"systemd.wants=" + unitName, "systemd.hostname=" + hostname,
	}, " ")
}

// features is those of the file system, whatever the builder's mke2fs thinks best. It has no
// journal: it is thrown away where the guest does not end well.
const features = "none,dir_index,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,sparse_super,64bit"

// MakeDisk is the command that makes the file system of a tree, of that many bytes.
func MakeDisk(root, file string, bytes int64) host.Command {
	return host.Cmd("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-O", features, "-E", "root_owner=0:0", "-d", root, file, strconv.FormatInt(bytes>>10, 10)+"K")
}

// Copy copies a file for QEMU, which may run as somebody else.
func Copy(ctx context.Context, h host.Host, from, to string) error {
	if err := h.Run(ctx, host.Cmd("cp", "--reflink=auto", "--", from, to)); err != nil {
		return err
	}
	return os.Chmod(filepath.Clean(to), 0o644)
}
