package definition

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/arch"
)

// validateSource does not miss what may be in a file or a key that is reported
// already.
func (ld *loading) validateSource(d *Definition, merged *yaml.Node) {
	at := func(keys ...string) place { return ld.where(merged, append([]string{"source"}, keys...)...) }
	const example = "write 'source: {bootstrap: {suite: trixie}}'"
	unsure := ld.unsure("source")
	source := value(merged, "source")
	var given []string
	for _, kind := range sortedKeys(fieldsOf(reflect.TypeFor[Source]())) {
		if value(source, kind) != nil {
			given = append(given, kind)
		}
	}
	switch s := d.Source; {
	case len(given) > 1:
		ld.report(at(), "source: "+strings.Join(given, " and ")+" exclude each other", "keep one")
	case s.Bootstrap != nil:
		if s.Bootstrap.Suite != "" || !unsure {
			ld.validateSuite(at("bootstrap", "suite"), s.Bootstrap.Suite)
		}
		ld.validateBootstrap(s.Bootstrap, value(source, "bootstrap"), at)
	case s.Tarball != nil:
		ld.validateTarball(s.Tarball, value(source, "tarball"), at, unsure)
	case s.OCI != nil:
		ld.validateOCI(s.OCI, value(source, "oci"), at, unsure)
	case s.CloudImage != nil:
		ld.validateCloudImage(s.CloudImage, value(source, "cloudimage"), at, unsure)
	case s.Installer != nil:
		ld.validateInstaller(d, value(source, "installer"), at, unsure)
	case !unsure:
		ld.report(at(), "source: no source is given", example+", or extend a build that has one")
	}
}

func (ld *loading) validateTarball(t *Tarball, n *yaml.Node, at func(...string) place, unsure bool) {
	switch {
	case t.Path != "" && t.URL != "":
		ld.report(at("tarball", "url"), "source.tarball: path and url exclude each other", "keep one")
	case t.Path != "":
		t.Path = ld.asset(value(n, "path"), unlimited)
	case t.URL != "":
		ld.validateDownload(at("tarball", "url"), "source.tarball.url", t.URL)
		if t.SHA256 == "" && !unsure {
			ld.report(at("tarball"), `source.tarball: key "sha256" is missing`, "add what 'sha256sum' says of the file")
		}
	case !unsure:
		ld.report(at("tarball"), `source.tarball: neither path nor url is given`, "add one")
	}
	ld.validateDigest(at("tarball", "sha256"), "source.tarball.sha256", t.SHA256, 64)
}

func (ld *loading) validateCloudImage(c *CloudImage, n *yaml.Node, at func(...string) place, unsure bool) {
	const key = "source.cloudimage"
	here := func(name string) place { return at("cloudimage", name) }
	var given []string
	for name, value := range map[string]string{"suite": c.Suite, "url": c.URL, "file": c.File} {
		if value != "" {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	switch {
	case len(given) > 1:
		ld.report(at("cloudimage"), key+": "+strings.Join(given, " and ")+" exclude each other", "keep one")
	case len(given) == 0 && !unsure:
		ld.report(at("cloudimage"), key+": neither suite nor url nor file is given", "write 'source: {cloudimage: {suite: trixie}}'")
	}
	if c.Suite != "" && !suitePattern.MatchString(c.Suite) {
		ld.report(here("suite"), fmt.Sprintf("%s.suite: %q is no suite", key, c.Suite), "name a Debian suite, such as trixie")
	}
	for name, value := range map[string]string{"flavour": c.Flavour, "arch": c.Arch, "mirror": c.Mirror} {
		if value != "" && c.Suite == "" && len(given) > 0 {
			ld.report(here(name), key+"."+name+" is for official images", "remove it, or name a suite")
		}
	}
	if c.Flavour != "" && !slices.Contains(Flavours, c.Flavour) {
		ld.report(here("flavour"), fmt.Sprintf("%s.flavour: unknown %q", key, c.Flavour), "known: "+strings.Join(Flavours, ", "))
	}
	if c.Arch != "" && c.Arch != arch.Target.Debian {
		ld.report(here("arch"), fmt.Sprintf("%s.arch: %q cannot be built for", key, c.Arch), "write "+arch.Target.Debian)
	}
	ld.validateDigest(here("sha512"), key+".sha512", c.SHA512, 128)
	for name, address := range map[string]string{"mirror": c.Mirror, "url": c.URL} {
		if address != "" {
			ld.validateDownload(here(name), key+"."+name, address)
		}
	}
	if c.File != "" {
		c.File = ld.asset(value(n, "file"), unlimited)
	}
	if c.Keyring != "" {
		c.Keyring = ld.asset(value(n, "keyring"), largestKeyring)
	}
}

// imagePattern is a reference to a registry as far as it must be known here.
var imagePattern = regexp.MustCompile(`^[A-Za-z0-9.:\[\]_-]+(/[a-z0-9._-]+)+(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha(256|512):[0-9a-f]+)?$`)

func (ld *loading) validateOCI(o *OCI, n *yaml.Node, at func(...string) place, unsure bool) {
	kind, rest := o.Local()
	switch {
	case o.Image == "" && !unsure:
		ld.report(at("oci"), `source.oci: key "image" is missing`, "add it")
	case o.Image == "":
	case kind != "" && strings.ContainsFunc(rest, unicode.IsControl):
		ld.report(at("oci", "image"), "source.oci.image: the path holds a control character", "give it another name")
	case kind != "":
		written := value(n, "image")
		named := &yaml.Node{Kind: yaml.ScalarNode, Value: rest}
		ld.places[named] = ld.places[written]
		o.Image = kind + ":" + ld.locate(named).resolved
		if strings.HasSuffix(rest, "/") && !strings.HasSuffix(o.Image, "/") {
			o.Image += "/" // which ends a name that holds a colon
		}
	case !imagePattern.MatchString(o.Image):
		ld.report(at("oci", "image"), fmt.Sprintf("source.oci.image: %q is no image", address(o.Image)), "write HOST/REPOSITORY:TAG, oci:DIR:TAG or oci-archive:FILE:TAG")
	}
}

var hexPattern = regexp.MustCompile(`^[0-9a-f]+$`)

// validateDigest is of one that may be left out.
func (ld *loading) validateDigest(at place, key, sum string, digits int) {
	if sum != "" && (len(sum) != digits || !hexPattern.MatchString(sum)) {
		ld.report(at, fmt.Sprintf("%s: %q is no digest", key, sum), fmt.Sprintf("write its %d digits, 0-9 and a-f", digits))
	}
}

// validateDownload is of an address that vmctl itself asks.
func (ld *loading) validateDownload(at place, key, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(text, " \t\r\n"):
		ld.report(at, fmt.Sprintf("%s: %q is no address of a file", key, address(text)), "write https://HOST/PATH")
	case u.User != nil:
		ld.report(at, fmt.Sprintf("%s: %q holds a password, which everybody who reads the definition would know", key, address(text)), "use an address that needs none")
	}
}
