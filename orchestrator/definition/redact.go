package definition

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strings"
)

// Assets is the places in the definition that name files of the builder.
func (d *Definition) Assets() []*string { return d.assets(func(*InstallEntry) bool { return true }) }

// PublicAssets is those of Assets that may be told of: no_log hides the others.
func (d *Definition) PublicAssets() []*string {
	return d.assets(func(e *InstallEntry) bool { return !e.NoLog })
}

func (d *Definition) assets(of func(*InstallEntry) bool) []*string {
	var assets []*string
	add := func(path *string) {
		if *path != "" {
			assets = append(assets, path)
		}
	}
	if b := d.Source.Bootstrap; b != nil {
		add(&b.Keyring)
	}
	if t := d.Source.Tarball; t != nil {
		add(&t.Path)
	}
	if c := d.Source.CloudImage; c != nil {
		add(&c.File)
		add(&c.Keyring)
	}
	if i := d.Source.Installer; i != nil {
		add(&i.Keyring)
		add(&i.Answers)
		for _, file := range []*Fetched{i.Kernel, i.Initrd, i.ISO} {
			if file != nil {
				add(&file.File)
			}
		}
	}
	for _, layer := range d.Layers {
		for i := range layer.Install {
			entry := &layer.Install[i]
			if !of(entry) {
				continue
			}
			for j := range entry.Repositories {
				if key := &entry.Repositories[j].Key; !inlineKey(*key) {
					add(key)
				}
			}
			for j := range entry.Files {
				add(&entry.Files[j].Source)
			}
			for j := range entry.Templates {
				add(&entry.Templates[j].Source)
			}
		}
	}
	return assets
}

const hidden = "(hidden)"

// Redacted is the definition as everybody may see it: build.json holds it, and
// push publishes that. It has a value only where the value is harmless by kind,
// whatever it is called; what is not copied here by name is not in it.
//
//   - Shown: names, descriptions, packages, sizes, modes, owners, paths and the
//     like; addresses without user, query and fragment; public keys for ssh; the
//     kernel's command line, which every user of the image can read and which is
//     on the consoles that are published too.
//   - "sha256:HEX" of it: what is text at length, which is contents of files,
//     scripts, argv as a whole (as JSON) and signing keys. It tells whether two
//     builds had the same. Whoever can guess the whole text can check the guess.
//   - "(hidden)": variables, environment, answers for debconf and password
//     hashes, with nothing but their names. Such values are short, and what is
//     short can be found out from any digest that comes with all it depends on,
//     a salt or the build's ID included. So there is none.
//
// An entry with no_log has neither digests nor the names of what they are of.
func (d Definition) Redacted() Definition {
	shown := Definition{
		Name: d.Name, Description: d.Description, Source: d.Source.redacted(), Disk: d.Disk, Firmware: d.Firmware,
		Hostname: d.Hostname, Python: d.Python, Boot: d.Boot, Test: d.Test, Outputs: d.Outputs, Layers: make([]Layer, len(d.Layers)),
	}
	shown.Requirements = each(d.Requirements, Requirement.redacted)
	shown.Vars, shown.Facts = hiddenValues(d.Vars), hiddenValues(d.Facts)
	for name := range d.Secrets {
		if shown.Secrets == nil {
			shown.Secrets = map[string]Secret{}
		}
		shown.Secrets[name] = Secret{Env: hidden}
	}
	for i, layer := range d.Layers {
		shown.Layers[i] = Layer{
			Name:     layer.Name,
			Install:  each(layer.Install, InstallEntry.redacted),
			Commands: each(layer.Commands, CommandEntry.redacted),
		}
	}
	return shown
}

// hiddenValues is the names alone.
func hiddenValues(values map[string]any) map[string]any {
	if len(values) == 0 {
		return nil
	}
	shown := map[string]any{}
	for name := range values {
		shown[name] = hidden
	}
	return shown
}

func each[T any](items []T, f func(T) T) []T {
	var mapped []T
	for _, item := range items {
		mapped = append(mapped, f(item))
	}
	return mapped
}

