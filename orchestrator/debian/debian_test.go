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

func TestPackagesThatDiffer(t *testing.T) {
	of := func(name, version, architecture string) debian.Package {
		return debian.Package{Name: name, Version: version, Architecture: architecture}
	}
	got := debian.Differences(
		[]debian.Package{of("vim", "9", "amd64"), of("libc6", "2.41", "amd64"), of("libc6", "2.41", "i386"), of("bash", "5.1", "amd64")},
		[]debian.Package{of("bash", "5.2", "amd64"), of("libc6", "2.41", "amd64"), of("libc6", "2.42", "i386"), of("nano", "8", "all")},
	)
	want := []debian.Difference{
		{Name: "bash", Architecture: "amd64", Before: "5.1", After: "5.2"}, {Name: "libc6", Architecture: "i386", Before: "2.41", After: "2.42"},
		{Name: "nano", Architecture: "all", After: "8"}, {Name: "vim", Architecture: "amd64", Before: "9"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
