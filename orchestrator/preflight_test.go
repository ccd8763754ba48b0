package orchestrator

import (
	"slices"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
)

// TestAnInstallerNeedsQEMU has one without boot test.
func TestAnInstallerNeedsQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	d := definition.Definition{Source: definition.Source{Installer: &definition.Installer{Suite: "trixie", Memory: 3 * definition.GiB}}}
	d.Test.Memory = definition.GiB
	n := NeedsOf(d, false, "")
	if n.Memory != 3*definition.GiB || !slices.Contains(n.Packages(), arch.Target.QEMU.Package) || !n.Keyring {
		t.Errorf("%+v", n)
	}
}

// TestPackagesAreThoseOfTheChecks has a host on which nothing is found.
func TestPackagesAreThoseOfTheChecks(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	n := EverythingNeeded()
	packages := n.Packages()
	for _, check := range Preflight(n) {
		if check.Package != "" && !slices.Contains(packages, check.Package) {
			t.Errorf("%s wants %s, which is not among %v", check.What, check.Package, packages)
		}
	}
	for _, name := range []string{"mmdebstrap", "partclone", "ovmf"} {
		if !slices.Contains(packages, name) {
			t.Errorf("%s is not among %v", name, packages)
		}
	}
}
