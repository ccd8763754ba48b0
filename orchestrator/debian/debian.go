// Package debian is what several packages have to know of Debian itself: its
// releases, and how dpkg describes what is installed. It runs nothing.
package debian

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ReleaseNumber is the number of the release that the suite's code name stands
// for, "" for one that has none.
func ReleaseNumber(suite string) string {
	return map[string]string{"bookworm": "12", "trixie": "13", "forky": "14"}[suite]
}

// RepartPackages is what brings systemd-repart(8) to a release beside systemd; nothing where
// it is a part of that.
func RepartPackages(suite string) []string {
	switch suite {
	case "bullseye", "bookworm", "oldoldstable", "oldstable":
		return nil
	}
	return []string{"systemd-repart"}
}

// ResolvConf is the file with the name servers.
const ResolvConf = "/etc/resolv.conf"

// NoResolver is where that leads in trees that have none of their own: while they
// are entered, the builder's name servers are there.
const NoResolver = "../run/vmctl-resolv.conf"

// OwnAddress is where Debian puts the machine's own name (Debian Reference, 5.1.1).
const OwnAddress = "127.0.1.1"

// HostsLine is the line of hosts(5) for the machine's own name, which may be qualified.
func HostsLine(hostname string) string {
	if name, _, qualified := strings.Cut(hostname, "."); qualified {
		hostname += " " + name
	}
	return OwnAddress + "\t" + hostname + "\n"
}

// Tool is a program and the package that brings it.
type Tool struct{ Name, Package string }

// Package is an installed Debian package.
type Package struct {
	Name          string `json:"name"`
	Version       string `json:"version"`
	Architecture  string `json:"architecture"`
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"`
	InstalledSize int64  `json:"installed_size"` // KiB
}

// QueryArgs is the arguments of dpkg-query(1) whose output Installed reads.
var QueryArgs = []string{
	"--show",
	`--showformat=${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Installed-Size}\n`,
}

// Installed is the packages in the output of dpkg-query with QueryArgs, less those
// that were removed and have left their configuration.
func Installed(output []byte) ([]Package, error) {
	packages := []Package{}
	for line := range strings.Lines(string(output)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 7 {
			return nil, fmt.Errorf("dpkg-query printed %q", line)
		}
		if fields[0] != "installed" {
			continue
		}
		p := Package{Name: fields[1], Version: fields[2], Architecture: fields[3], Source: fields[4], SourceVersion: fields[5]}
		_, _ = fmt.Sscan(fields[6], &p.InstalledSize) // missing for virtual packages
		packages = append(packages, p)
	}
	return packages, nil
}

// InStatus is the packages that dpkg's own list, /var/lib/dpkg/status, says are
// installed.
func InStatus(content []byte) []Package {
	var packages []Package
	for stanza := range strings.SplitSeq(string(content), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(stanza) {
			if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
				fields[key] = strings.TrimSpace(value)
			}
		}
		if !strings.HasSuffix(fields["Status"], " installed") {
			continue
		}
		p := Package{Name: fields["Package"], Version: fields["Version"], Architecture: fields["Architecture"]}
		_, _ = fmt.Sscan(fields["Installed-Size"], &p.InstalledSize)
		packages = append(packages, p)
	}
	return packages
}

// Difference is a package that is in one of two lists alone, or in both in another version.
// It has no version where it is not installed.
type Difference struct {
	Name         string `json:"name"`
	Architecture string `json:"architecture"`
	Before       string `json:"before,omitempty"`
	After        string `json:"after,omitempty"`
}

// Differences is how the second list differs from the first, sorted.
func Differences(before, after []Package) (different []Difference) {
	type key struct{ name, architecture string }
	versions := map[key]*Difference{}
	at := func(p Package) *Difference {
		of := key{p.Name, p.Architecture}
		if versions[of] == nil {
			versions[of] = &Difference{Name: p.Name, Architecture: p.Architecture}
		}
		return versions[of]
	}
	for _, p := range before {
		at(p).Before = p.Version
	}
	for _, p := range after {
		at(p).After = p.Version
	}
	for _, d := range versions {
		if d.Before != d.After {
			different = append(different, *d)
		}
	}
	slices.SortFunc(different, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture))
	})
	return different
}
