package orchestrator

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestWhereDebianHasItsImages(t *testing.T) {
	for want, c := range map[string]definition.CloudImage{
		officialImages + "/trixie/latest/debian-13-generic-amd64.qcow2":           {Suite: "trixie", Flavour: "generic", Arch: "amd64"},
		"https://m.example/c/bookworm/latest/debian-12-nocloud-amd64.qcow2":       {Suite: "bookworm", Flavour: "nocloud", Arch: "amd64", Mirror: "https://m.example/c/"},
		officialImages + "/sid/daily/latest/debian-sid-generic-amd64-daily.qcow2": {Suite: "sid", Flavour: "generic", Arch: "amd64"},
	} {
		if got := cloudImageAddress(c, cloudImageNames(c)[0]); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	c := definition.CloudImage{URL: "https://h.example/a/b.img?token=x"}
	if got := cloudImageFolder(c); got != "https://h.example/a/" {
		t.Errorf("%s", got)
	}
	if got := cloudImageAddress(c, "x"); got != c.URL {
		t.Errorf("%s", got)
	}
}

const cloudName = "debian-13-generic-amd64"

func TestACloudImageIsWhatTheListSays(t *testing.T) {
	folder := "/trixie/latest/"
	served := map[string]string{
		folder + sumsName:               fmt.Sprintf("%s  other.raw\n%s  %s.raw\n%s *./%s.tar.xz\n", sha512Of("x"), sha512Of("raw"), cloudName, sha512Of("xz"), cloudName),
		folder + cloudName + ".tar.xz":  "xz",
		folder + cloudName + ".raw":     "raw",
		"/bookworm/latest/" + sumsName:  "nothing of it\n",
		"/any/image.img":                "any",
		"/any/" + sumsName:              sha512Of("any") + "  image.img\n",
		"/alone/image.img":              "any",
		"/large/image.img":              "any",
		"/large/" + sumsName:            strings.Repeat("x", largestSums+1),
		"/changed/image.img":            "any",
		"/changed/" + sumsName:          sha512Of("another") + "  image.img\n",
		"/signed/image.img":             "any",
		"/signed/" + sumsName:           sha512Of("any") + "  image.img\n",
		"/unsigned/" + sumsName:         sha512Of("any") + "  image.img\n",
		"/signed/" + sumsName + ".sign": "no signature",
	}
	address, _ := serve(t, served)
	official := definition.CloudImage{Suite: "trixie", Flavour: "generic", Arch: "amd64", Mirror: address}
	with := func(c definition.CloudImage, change func(*definition.CloudImage)) definition.CloudImage {
		change(&c)
		return c
	}
	at := func(path string) definition.CloudImage { return definition.CloudImage{URL: address + path} }
	for name, tc := range map[string]struct {
		image         definition.CloudImage
		want, problem string
	}{
		"the best of the list":    {official, "xz", ""},
		"the one that is pinned":  {with(official, func(c *definition.CloudImage) { c.SHA512 = sha512Of("raw") }), "raw", ""},
		"one that has moved on":   {with(official, func(c *definition.CloudImage) { c.SHA512 = sha512Of("old") }), "", "and not the pinned"},
		"a list without it":       {with(official, func(c *definition.CloudImage) { c.Suite = "bookworm" }), "", "it does not have debian-12-generic-amd64.qcow2 or"},
		"no list":                 {with(official, func(c *definition.CloudImage) { c.Suite = "forky" }), "", "there is no list of digests: the server says 404"},
		"any, by the list":        {at("/any/image.img?x"), "any", ""},
		"any, without a list":     {at("/alone/image.img"), "", "there is no list of digests"},
		"any, pinned":             {with(at("/alone/image.img"), func(c *definition.CloudImage) { c.SHA512 = sha512Of("any") }), "any", ""},
		"an endless list":         {at("/large/image.img"), "", "more than 1048576 bytes"},
		"another than the list's": {at("/changed/image.img"), "", "it has another digest"},
		"no signature":            {with(at("/unsigned/image.img"), func(c *definition.CloudImage) { c.Keyring = "keys" }), "", "it has no signature"},
		"a wrong signature":       {with(at("/signed/image.img"), func(c *definition.CloudImage) { c.Keyring = "keys" }), "", "gpgv: exit status"},
	} {
		t.Run(name, func(t *testing.T) {
			s := supplying(t, definition.Source{CloudImage: &tc.image})
			keys := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(keys, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s.plan.Assets, s.host = map[string]string{"keys": keys}, &host.Local{}
			content, err := supplyAll(t, s)
			if content != tc.want || tc.problem == "" && err != nil {
				t.Errorf("%q, %v", content, err)
			}
			if tc.problem != "" && (fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), tc.problem)) {
				t.Errorf("%v, want %s", err, tc.problem)
			}
			s.offline = true
			if again, err := supplyAll(t, s); tc.problem == "" && (again != tc.want || err != nil) {
				t.Errorf("offline: %q, %v", again, err)
			}
		})
	}
}

func TestSignedLists(t *testing.T) {
	home := t.TempDir()
	gpg := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...).Output()
		if err != nil {
			t.Fatalf("gpg %q: %v", args, err)
		}
		return out
	}
	defer func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() }()
	gpg("--quick-generate-key", "test", "ed25519", "sign", "never")
	list := []byte(sha512Of("any") + "  image.img\n")
	path := filepath.Join(home, "list")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		t.Fatal(err)
	}
	signature, plain, armoured := gpg("--detach-sign", "--armor", "--output", "-", path), gpg("--export"), gpg("--export", "--armor")
	s := supplying(t, definition.Source{})
	s.host = &host.Local{}
	keyring := filepath.Join(home, "keys")
	for name, keys := range map[string][]byte{"binary": plain, "armoured": armoured, "two blocks": append(append([]byte("a comment\n"), armoured...), armoured...)} {
		if err := os.WriteFile(keyring, keys, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.verify(t.Context(), "list", keyring, signature, list); err != nil {
			t.Errorf("%s: %v: %s", name, err, fail.Tail(err))
		}
		if err := s.verify(t.Context(), "list", keyring, signature, append([]byte("x"), list...)); fail.ExitCode(err) != 4 {
			t.Errorf("%s: another list: %v", name, err)
		}
	}
	if err := s.verify(t.Context(), "list", path, signature, list); fail.ExitCode(err) != 4 {
		t.Errorf("no keys: %v", err)
	}
}
