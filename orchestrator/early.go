package orchestrator

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// plainPackage is a package name that mmdebstrap takes as it is.
var plainPackage = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// early is an entry whose packages come with the base system.
type early struct {
	layer, entry int
	packages     []string
}

// earlyEntries is the first install entries as long as nothing but packages
// happens before them: those packages can come in the one run of apt that
// installs the base system, with the same result and in less time.
func earlyEntries(d definition.Definition) []early {
	if d.Source.Bootstrap == nil {
		return nil
	}
	var entries []early
	for l, layer := range d.Layers {
		for e, entry := range layer.Install {
			if len(entry.Debconf)+len(entry.Repositories) > 0 || entry.Recommends ||
				slices.ContainsFunc(entry.Packages, func(name string) bool { return !plainPackage.MatchString(name) }) {
				return entries
			}
			entries = append(entries, early{l, e, entry.Packages})
			if len(entry.Files)+len(entry.Templates)+len(entry.Users)+len(entry.Roles)+len(entry.Services.Disabled)+len(entry.Services.Masked) > 0 {
				return entries
			}
		}
		if len(layer.Commands) > 0 {
			return entries
		}
	}
	return entries
}

// earlyPackages is the packages of the early entries.
func earlyPackages(d definition.Definition) []string {
	var packages []string
	for _, e := range earlyEntries(d) {
		packages = append(packages, e.packages...)
	}
	return packages
}

// withoutEarly is the layers without the packages that are there already.
func withoutEarly(d definition.Definition) []definition.Layer {
	layers := slices.Clone(d.Layers)
	for i := range layers {
		layers[i].Install = slices.Clone(layers[i].Install)
	}
	for _, e := range earlyEntries(d) {
		layers[e.layer].Install[e.entry].Packages = nil
	}
	return layers
}

var missingPackage = regexp.MustCompile(`(?m)^E: (?:Unable to locate package|Package '?)\s?([a-z0-9][a-z0-9+.-]+)(?:'? has no installation candidate)?`)

// blame names the entry whose package the archive does not have.
func blame(d definition.Definition, err error) error {
	if err == nil {
		return nil
	}
	for _, match := range missingPackage.FindAllStringSubmatch(fail.Tail(err), -1) {
		for _, e := range earlyEntries(d) {
			if slices.Contains(e.packages, match[1]) {
				entry := d.Layers[e.layer].Install[e.entry]
				return &fail.Error{
					Kind: fail.Build, Op: strings.TrimSpace(fmt.Sprintf("build %s: %s: %s", d.Name, entry.Origin, entry.Name)),
					Tail: fail.Tail(err), Err: errors.New("there is no package " + match[1] + " in the archive"),
				}
			}
		}
	}
	return err
}
