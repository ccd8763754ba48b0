package orchestrator

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// unitFolders is where units are, the first first (systemd.unit(5)).
var unitFolders = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// notAtBoot is targets that a machine does not reach when it starts, or with some devices alone.
var notAtBoot = []string{
	"rescue", "emergency", "shutdown", "final", "umount", "reboot", "poweroff", "halt", "kexec", "soft-reboot", "exit", "ctrl-alt-del",
	"sleep", "suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate", "bluetooth", "printer", "smartcard", "sound", "usb-gadget",
}

// startsAtBoot is the units that start with the machine whose tree is at root because they are
// enabled: by links below /etc, or by a script of System V that no unit takes the place of. What
// starts in any case, or because another unit asks for it, is not among them.
func startsAtBoot(root string) ([]string, error) {
	tree := host.Tree(root)
	units := map[string]bool{}
	for _, kind := range []string{"wants", "requires", "upholds"} {
		links, err := tree.Glob("/etc/systemd/system/*.target." + kind + "/*")
		if err != nil {
			return nil, err
		}
		for _, link := range links {
			target := strings.TrimSuffix(path.Base(path.Dir(link)), ".target."+kind)
			if unit := path.Base(link); !slices.Contains(notAtBoot, target) && unitFile(tree, unit) {
				units[unit] = true
			}
		}
	}
	scripts, err := tree.Glob("/etc/rc[2-5].d/S[0-9][0-9]*")
	if err != nil {
		return nil, err
	}
	for _, script := range scripts {
		unit := path.Base(script)[len("S00"):] + ".service"
		if !slices.ContainsFunc(unitFolders, func(folder string) bool { _, err := tree.Lstat(path.Join(folder, unit)); return err == nil }) && tree.Exists(script) {
			units[unit] = true
		}
	}
	return slices.Sorted(maps.Keys(units)), nil
}

// unitFile says whether there is a unit, or its template, that is not masked.
func unitFile(tree host.Tree, unit string) bool {
	names := []string{unit}
	if at := strings.IndexByte(unit, '@'); at >= 0 {
		names = append(names, unit[:at+1]+path.Ext(unit))
	}
	for _, name := range names {
		for _, folder := range unitFolders {
			file := path.Join(folder, name)
			if _, err := tree.Lstat(file); err == nil {
				return tree.Readlink(file) != "/dev/null"
			}
		}
	}
	return false
}
