package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mmdebstrap calls the builder's apt-get for packages of the tree. That one would chroot
// by itself to run dpkg, and obey settings that lie in the tree, by which a package could
// have it run programs outside.

// standInApt is apt-get(8), but that it has dpkg run in a cell, and obeys the settings of
// the time at which it got its lists, when the tree had no package yet.
func standInApt(folder string, args, env []string) error {
	env, err := earlySettings(filepath.Join(folder, "apt"), args, env)
	if err != nil {
		return err
	}
	return execute(append([]string{aptName}, inCells(args, filepath.Join(folder, dpkgName))...), env)
}

// treeSetting is where mmdebstrap's settings for apt tell the tree.
var treeSetting = regexp.MustCompile(`(?m)^Dir "(.*)";$`)

// earlySettings is the environment in which apt reads its settings from the folder, into
// which they are copied when it gets its lists.
func earlySettings(folder string, args, env []string) ([]string, error) {
	const variable = "APT_CONFIG"
	config, parts := filepath.Join(folder, "apt.conf"), filepath.Join(folder, "parts")
	if given := value(env, variable); given != "" && slices.Contains(args, "update") {
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
	return append(slices.DeleteFunc(env, func(setting string) bool { return strings.HasPrefix(setting, variable+"=") }), variable+"="+config), nil
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
