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

// validateInstaller looks at an installer by itself, and at what is secret and its command line
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
	for _, name := range d.secretsIn(i.Append) {
		what := " is a secret"
		if _, plain := d.Vars[name]; plain {
			what = " is encrypted with ansible-vault"
		}
		ld.report(here("append"), installerKey+".append: the command line can be seen by all users of the builder, and "+name+what, "put it into the answers")
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

// secretsIn is the names of secrets, and of variables with encrypted values, that a template
// reads, also by way of other variables.
func (d *Definition) secretsIn(template string) (found []string) {
	seen := map[string]bool{}
	for pending := []string{template}; len(pending) > 0; pending = pending[1:] {
		code := jinjaCode(pending[0])
		reads := func(name string) bool {
			first := !seen[name] && slices.ContainsFunc(code, func(block jinjaBlock) bool { return block.names(name) || block.quotes(name) })
			seen[name] = seen[name] || first
			return first
		}
		for _, name := range sortedKeys(d.Secrets) {
			if reads(name) {
				found = append(found, name)
			}
		}
		for _, name := range sortedKeys(d.Vars) {
			if !reads(name) {
				continue
			}
			texts, encrypted := textsIn(d.Vars[name])
			if encrypted {
				found = append(found, name)
			}
			pending = append(pending, texts...)
		}
	}
	return found
}

// textsIn is the texts of a variable's value, and whether some of it is encrypted.
func textsIn(value any) (texts []string, encrypted bool) {
	switch value := value.(type) {
	case string:
		return []string{value}, strings.HasPrefix(value, vaultMark)
	case []any:
		for _, item := range value {
			inner, hidden := textsIn(item)
			texts, encrypted = append(texts, inner...), encrypted || hidden
		}
	case map[string]any:
		for _, key := range sortedKeys(value) {
			inner, hidden := textsIn(value[key])
			texts, encrypted = append(texts, inner...), encrypted || hidden || key == vaultKey
		}
	}
	return texts, encrypted
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
