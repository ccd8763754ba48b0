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
	entry    int // of the first layer
	packages []string
}

// earlyEntries is the first install entries of the first build of the chain, as long
// as nothing but packages happens before them: those packages can come in the one run
// of apt that installs the base system, with the same result and in less time. Those
// of later builds cannot, or builds that extend the same one would share nothing.
func earlyEntries(d definition.Definition) []early {
	if d.Source.Bootstrap == nil || len(d.Layers) == 0 {
		return nil
	}
	var entries []early
	first := d.Layers[0]
	for e, entry := range first.Install {
		if len(entry.Debconf)+len(entry.Repositories) > 0 || entry.Recommends || entry.On == definition.OnBoot ||
			slices.ContainsFunc(entry.Packages, func(name string) bool { return !plainPackage.MatchString(name) }) {
			break
		}
		entries = append(entries, early{e, entry.Packages})
		if len(entry.Files)+len(entry.Templates)+len(entry.Users)+len(entry.Roles)+len(entry.Playbooks)+len(entry.Services.Disabled)+len(entry.Services.Masked) > 0 {
			break
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
		layers[0].Install[e.entry].Packages = nil
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
				entry := d.Layers[0].Install[e.entry]
				return &fail.Error{
					Kind: fail.Build, Op: strings.TrimSpace(fmt.Sprintf("build %s: %s: %s", d.Name, entry.Origin, entry.Name)),
					Tail: fail.Tail(err), Err: errors.New("there is no package " + match[1] + " in the archive"),
				}
			}
		}
	}
	return err
}
