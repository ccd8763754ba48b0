package source

import (
	"context"
	"regexp"
	"slices"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// AnsiblePackages is what a bootstrap brings for Ansible alone.
func AnsiblePackages() []string { return slices.Clone(ansiblePackages) }

// removed is what apt-get says of a package that it would remove.
var removed = regexp.MustCompile(`(?m)^(?:Remv|Purg) (\S+) `)

// neededWeakly has what is merely suggested count for nothing; recommendations do count.
var neededWeakly = []string{"-o", "APT::AutoRemove::SuggestsImportant=false"}

// RemoveAnsiblePackages removes the packages that a bootstrap brought for Ansible, and what
// came with them, from the entered tree at root, but for those named. What another package of
// the tree needs stays: those packages are returned as needing it.
func RemoveAnsiblePackages(ctx context.Context, h host.Host, root string, named []string) (gone, needing []string, err error) {
	own, err := installedOf(ctx, h, root, func(name string) bool { return !slices.Contains(named, name) })
	if len(own) == 0 || err != nil {
		return nil, nil, err
	}
	simulated := func(arguments ...string) ([]string, error) { return simulate(ctx, h, root, arguments...) }
	orphans, err := simulated("autoremove") // of the user's, which are none of ours
	if err != nil {
		return nil, nil, err
	}
	if err := h.Run(ctx, host.Cmd("apt-mark", append([]string{"auto"}, own...)...).In(root)); err != nil {
		return nil, nil, err
	}
	all, err := simulated("autoremove")
	if err != nil {
		return nil, nil, err
	}
	gone = without(all, orphans)
	with, err := simulated(append([]string{"purge"}, slices.Concat(own, gone)...)...)
	if err != nil {
		return nil, nil, err
	}
	needing = without(without(with, gone), own)
	if len(gone) == 0 {
		return nil, needing, nil
	}
	exactly, err := simulated(append([]string{"purge"}, gone...)...)
	if err != nil || len(without(exactly, gone)) > 0 { // an orphan needs some of it
		return nil, needing, err
	}
	arguments := append([]string{"--quiet", "--yes", "purge"}, gone...)
	if err := h.Run(ctx, host.Cmd("apt-get", arguments...).In(root)); err != nil {
		return nil, nil, err
	}
	return gone, needing, removeBytecode(ctx, h, root)
}

func installedOf(ctx context.Context, h host.Host, root string, wanted func(name string) bool) (names []string, err error) {
	out, err := h.Output(ctx, host.Cmd("dpkg-query", debian.QueryArgs...).In(root))
	if err != nil {
		return nil, err
	}
	installed, err := debian.Installed(out)
	for _, p := range installed {
		if slices.Contains(ansiblePackages, p.Name) && wanted(p.Name) {
			names = append(names, p.Name)
		}
	}
	return names, err
}

// simulate is which packages apt-get would remove.
func simulate(ctx context.Context, h host.Host, root string, arguments ...string) (names []string, err error) {
	command := host.Cmd("apt-get", slices.Concat([]string{"--quiet", "--simulate"}, neededWeakly, arguments)...).In(root)
	out, err := h.Output(ctx, command)
	for _, match := range removed.FindAllStringSubmatch(string(out), -1) {
		names = append(names, match[1])
	}
	slices.Sort(names)
	return names, err
}

func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}

// removeBytecode removes what the interpreter has written beside its files, once it is gone
// itself.
func removeBytecode(ctx context.Context, h host.Host, root string) error {
	const script = `test -e /usr/bin/python3 && exit
for folder in /usr/lib/python3*; do
	test -d "$folder" || continue
	find "$folder" -depth -type d -name __pycache__ -exec rm -r {} +
	find "$folder" -depth -type d -empty -delete
done`
	return h.Run(ctx, host.Cmd("sh", "-c", script).In(root))
}
