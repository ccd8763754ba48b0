package source

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/host"
)

const (
	listFile    = "/etc/apt/sources.list"
	sourcesFile = "/etc/apt/sources.list.d/debian.sources"
	movedNote   = "# See " + sourcesFile + "\n"
	keyringStem = "/etc/apt/keyrings/debian-source" // .asc or .gpg
)

// debianKeyrings is where Debian's own keys lie in the image, the newest name first.
var debianKeyrings = []string{"/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"}

// writeSources turns what mmdebstrap wrote into the form that Debian 13 uses, deb822
// with the keys that may sign named (sources.list(5)). keyring is the builder's file
// of keys that the definition names, "" for Debian's own.
func writeSources(tree host.Tree, keyring string) error {
	list, err := tree.Read(listFile)
	if err != nil {
		return err
	}
	signedBy, err := signingKeys(tree, keyring)
	if err != nil {
		return err
	}
	sources, err := deb822(string(list), signedBy)
	if err != nil {
		return err
	}
	if err := tree.Write(sourcesFile, []byte(sources), 0o644); err != nil {
		return err
	}
	return tree.Write(listFile, []byte(movedNote), 0o644)
}

// signingKeys is the path in the image of the keys for Signed-By, "" where the image
// has none. A keyring of the builder's is copied.
func signingKeys(tree host.Tree, keyring string) (string, error) {
	if keyring != "" {
		content, err := os.ReadFile(keyring)
		if err != nil {
			return "", err
		}
		name := keyringStem + ".gpg"
		if strings.Contains(string(content), "-----BEGIN PGP") {
			name = keyringStem + ".asc"
		}
		return name, tree.Write(name, content, 0o644)
	}
	for _, name := range debianKeyrings {
		if tree.Exists(name) {
			return name, nil
		}
	}
	return "", nil
}

// stanza is one paragraph of a deb822 file: the lines of a sources.list that differ in
// nothing but the suite.
type stanza struct {
	kind, uri, components string
	suites                []string
}

// deb822 is the content of a sources.list in one-line form as deb822.
func deb822(list, signedBy string) (string, error) {
	var stanzas []*stanza
	for line := range strings.Lines(list) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind == "" || strings.HasPrefix(kind, "#") {
			continue
		}
		if strings.HasPrefix(rest, "[") { // mmdebstrap names keys of the builder there
			_, rest, _ = strings.Cut(rest, "]")
		}
		fields := strings.Fields(rest)
		if kind != "deb" && kind != "deb-src" || len(fields) < 2 {
			return "", fmt.Errorf("%s: mmdebstrap wrote a line that is none of sources.list: %q", path.Base(listFile), strings.TrimSpace(line))
		}
		one := stanza{kind, fields[0], strings.Join(fields[2:], " "), fields[1:2]}
		if last := len(stanzas) - 1; last >= 0 && one.joins(*stanzas[last]) {
			stanzas[last].suites = append(stanzas[last].suites, one.suites...)
			continue
		}
		stanzas = append(stanzas, &one)
	}
	var b strings.Builder
	for i, s := range stanzas {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "Types: %s\nURIs: %s\nSuites: %s\n", s.kind, s.uri, strings.Join(s.suites, " "))
		if s.components != "" {
			fmt.Fprintf(&b, "Components: %s\n", s.components)
		}
		if signedBy != "" {
			fmt.Fprintf(&b, "Signed-By: %s\n", signedBy)
		}
	}
	return b.String(), nil
}

func (s stanza) joins(other stanza) bool {
	return s.kind == other.kind && s.uri == other.uri && s.components == other.components
}
