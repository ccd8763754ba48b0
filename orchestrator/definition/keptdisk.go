package definition

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// KeepsDisk says whether the disk is known only once the installer has run that is the source.
func (d *Definition) KeepsDisk() bool {
	return d.Source.Installer != nil && d.Source.Installer.KeepDisk && len(d.Disk.Layout.Partitions) == 0
}

// validateKeptDisk refuses another disk than the installer's.
func (ld *loading) validateKeptDisk(merged *yaml.Node) {
	for _, key := range []string{"size", "layout"} {
		if value(value(merged, "disk"), key) != nil {
			ld.report(ld.where(merged, "disk", key), "disk."+key+": the installer's disk is kept ("+installerKey+".keep_disk)", "remove it, or keep_disk")
		}
	}
}

// WithDisk is the definition with the disk of its installer, and what follows from that where
// the definition does not say otherwise.
func (d *Definition) WithDisk(size Size, partitions []Partition) (Definition, error) {
	with := *d
	with.Disk.Size, with.Disk.Layout = size, Layout{Partitions: partitions}
	with.applyDiskDefaults()
	ld := newLoading(nil)
	at := func(...string) place { return place{} }
	partition := func(int, ...string) place { return place{} }
	resolved := with.Disk.Layout.Resolve()
	for _, p := range resolved {
		ld.validatePartition(p, at)
	}
	ld.validateTogether(resolved, partition)
	ld.validateGrowth(&with, resolved, at())
	ld.validateFit(size, resolved, at())
	ld.validateFirmware(with.Firmware, resolved, at())
	ld.validateTrees(at(), &with)
	ld.validateBootless(at(), &with)
	if len(ld.problems) == 0 {
		return with, nil
	}
	var all []string
	for _, problem := range ld.problems {
		all = append(all, problem.What)
	}
	return Definition{}, fail.New(fail.Build, "keep_disk", "have the installer part its disk otherwise, or remove keep_disk and write disk.layout", "%s", strings.Join(all, "; "))
}
