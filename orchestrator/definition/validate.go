package definition

import (
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/format"
)

// where is the place of the value that the keys lead to in n; where a key is
// missing, the place of what should hold it. Numbers index lists.
func (r *reader) where(n *yaml.Node, keys ...string) place {
	at, known := r.places[n]
	for _, key := range keys {
		var next *yaml.Node
		if index, err := strconv.Atoi(key); err == nil && n.Kind == yaml.SequenceNode && index < len(n.Content) {
			next = n.Content[index]
		} else {
			next = value(n, key)
		}
		if next == nil {
			break
		}
		n = next
		if found, ok := r.places[n]; ok {
			at, known = found, true
		}
	}
	if !known {
		for i := 0; i < len(n.Content); i++ {
			if found, ok := r.places[n.Content[i]]; ok {
				return found
			}
		}
	}
	return at
}

var (
	hostPattern     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	suitePattern    = regexp.MustCompile(`^[a-z][a-z0-9./-]*$`)
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	packagePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~/-]+)?$`)
	accountPattern  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	unitPattern     = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+$`)
	archiveName     = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)
)

func (ld *loading) validate(d *Definition, merged *yaml.Node) {
	ld.validateSource(d, merged)
	if d.KeepsDisk() {
		ld.validateKeptDisk(merged)
	} else {
		ld.validateDisk(d, merged)
		ld.validateTrees(ld.where(merged, "outputs"), d)
		ld.validateBootless(ld.where(merged, "outputs"), d)
	}
	at := func(keys ...string) place { return ld.where(merged, keys...) }
	if value(merged, "hostname") != nil && (!hostPattern.MatchString(d.Hostname) || len(d.Hostname) > 64) {
		ld.report(at("hostname"), fmt.Sprintf("hostname: %q is no host name", d.Hostname), "use letters, digits and hyphens, 64 at most")
	}
	for _, name := range sortedKeys(d.Secrets) {
		d.Secrets[name] = ld.validateSecret(at("secrets", name), name, d, value(value(merged, "secrets"), name))
	}
	ld.validateChoice(at("firmware"), "firmware", d.Firmware, arch.Target.FirmwareNames())
	ld.validateChoice(at("outputs"), "outputs", d.Outputs, format.Names())
	switch {
	case d.Python != "" && d.Python != PythonKeep && d.Python != PythonTransient:
		ld.report(at("python"), fmt.Sprintf("python: unknown %q", d.Python), "known: "+PythonKeep+", "+PythonTransient)
	case d.Python == PythonTransient && d.Source.Tarball != nil:
		ld.report(at("python"), "python: a tarball has its own", "leave it out: what Ansible needs is brought by a bootstrap alone")
	}
	if *d.Boot.Timeout < 0 {
		ld.report(at("boot", "timeout"), "boot.timeout is negative", "give seconds, 0 for no wait")
	}
	if strings.ContainsAny(d.Boot.Cmdline, "\n\"$`\\") {
		ld.report(at("boot", "cmdline"), "boot.cmdline holds a character that GRUB would interpret", `leave out quotes, $, backquotes, backslashes and line ends`)
	}
	if d.Test.CPUs < 1 {
		ld.report(at("test", "cpus"), "test.cpus is below 1", "give 1 or more")
	}
	if d.Test.Memory < 256*MiB {
		ld.report(at("test", "memory"), fmt.Sprintf("test.memory: %s is too little to boot Debian", d.Test.Memory), "give 256M or more")
	}
}

// validateSecret returns the secret with the file's path from the definitions' folder. It
// need not be there to look at the definition.
func (ld *loading) validateSecret(at place, name string, d *Definition, n *yaml.Node) Secret {
	s := d.Secrets[name]
	if mend, err := checkVariable(name); err != nil {
		ld.report(at, "secrets: "+err.Error(), mend)
	}
	if _, twice := d.Vars[name]; twice {
		ld.report(at, fmt.Sprintf("secrets: vars has a %q, too", name), "keep one")
	}
	sources := 0
	for _, given := range []bool{s.Env != "", s.File != "", len(s.Command) > 0} {
		if given {
			sources++
		}
	}
	if sources != 1 && !ld.isMisspelt(n) {
		ld.report(at, fmt.Sprintf("secrets: %s comes from %d places", name, sources), "give one of env, file and command")
	}
	if s.File != "" {
		s.File = ld.locate(value(n, "file")).resolved
	}
	return s
}

