package main

import (
	"os"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
)

func TestVersionsAsDebianHasThem(t *testing.T) {
	made := time.Unix(1_700_000_000, 0).UTC()
	for described, want := range map[string]string{
		"v1.2.3":              "1.2.3",
		"1.2":                 "1.2",
		"v1.2.3-rc.1":         "1.2.3~rc.1",
		"v1.2.3-4-g0abc123":   "1.2.3+4.g0abc123",
		"v1.2.3-rc1-4-gabc":   "1.2.3~rc1+4.gabc",
		"6bcb87e":             "0+git20231114221320.6bcb87e",
		"6bcb87e-dirty":       "0+git20231114221320.6bcb87e+dirty",
		"release_9":           "0+git20231114221320.release.9",
		"":                    "0+git20231114221320",
		"v2.0.0-1-gabc-dirty": "2.0.0+1.gabc+dirty",
	} {
		if got := debianVersion(described, made); got != want {
			t.Errorf("%q: %s instead of %s", described, got, want)
		}
	}
}

// TestDependenciesAreDoctors: each package that doctor can name is in one of the lists.
func TestDependenciesAreDoctors(t *testing.T) {
	depends, recommends := dependencies()
	for _, name := range []string{"mmdebstrap", "ansible", "e2fsprogs", "uidmap", "debian-archive-keyring"} {
		if !slices.Contains(depends, name) {
			t.Errorf("%s is no dependency: %v", name, depends)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(depends, recommends)))
	if !slices.Equal(all, orchestrator.EverythingNeeded().Packages()) {
		t.Errorf("%v", all)
	}
}

// TestTheImageHasWhatDoctorWants: in a container of the build vmctl, doctor misses no package.
func TestTheImageHasWhatDoctorWants(t *testing.T) {
	content, err := os.ReadFile("../../.ci/install.d/vmctl.yml")
	if err != nil {
		t.Fatal(err)
	}
	folder := fstest.MapFS{"install.d/vmctl.yml": {Data: content}, "install.d/vmctl": {}} // the binary, which make puts there
	library, err := definition.NewLibrary(folder, "", btwimg.Files)
	if err != nil {
		t.Fatal(err)
	}
	vmctl, err := library.Load("vmctl", nil)
	if err != nil {
		t.Fatal(err)
	}
	there := []string{"coreutils", "tar"} // every tree has them
	for _, layer := range vmctl.Layers {
		for _, entry := range layer.Install {
			there = append(there, entry.Packages...)
		}
	}
	for _, name := range orchestrator.EverythingNeeded().Packages() {
		if !slices.Contains(there, name) {
			t.Errorf("install.d/tools.yml, or .ci/install.d/vmctl.yml, lacks %s", name)
		}
	}
}
