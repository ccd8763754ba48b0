package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mmdebstrap and the apt-get that it calls are the builder's, and work on a tree in which
// packages have run programs already: it may have links where they write, and settings by
// which apt runs programs. apt would also chroot by itself to run dpkg.

// standInBootstrap is mmdebstrap(1) with all of the builder's files read-only, but for the
// folder around that of the stand-ins, which has the tree.
func standInBootstrap(folder string, args, env []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := readOnlyBut(filepath.Dir(folder), "/dev", "/proc"); err != nil {
		return err
	}
	path := Variable(env, "PATH")
	return execute(path, append([]string{bootstrapName}, args...), with(env, "PATH", folder+":"+path))
}

// readOnlyBut makes all mounts read-only but those at some folders, and below.
func readOnlyBut(folders ...string) error {
	var kept []int
	for _, folder := range folders {
		mount, err := unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return &fs.PathError{Op: "open the tree", Path: folder, Err: err}
		}
		kept = append(kept, mount)
	}
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		return nil
	} else if err != nil {
		return fmt.Errorf("make the builder's files read-only: %w", err)
	}
	for i, folder := range folders {
		if err := unix.MoveMount(kept[i], "", unix.AT_FDCWD, folder, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &fs.PathError{Op: "mount on", Path: folder, Err: err}
		}
	}
	return nil
}

// standInApt is apt-get(8), but that it has dpkg run in a cell, and obeys the settings of
// the time at which it got its lists, when the tree had no package yet.
func standInApt(folder string, args, env []string) error {
	env, err := earlySettings(filepath.Join(folder, "apt"), args, env)
	if err != nil {
		return err
	}
	return execute(Variable(env, "PATH"), append([]string{aptName}, inCells(args, filepath.Join(folder, dpkgName))...), env)
}

// treeSetting is where mmdebstrap's settings for apt tell the tree.
var treeSetting = regexp.MustCompile(`(?m)^Dir "(.*)";$`)

// earlySettings is the environment in which apt reads its settings from the folder, into
// which they are copied when it gets its lists.
func earlySettings(folder string, args, env []string) ([]string, error) {
	const variable = "APT_CONFIG"
	config, parts := filepath.Join(folder, "apt.conf"), filepath.Join(folder, "parts")
	if given := Variable(env, variable); given != "" && slices.Contains(args, "update") {
		content, err := os.ReadFile(given)
		if err != nil {
			return nil, err
		}
		tree := treeSetting.FindSubmatch(content)
		if tree == nil {
			return env, nil
		}
		own := "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"" + parts + "/\";\n"
		err = errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o755), //nolint:gosec // apt's methods read it as another user
			os.CopyFS(parts, os.DirFS(filepath.Join(string(tree[1]), "etc/apt/apt.conf.d"))), os.WriteFile(config, append(content, own...), 0o644))
		if err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		return env, nil
	} else if err != nil {
		return nil, err
	}
	return with(env, variable, config), nil
}

// inCells is the arguments of an apt-get that was to run dpkg in a tree by chroot(2): it
// has another program do that instead, which is told the tree and what to run there.
func inCells(args []string, program string) []string {
	const directory, binary, option = "DPkg::Chroot-Directory=", "Dir::Bin::dpkg=", "DPkg::Options::="
	root, dpkg := "", "dpkg"
	var options, others []string
	for i := 0; i < len(args); i++ {
		setting := strings.TrimPrefix(args[i], "-o")
		if args[i] == "-o" && i+1 < len(args) {
			i++
			setting = args[i]
		} else if setting == args[i] {
			others = append(others, args[i])
			continue
		}
		if r, is := strings.CutPrefix(setting, directory); is {
			root = r
		} else if b, is := strings.CutPrefix(setting, binary); is {
			dpkg = b
		} else if o, is := strings.CutPrefix(setting, option); is {
			options = append(options, o)
		} else {
			others = append(others, "-o", setting)
		}
	}
	if root == "" {
		return args
	}
	// Many packages would come in a folder of links, with names that a cell does not have.
	settings := []string{"-o", directory + "/", "-o", binary + program, "-o", "DPkg::Install::Recursive::Minimum=100000", "-o", "DPkg::MaxArgBytes=1000000"}
	for _, o := range append([]string{root, dpkg}, options...) {
		settings = append(settings, "-o", option+o)
	}
	return append(settings, others...)
}

// standInDpkg runs a program in a tree, in which files have names without the tree's.
func standInDpkg(args, env []string) error {
	if len(args) < 2 {
		return errors.New("usage: dpkg-in ROOT COMMAND [ARGUMENT]…")
	}
	root, argv := args[0], slices.Clone(args[1:])
	for i, arg := range argv {
		if path, in := strings.CutPrefix(arg, root+"/"); in {
			argv[i] = "/" + path
		}
	}
	return enterCell(root, argv, env)
}