func (ld *loading) validateChoice(at place, key string, given, known []string) {
	for i, choice := range given {
		switch {
		case !slices.Contains(known, choice):
			ld.report(at, fmt.Sprintf("%s: unknown %q", key, choice), "known: "+strings.Join(known, ", "))
		case slices.Contains(given[:i], choice):
			ld.report(at, fmt.Sprintf("%s: %q is named twice", key, choice), "name it once")
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (ld *loading) validateSuite(at place, suite string) {
	if !suitePattern.MatchString(suite) {
		ld.report(at, fmt.Sprintf("source.bootstrap.suite: %q is no suite", suite), "name a Debian suite, such as trixie")
	}
}

func (ld *loading) validateBootstrap(b *Bootstrap, n *yaml.Node, at func(...string) place) {
	variants := []string{"minbase", "standard", "important", "required", "apt", "buildd"}
	if !slices.Contains(variants, b.Variant) {
		ld.report(at("bootstrap", "variant"), fmt.Sprintf("source.bootstrap.variant: unknown %q", b.Variant), "known: "+strings.Join(variants, ", "))
	}
	if b.Mirror != "" {
		ld.validateURL(at("bootstrap", "mirror"), "source.bootstrap.mirror", b.Mirror)
	}
	ld.validateList(at("bootstrap", "components"), "source.bootstrap.components", "component", archiveName, b.Components)
	ld.validateList(at("bootstrap", "packages"), "source.bootstrap.packages", "package", packagePattern, b.Packages)
	if b.Keyring != "" {
		b.Keyring = ld.asset(value(n, "keyring"), largestKeyring)
	}
}

func (ld *loading) validateURL(at place, key, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Host == "":
		ld.report(at, fmt.Sprintf("%s: %q is no archive address", key, address(text)), "write http://HOST/PATH or https://HOST/PATH")
	case u.User != nil:
		ld.report(at, fmt.Sprintf("%s: %q holds a password, which would stay in the image", key, address(text)), "use a mirror that needs none")
	case strings.ContainsAny(text, "?#"):
		ld.report(at, fmt.Sprintf("%s: %q goes on with ? or #, behind which apt would put the names of files", key, address(text)), "write the address up to there; a mirror that asks for a password is none for an image")
	case strings.ContainsAny(text, " \t\n[]"):
		ld.report(at, fmt.Sprintf("%s: %q holds a character that apt would interpret", key, address(text)), "leave out spaces and brackets")
	}
}

func (ld *loading) validateList(at place, key, kind string, pattern *regexp.Regexp, items []string) {
	for i, item := range items {
		switch {
		case isJinja(item):
		case !pattern.MatchString(item):
			ld.report(at, fmt.Sprintf("%s: %q is no %s", key, item, kind), "correct the name")
		case slices.Contains(items[:i], item):
			ld.report(at, fmt.Sprintf("%s: %q is named twice", key, item), "name it once")
		}
	}
}

func isJinja(text string) bool { return strings.Contains(text, "{{") || strings.Contains(text, "{%") }

func (ld *loading) validateInstall(e *InstallEntry, n *yaml.Node) {
	at := func(keys ...string) place { return ld.where(n, keys...) }
	if len(e.Debconf)+len(e.Repositories)+len(e.Packages)+len(e.Files)+len(e.Templates)+len(e.Users)+len(e.Roles)+len(e.Playbooks)+
		len(e.Services.Enabled)+len(e.Services.Disabled)+len(e.Services.Masked) == 0 && !ld.isMisspelt(n) {
		ld.report(at(), "the entry installs nothing", "give it packages, repositories, debconf, files, templates, users, services, roles or playbooks")
	}
	ld.validateOn(at("on"), e.On)
	ld.validateItems(at("packages"), "packages", "package", packagePattern, e.Packages, value(n, "packages"))
	for i := range e.Repositories {
		ld.validateRepository(&e.Repositories[i], value(n, "repositories").Content[i])
	}
	for i := range e.Files {
		ld.validateFile(&e.Files[i], value(n, "files").Content[i], "files", ld.copied)
	}
	for i := range e.Templates {
		ld.validateFile(&e.Templates[i], value(n, "templates").Content[i], "templates", ld.template)
	}
	ld.validateUsers(e.Users, value(n, "users"))
	services := value(n, "services")
	for key, units := range map[string][]string{"enabled": e.Services.Enabled, "disabled": e.Services.Disabled, "masked": e.Services.Masked} {
		ld.validateItems(at("services", key), "services."+key, "unit", unitPattern, units, value(services, key))
	}
	for i, role := range e.Roles {
		item := value(n, "roles").Content[i]
		ld.validateRole(role.Name, item)
		if !slices.Equal(role.Tags, e.Roles[0].Tags) {
			ld.report(ld.places[item], "roles: tags are those of all roles of an entry", "give the role an entry of its own")
		}
	}
	if len(e.Playbooks) > 0 && slices.ContainsFunc(e.Roles, func(r Role) bool { return len(r.Tags) > 0 }) {
		ld.report(at("playbooks"), "playbooks: the tags of roles choose among the tasks of the whole entry, of playbooks, too", "give the playbooks an entry of their own")
	}
	for i, playbook := range e.Playbooks {
		ld.validatePlaybook(playbook, value(n, "playbooks").Content[i])
	}
}

// validateItems is validateList that names each item's own line.
func (ld *loading) validateItems(at place, key, kind string, pattern *regexp.Regexp, items []string, list *yaml.Node) {
	for i := range items {
		if list != nil && i < len(list.Content) {
			at = ld.places[list.Content[i]]
		}
		seen := slices.Contains(items[:i], items[i])
		ld.validateList(at, key, kind, pattern, items[i:i+1])
		if seen {
			ld.report(at, fmt.Sprintf("%s: %q is named twice", key, items[i]), "name it once")
		}
	}
}

func (ld *loading) validateRepository(r *Repository, n *yaml.Node) {
	at := func(keys ...string) place { return ld.where(n, keys...) }
	if !archiveName.MatchString(r.Name) {
		ld.report(at("name"), fmt.Sprintf("repositories: %q is no file name", r.Name), "use letters, digits, dots, hyphens and underscores")
	}
	for i, uri := range r.URIs {
		if !isJinja(uri) {
			ld.validateURL(at("uris", strconv.Itoa(i)), "repositories.uris", uri)
		}
	}
	flat := slices.ContainsFunc(r.Suites, func(suite string) bool { return strings.HasSuffix(suite, "/") })
	if len(r.Components) == 0 && !flat && !ld.isMisspelt(n) {
		ld.report(at(), "repositories: components are missing", "name them, or end the suite in / for a flat repository")
	}
	for _, kind := range r.Types {
		if kind != "deb" && kind != "deb-src" {
			ld.report(at("types"), fmt.Sprintf("repositories.types: unknown %q", kind), "known: deb, deb-src")
		}
	}
	key := value(n, "key")
	switch {
	case r.Key == "":
		ld.report(at("key"), "repositories: the signing key is missing", "give the file or the ASCII-armoured key; apt checks every signature")
	case strings.Contains(r.Key, "PRIVATE KEY"):
		ld.report(at("key"), "repositories: the key is a private key", "export the public one")
	case !inlineKey(r.Key):
		r.Key = ld.asset(key, largestKeyring)
	}
}

func inlineKey(key string) bool { return strings.Contains(key, "-----BEGIN PGP PUBLIC KEY BLOCK-----") }

func (ld *loading) validateFile(f *File, n *yaml.Node, kind string, resolve func(*yaml.Node) string) {
	at := func(keys ...string) place { return ld.where(n, keys...) }
	if !isJinja(f.Path) && (!path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/") {
		ld.report(at("path"), fmt.Sprintf("%s: %q is not an absolute path", kind, f.Path), "write the file's full path in the image")
	}
	source, content := value(n, "source"), value(n, "content")
	switch {
	case source != nil && content != nil:
		ld.report(at("content"), kind+": source and content exclude each other", "keep one")
	case source == nil && content == nil && !ld.isMisspelt(n):
		ld.report(at(), kind+": neither source nor content is given", "give one")
	case source != nil:
		f.Source = resolve(source)
	}
}

func (ld *loading) validateUsers(users []User, n *yaml.Node) {
	seen := map[string]bool{}
	for i, u := range users {
		item := n.Content[i]
		at := func(keys ...string) place { return ld.where(item, keys...) }
		if !accountPattern.MatchString(u.Name) && !isJinja(u.Name) {
			ld.report(at("name"), fmt.Sprintf("users: %q is no account name", u.Name), "use lower-case letters, digits, hyphens and underscores, 32 at most")
		}
		if seen[u.Name] {
			ld.report(at("name"), fmt.Sprintf("users: %q is named twice", u.Name), "merge the two")
		}
		seen[u.Name] = true
		if u.PasswordHash != "" && !isJinja(u.PasswordHash) && !strings.HasPrefix(u.PasswordHash, "$") && !strings.ContainsAny(u.PasswordHash, "!*") {
			ld.report(at("password_hash"), "users: password_hash is not a hash", "make one with 'mkpasswd'; it starts with $")
		}
		if u.EmptyPassword && u.PasswordHash != "" {
			ld.report(at("empty_password"), "users: empty_password and password_hash exclude each other", "remove one of them")
		}
		for j, key := range u.SSHKeys {
			if strings.Contains(key, "PRIVATE KEY") {
				ld.report(at("ssh_keys", strconv.Itoa(j)), "users: ssh_keys holds a private key", "give the public one, from the file that ends in .pub")
			}
		}
	}
}

func (ld *loading) validateRole(role string, n *yaml.Node) {
	at := ld.places[n]
	if strings.Contains(role, ".") || isJinja(role) {
		return // from a collection, or known only at run time
	}
	in := ld.library.roots[ld.roots[at.file]]
	folder := path.Join(rolesFolder, role)
	switch info, err := fs.Stat(in.files, folder); {
	case err != nil && isThere(in.files, folder):
		what, mend := because(in.files, folder, err)
		ld.report(at, "roles: "+folder+" "+what, mend)
	case (err != nil || !info.IsDir()) && ld.requirements().mayHave(role):
		return
	case err != nil || !info.IsDir():
		ld.report(at, fmt.Sprintf("roles: there is no role %q", role), "put it into the folder roles, beside install.d, or name it in requirements.yml")
	default:
		ld.checkRole(at, in.files, folder)
	}
}

// validatePlaybook reads a playbook as far as it must be known: whether it has the image
// among its hosts.
func (ld *loading) validatePlaybook(name string, n *yaml.Node) {
	at := ld.places[n]
	in := ld.library.roots[ld.roots[at.file]]
	file := path.Join(playbooksFolder, name)
	if !fs.ValidPath(name) || !isThere(in.files, file) {
		ld.report(at, fmt.Sprintf("playbooks: there is no %s", file), "put it into the folder playbooks, beside install.d")
		return
	}
	content, err := readFile(in.files, file, largestTemplate)
	if err != nil {
		what, mend := because(in.files, file, err)
		ld.report(at, "playbooks: "+file+" "+what, mend)
		return
	}
	shown := in.prefix + file
	var plays []yaml.Node
	if err := yaml.Load(content, &plays); err != nil {
		ld.report(place{shown, 0}, "the playbook is no list of plays", "see 'ansible-playbook --syntax-check'")
		return
	}
	for i := range plays {
		hosts := value(&plays[i], "hosts")
		if hosts == nil || hosts.Kind != yaml.ScalarNode || isJinja(hosts.Value) {
			continue
		}
		if hosts.Value != "all" && hosts.Value != "image" {
			ld.report(place{shown, hosts.Line}, fmt.Sprintf("the play is for %q, and would do nothing", hosts.Value), "write 'hosts: all' or 'hosts: image': a build has one host")
		}
	}
}

// validateOn checks where an entry is applied.
func (ld *loading) validateOn(at place, on string) {
	if on != "" && on != OnBoot {
		ld.report(at, fmt.Sprintf("on: unknown %q", on), "known: "+OnBoot+", for a guest that starts from the tree so far; leave it out for the tree itself")
	}
}

func (ld *loading) validateCommand(e *CommandEntry, n *yaml.Node) {
	at := func(keys ...string) place { return ld.where(n, keys...) }
	ld.validateOn(at("on"), e.On)
	run, argv := e.Run != "", len(e.Argv) > 0
	switch {
	case run && argv:
		ld.report(at("argv"), "run and argv exclude each other", "keep one")
	case !run && !argv && !ld.isMisspelt(n):
		ld.report(at(), "the entry runs nothing", "give it run (a script) or argv (a list)")
	}
	for key, text := range map[string]string{"creates": e.Creates, "chdir": e.Chdir} {
		if text != "" && !path.IsAbs(text) && !isJinja(text) {
			ld.report(at(key), fmt.Sprintf("%s: %q is not an absolute path", key, text), "write the full path in the image")
		}
	}
	for _, name := range sortedKeys(e.Environment) {
		if !variablePattern.MatchString(name) {
			ld.report(at("environment", name), fmt.Sprintf("environment: %q is no variable name", name), "use letters, digits and underscores")
		}
	}
}
