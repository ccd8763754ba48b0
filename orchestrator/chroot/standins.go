package chroot

import (
	"embed"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// StandIns is the folder of an entered tree with programs that take the place of those
// which act on a running system, for whoever has it first in PATH.
const StandIns = "/run/stand-ins"

//go:embed standins
var standInFiles embed.FS

// sharing is programs that have a stand-in together with others, by its file.
var sharing = map[string][]string{
	laterFile:       {"modprobe", "rmmod", "swapon", "swapoff", "reboot", "shutdown", "poweroff", "halt"}, // do nothing but write down that they were called
	"mount":         {"umount"},
	"grub-mkconfig": {"update-grub", "update-grub2"},
}

const (
	laterFile    = "later"
	deferredFile = "deferred"
)

// makeStandIns makes the folder.
func makeStandIns(tree host.Tree) error {
	files, err := fs.Sub(standInFiles, "standins")
	if err != nil {
		return err
	}
	names, err := fs.Glob(files, "*")
	if err != nil {
		return err
	}
	for _, name := range names {
		content, err := fs.ReadFile(files, name)
		if err == nil {
			err = tree.Write(path.Join(StandIns, name), content, 0o755)
		}
		if err != nil {
			return err
		}
	}
	for file, programs := range sharing {
		for _, name := range programs {
			if err := tree.Symlink(file, path.Join(StandIns, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// StandInsEnv is the environment of what has programs of an entered tree run: the folder comes
// first in its PATH, which is that of env, and it is told the folder and the programs.
func StandInsEnv(env []string) []string {
	var programs []string
	for _, shared := range sharing {
		programs = append(programs, shared...)
	}
	own, err := standInFiles.ReadDir("standins")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, file := range own {
		if file.Name() != laterFile {
			programs = append(programs, file.Name())
		}
	}
	slices.Sort(programs)
	return []string{"PATH=" + StandIns + ":" + host.Variable(env, "PATH"), "VMCTL_STAND_INS=" + StandIns, "VMCTL_STOOD_FOR=" + strings.Join(programs, " ")}
}

// Deferred is what programs of the entered tree at root were called for and did not do, each
// once: it takes effect when the machine starts.
func Deferred(root string) ([]string, error) {
	content, err := host.Tree(root).Read(path.Join(StandIns, deferredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var calls []string
	for line := range strings.Lines(string(content)) {
		if call := strings.TrimSpace(line); call != "" && !slices.Contains(calls, call) {
			calls = append(calls, call)
		}
	}
	return calls, err
}
