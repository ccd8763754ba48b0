package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
)

const oneLine = `deb http://mirror.example/debian trixie main contrib
deb http://mirror.example/debian trixie-updates main contrib
deb [signed-by="/home/builder/keys.gpg"] http://mirror.example/debian-security trixie-security main contrib
`

const asDeb822 = `Types: deb
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: %s

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main contrib
Signed-By: %s
`

func TestSourcesAreWrittenAsDebian13DoesIt(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ keyring, signedBy string }{
		"Debian's own keys": {"", "/usr/share/keyrings/debian-archive-keyring.gpg"},
		"a binary keyring":  {"keys", keyringStem + ".gpg"},
		"an armoured key":   {"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", keyringStem + ".asc"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := host.Tree(t.TempDir())
			for path, content := range map[string]string{listFile: oneLine, "/usr/share/keyrings/debian-archive-keyring.gpg": "keys"} {
				if err := tree.Write(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			keyring := ""
			if tc.keyring != "" {
				keyring = filepath.Join(dir, "keyring")
				if err := os.WriteFile(keyring, []byte(tc.keyring), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := writeSources(tree, keyring); err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(asDeb822, "%s", tc.signedBy)
			if got, err := tree.Read(sourcesFile); err != nil || string(got) != want {
				t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
			}
			if got, err := tree.Read(tc.signedBy); err != nil || tc.keyring != "" && string(got) != tc.keyring {
				t.Errorf("the keys are %q, %v", got, err)
			}
			if got, _ := tree.Read(listFile); string(got) != movedNote {
				t.Errorf("%s is %q", listFile, got)
			}
		})
	}
}

func TestALineThatIsNoneOfSourcesListIsAnError(t *testing.T) {
	if got, err := deb822("debian trixie main\n", ""); err == nil {
		t.Errorf("it gives %q", got)
	}
}
