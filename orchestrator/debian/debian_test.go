package debian_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/btw-img/btw-img/orchestrator/debian"
)

func TestPackagesThatLeftTheirConfigurationAreNotInstalled(t *testing.T) {
	got, err := debian.Installed([]byte("installed\tg++\t4:14.2\tamd64\tgcc-defaults\t1.220\t13\nconfig-files\tgrub-pc\t2.12\tamd64\tgrub2\t2.12\t0\ninstalled\tmeta\t1\tall\tmeta\t1\t\n"))
	want := []debian.Package{
		{Name: "g++", Version: "4:14.2", Architecture: "amd64", Source: "gcc-defaults", SourceVersion: "1.220", InstalledSize: 13},
		{Name: "meta", Version: "1", Architecture: "all", Source: "meta", SourceVersion: "1"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := debian.Installed([]byte("dpkg-query: warning\n")); err == nil {
		t.Error("a line that is none passes")
	}
}

func TestPackagesInDpkgsOwnList(t *testing.T) {
	got := debian.InStatus([]byte("Package: adduser\nStatus: install ok installed\nInstalled-Size: 7\nArchitecture: all\nVersion: 3.1\nDescription: users\n Version: 9\n\nPackage: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"))
	want := []debian.Package{{Name: "adduser", Version: "3.1", Architecture: "all", InstalledSize: 7}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