func (s Source) redacted() (shown Source) {
	if b := s.Bootstrap; b != nil {
		shown.Bootstrap = &Bootstrap{
			Suite: b.Suite, Variant: b.Variant, Mirror: address(b.Mirror), Components: b.Components,
			Packages: b.Packages, Keyring: b.Keyring, Docs: b.Docs,
		}
	}
	if t := s.Tarball; t != nil {
		shown.Tarball = &Tarball{Path: t.Path, URL: address(t.URL), SHA256: t.SHA256}
	}
	if c := s.CloudImage; c != nil {
		shown.CloudImage = &CloudImage{
			Suite: c.Suite, Flavour: c.Flavour, Arch: c.Arch, Mirror: address(c.Mirror), URL: address(c.URL), File: c.File, SHA512: c.SHA512, Keyring: c.Keyring,
		}
	}
	if i := s.Installer; i != nil {
		shown.Installer = &Installer{
			Suite: i.Suite, Mirror: address(i.Mirror), Keyring: i.Keyring, Kernel: i.Kernel.redacted(), Initrd: i.Initrd.redacted(), ISO: i.ISO.redacted(),
			Answers: i.Answers, Disk: i.Disk, Memory: i.Memory, Timeout: i.Timeout, Origin: i.Origin,
		}
		if i.Append != "" {
			shown.Installer.Append = hidden
		}
	}
	if o := s.OCI; o != nil {
		shown.OCI = &OCI{Image: o.Image}
	}
	return shown
}

func (f *Fetched) redacted() *Fetched {
	if f == nil {
		return nil
	}
	return &Fetched{File: f.File, URL: address(f.URL), SHA256: f.SHA256}
}

func (e InstallEntry) redacted() InstallEntry {
	hide := conceal(e.NoLog)
	return InstallEntry{
		Name: e.Name, Packages: e.Packages, Recommends: e.Recommends, Services: e.Services, Playbooks: e.Playbooks, NoLog: e.NoLog, Origin: e.Origin, On: e.On, OnlyTags: e.OnlyTags, SkipTags: e.SkipTags,
		Debconf:      each(e.Debconf, hide.debconf),
		Repositories: each(e.Repositories, hide.repository),
		Files:        each(e.Files, hide.file),
		Templates:    each(e.Templates, hide.file),
		Users:        each(e.Users, hide.user),
		Roles:        each(e.Roles, Role.redacted),
	}
}

func (r Role) redacted() Role { return Role{Name: r.Name, Vars: hiddenValues(r.Vars), Tags: r.Tags} }

func (e CommandEntry) redacted() CommandEntry {
	hide := conceal(e.NoLog)
	shown := CommandEntry{Name: e.Name, Run: hide.text(e.Run), Creates: e.Creates, Chdir: e.Chdir, NoLog: e.NoLog, Origin: e.Origin}
	if len(e.Argv) > 0 {
		words, _ := json.Marshal(e.Argv) // strings always encode
		shown.Argv = []string{hide.text(string(words))}
	}
	for name := range e.Environment {
		if shown.Environment == nil {
			shown.Environment = map[string]string{}
		}
		shown.Environment[hide.name(name)] = hidden
	}
	return shown
}

// conceal is what is done to the values of an entry, more so with no_log.
type conceal bool

// name is the name of something that has a value.
func (c conceal) name(name string) string {
	if c && name != "" {
		return hidden
	}
	return name
}

// text is what stands for a text at length.
func (c conceal) text(text string) string {
	switch {
	case text == "":
		return ""
	case bool(c):
		return hidden
	}
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (c conceal) debconf(d Debconf) Debconf {
	return Debconf{Package: d.Package, Question: c.name(d.Question), Type: d.Type, Value: hidden}
}

func (c conceal) repository(r Repository) Repository {
	shown := Repository{Name: r.Name, URIs: each(r.URIs, address), Suites: r.Suites, Components: r.Components, Architectures: r.Architectures, Types: r.Types, Key: c.name(r.Key)}
	if inlineKey(r.Key) {
		shown.Key = c.text(r.Key)
	}
	return shown
}

func (c conceal) file(f File) File {
	return File{Path: f.Path, Source: c.name(f.Source), Content: c.text(f.Content), Mode: f.Mode, Owner: f.Owner, Group: f.Group}
}

func (c conceal) user(u User) User {
	shown := User{
		Name: u.Name, UID: u.UID, Comment: u.Comment, Groups: u.Groups, Shell: u.Shell, Home: u.Home, System: u.System, Sudo: u.Sudo,
		EmptyPassword: u.EmptyPassword,
		SSHKeys:       each(u.SSHKeys, c.sshKey),
	}
	if u.PasswordHash != "" {
		shown.PasswordHash = hidden
	}
	return shown
}

// publicKey is a line of authorized_keys without options, which may hold a
// command or an environment.
var publicKey = regexp.MustCompile(`^(sk-)?(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?\n?$`)

func (c conceal) sshKey(key string) string {
	if publicKey.MatchString(key) {
		return key
	}
	return c.text(key)
}

// PublicAddress is an address as everybody may see it.
func PublicAddress(url string) string { return address(url) }

// address is the scheme, host and path of a URL, which may hold templates.
func address(url string) string {
	if end := strings.IndexAny(url, "?#"); end >= 0 {
		url = url[:end]
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if at := strings.LastIndex(rest, "@"); ok && at >= 0 {
		return scheme + "://" + rest[at+1:]
	}
	return url
}
