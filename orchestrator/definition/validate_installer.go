package definition

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/debian"
)

const (
	installerKey       = "source.installer"
	leastInstallDisk   = 64 * MiB
	leastInstallMemory = 64 * MiB
)

// validateInstaller looks at an installer by itself, and at the secrets that its command line
// must not have.
func (ld *loading) validateInstaller(d *Definition, n *yaml.Node, at func(...string) place, unsure bool) {
	i := d.Source.Installer
	i.Origin = ld.origin(n)
	here := func(names ...string) place { return at(append([]string{"installer"}, names...)...) }
	ld.validateWhichInstaller(i, here, unsure)
	if i.Mirror != "" {
		ld.validateDownload(here("mirror"), installerKey+".mirror", i.Mirror)
	}
	if i.Keyring != "" {
		i.Keyring = ld.asset(value(n, "keyring"), largestKeyring)
	}
	for name, file := range i.Files() {
		if file != nil {
			ld.validateFetched(file, value(n, name), installerKey+"."+name, func(key ...string) place { return here(append([]string{name}, key...)...) })
		}
	}
	if i.Answers != "" {
		i.Answers = ld.template(value(n, "answers"))
	}
	for _, name := range sortedKeys(d.Secrets) {
		if slices.ContainsFunc(jinjaCode(i.Append), func(code jinjaBlock) bool { return code.names(name) }) {
			ld.report(here("append"), fmt.Sprintf("%s.append: the command line can be seen by all users of the builder, and %s is a secret", installerKey, name), "put it into the answers")
		}
	}
	if strings.ContainsAny(i.Append, "\n\x00") {
		ld.report(here("append"), installerKey+".append: a command line is one line", "write it as one, with '>-' for several in YAML")
	}
	if i.Disk < leastInstallDisk {
		ld.report(here("disk"), fmt.Sprintf("%s.disk: %s is too little for a system", installerKey, i.Disk), "give "+leastInstallDisk.String()+" or more")
	}
	if i.Memory < leastInstallMemory {
		ld.report(here("memory"), fmt.Sprintf("%s.memory: %s is too little for a kernel", installerKey, i.Memory), "give "+leastInstallMemory.String()+" or more")
	}
}

// validateWhichInstaller is of Debian's, or any other.
func (ld *loading) validateWhichInstaller(i *Installer, here func(...string) place, unsure bool) {
	switch {
	case i.Suite != "" && (i.Kernel != nil || i.Initrd != nil):
		ld.report(here(), installerKey+": suite has its own kernel and initrd", "remove those, or suite")
	case i.Suite != "" && debian.ReleaseNumber(i.Suite) == "":
		ld.report(here("suite"), fmt.Sprintf("%s.suite: no installer of %q is known", installerKey, i.Suite), "name a Debian release, such as trixie, or give kernel and initrd")
	case i.Suite != "" || unsure:
	case i.Kernel == nil && i.Initrd == nil:
		ld.report(here(), installerKey+": neither suite nor kernel is given", "write 'source: {installer: {suite: trixie}}'")
	case i.Kernel == nil || i.Initrd == nil:
		ld.report(here(), installerKey+": kernel and initrd belong together", "give both")
	}
	for name, value := range map[string]string{"mirror": i.Mirror, "keyring": i.Keyring} {
		if value != "" && i.Suite == "" && i.Kernel != nil {
			ld.report(here(name), installerKey+"."+name+" is for Debian's installer", "remove it, or name a suite")
		}
	}
}

// validateFetched resolves the file.
func (ld *loading) validateFetched(f *Fetched, n *yaml.Node, key string, at func(...string) place) {
	switch {
	case f.File != "" && f.URL != "":
		ld.report(at("url"), key+": file and url exclude each other", "keep one")
	case f.File != "":
		f.File = ld.asset(value(n, "file"), unlimited)
	case f.URL != "":
		ld.validateDownload(at("url"), key+".url", f.URL)
		if f.SHA256 == "" {
			ld.report(at(), key+`: key "sha256" is missing`, "add what 'sha256sum' says of the file")
		}
	case !ld.isMisspelt(n):
		ld.report(at(), key+": neither file nor url is given", "add one")
	}
	ld.validateDigest(at("sha256"), key+".sha256", f.SHA256, 64)
}
