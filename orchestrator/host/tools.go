package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// A tools tree is a root file system whose programs take the place of the machine's: its /usr
// lies over the machine's in a mount namespace, and with it what of /etc belongs to programs.
// All else stays the machine's: files, names, network, certificates.

// toolsName is what this binary is called as for a program of a tools tree: TREE COMMAND
// [ARGUMENT…].
const toolsName = "with-tools"

// hidden is the folder that a tools tree lies over. What else is in it is not to be had there.
const hidden = "/usr"

// HiddenByTools says whether a path of this machine is another thing, or none, where the
// programs of a tools tree run.
func HiddenByTools(path string) bool {
	rest, err := filepath.Rel(hidden, path)
	return err == nil && filepath.IsLocal(rest)
}

// leading is the folders that lead into /usr on any Debian since 12, and on most other
// systems.
var leading = []string{"/bin", "/sbin", "/lib", "/lib64"}

// ofPrograms is what of /etc belongs to the programs, where both have it.
var ofPrograms = []string{"/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/mke2fs.conf"}

// UseTools has this mount namespace use the programs of a tools tree.
func UseTools(tree string) error {
	for _, folder := range leading {
		info, err := os.Lstat(folder)
		if err == nil && info.IsDir() {
			return fail.New(fail.Host, "use the tools in "+tree, "use this machine's own programs: --tools host", "%s of this machine is no link into %s", folder, hidden)
		}
	}
	l := &Local{}
	for _, path := range append([]string{hidden}, ofPrograms...) {
		from := filepath.Join(tree, path)
		if path != hidden && (!exists(path) || !exists(from)) {
			continue
		}
		if _, err := l.Mount(BindAll(from, path)); err != nil {
			return fail.Wrap(fail.Host, "use the tools in "+tree, err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// FindIn is Find in the tree of tools: its path there, "" where it is missing.
func FindIn(tree, tool string) string {
	for _, dir := range filepath.SplitList(adminPath) {
		if !HiddenByTools(dir) {
			continue
		}
		if executable(filepath.Join(tree, dir, tool)) != "" {
			return filepath.Join(dir, tool)
		}
	}
	return ""
}

// command makes the process of a program, by its path: of the tools tree where the host has
// one and the program comes from it.
func (l *Local) command(ctx context.Context, c Command, path string) (*exec.Cmd, error) {
	argv := c.Argv()
	if l.Tools == "" || c.Root != "" || FindIn(l.Tools, c.Path) == "" {
		return Tied(ctx, path, argv[1:]...), nil
	}
	cmd := Tied(ctx, "/proc/self/exe", append([]string{l.Tools}, argv...)...)
	cmd.Args[0] = toolsName
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	switch kind, err := BestJail(); kind {
	case NoJail:
		return nil, err
	case OwnIDs: // root of a container may mount in a namespace of its own alone
		return cmd, mapIdentity(cmd.SysProcAttr)
	case SubordinateIDs:
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = onlyAsRoot(os.Geteuid()), onlyAsRoot(os.Getegid())
	}
	return cmd, nil
}

// onlyAsRoot is a map of ids in which this one stands for root's, and nothing for others.
func onlyAsRoot(id int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
}

// standInTools turns this process, which is alone in its mount namespace, into a program of a
// tools tree.
func standInTools(arguments, env []string) error {
	if len(arguments) < 2 {
		return fmt.Errorf("usage: %s TREE COMMAND [ARGUMENT]…", toolsName)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := UseTools(arguments[0]); err != nil {
		return err
	}
	return execute(Variable(env, "PATH"), arguments[1:], env)
}
