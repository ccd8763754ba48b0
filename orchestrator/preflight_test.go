package orchestrator

import (
	"slices"
	"testing"
)

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
