package orchestrator

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/download"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func sha512Of(text string) string {
	sum := sha512.Sum512([]byte(text))
	return hex.EncodeToString(sum[:])
}

// supplying is a supplier with a store of its own.
func supplying(t *testing.T, source definition.Source) *supplier {
	t.Helper()
	b := Builder{Store: filepath.Join(t.TempDir(), "store"), Version: "test", Tell: func(Event) {}}
	s, err := b.supplier(Plan{Definition: definition.Definition{Source: source}, Project: "/definitions"}, &hosttest.Fake{}, t.TempDir(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// supplyAll is what a build gets, from pinning on.
func supplyAll(t *testing.T, s *supplier) (content string, err error) {
	t.Helper()
	if _, err := s.pin(silent(t.Context())); err != nil {
		return "", err
	}
	answer := s.supply(t.Context())
	if answer.Failure != nil {
		return "", answer.Failure.err()
	}
	for _, name := range answer.Files {
		one, err := os.ReadFile(filepath.Join(s.store.DownloadsFolder(), name))
		if err != nil {
			t.Fatal(err)
		}
		content += string(one)
	}
	return content, nil
}

// serve serves files, and counts what is asked for.
func serve(t *testing.T, served map[string]string) (address string, asked *[]string) {
	t.Helper()
	asked = &[]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.Path)
		content, ok := served[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, content)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

func TestATarballIsKeptByItsDigest(t *testing.T) {
	address, asked := serve(t, map[string]string{"/a/root.tar": "tar"})
	s := supplying(t, definition.Source{Tarball: &definition.Tarball{URL: address + "/a/root.tar?token", SHA256: sha256Of("tar")}})
	for range 2 {
		if content, err := supplyAll(t, s); content != "tar" || err != nil {
			t.Fatalf("%q, %v", content, err)
		}
	}
	s.offline = true
	if content, err := supplyAll(t, s); content != "tar" || err != nil || len(*asked) != 1 {
		t.Errorf("%q, %v, asked %q", content, err, *asked)
	}
	kept, err := s.store.Downloads()
	if err != nil || len(kept) != 1 || kept[0].Name != "root.tar" {
		t.Fatalf("%+v, %v", kept, err)
	}
	path := filepath.Join(s.store.DownloadsFolder(), string(kept[0].SHA256)+"-root.tar")
	if err := os.WriteFile(path, []byte("tor"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := supplyAll(t, s); fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), "the store lacks root.tar") || fail.Hint(err) == "" {
		t.Errorf("damaged and offline: %v", err)
	}
	s.offline = false
	if content, err := supplyAll(t, s); content != "tar" || err != nil || len(*asked) != 2 {
		t.Errorf("damaged: %q, %v, asked %q", content, err, *asked)
	}
}

func TestWhatHasAnotherDigestIsNotKept(t *testing.T) {
	address, _ := serve(t, map[string]string{"/root.tar": "tor"})
	s := supplying(t, definition.Source{Tarball: &definition.Tarball{URL: address + "/root.tar", SHA256: sha256Of("tar")}})
	_, err := supplyAll(t, s)
	if fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), sha256Of("tor")) || !strings.Contains(fail.Hint(err), "nothing of it was kept") {
		t.Errorf("%v: %s", err, fail.Hint(err))
	}
	partial, err := s.store.Partial()
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{partial, s.store.DownloadsFolder()} {
		entries, err := os.ReadDir(folder)
		if err != nil || len(entries) > 0 {
			t.Errorf("%s holds %v, %v", folder, entries, err)
		}
	}
}

// images has one image, whose layers are their digests' texts.
type images struct {
	layers []string
	asked  []string
	err    error
}

func (i *images) Resolve(_ context.Context, reference, architecture string) (Pinned, error) {
	i.asked = append(i.asked, reference+" "+architecture)
	p := Pinned{Digest: "sha256:" + sha256Of(strings.Join(i.layers, " "))}
	for _, layer := range i.layers {
		p.Files = append(p.Files, PinnedFile{Name: layer, Digest: "sha256:" + sha256Of(layer), Size: int64(len(layer))})
	}
	return p, i.err
}

func (i *images) Open(reference string, layer PinnedFile) download.Opener {
	return func(context.Context, int64, string) (download.Content, error) {
		i.asked = append(i.asked, reference+" "+layer.Name)
		return download.Content{ReadCloser: io.NopCloser(strings.NewReader(layer.Name)), Size: layer.Size}, nil
	}
}

func TestATagIsResolvedOncePerBuild(t *testing.T) {
	registry := &images{layers: []string{"one", "two"}}
	s := supplying(t, definition.Source{OCI: &definition.OCI{Image: "h.example/debian:13"}})
	s.images = registry
	if content, err := supplyAll(t, s); content != "onetwo" || err != nil {
		t.Fatalf("%q, %v", content, err)
	}
	if got := strings.Join(registry.asked, ", "); got != "h.example/debian:13 amd64, h.example/debian:13 one, h.example/debian:13 two" {
		t.Errorf("asked %s", got)
	}
	before := *s.pinned
	registry.layers, registry.asked = []string{"one", "three"}, nil
	s.offline = true
	if content, err := supplyAll(t, s); content != "onetwo" || err != nil || len(registry.asked) > 0 || s.pinned.Digest != before.Digest {
		t.Errorf("offline: %q, %v, asked %q", content, err, registry.asked)
	}
	s.offline = false
	if content, err := supplyAll(t, s); content != "onethree" || err != nil || len(registry.asked) != 2 || s.pinned.Digest == before.Digest {
		t.Errorf("moved: %q, %v, asked %q", content, err, registry.asked)
	}
	second := *s
	second.plan.Definition.Name = "second"
	registry.layers = []string{"four"}
	if content, err := supplyAll(t, &second); content != "four" || err != nil {
		t.Errorf("another build: %q, %v", content, err)
	}
	s.offline = true
	if content, err := supplyAll(t, s); content != "onethree" || err != nil {
		t.Errorf("as this build was made: %q, %v", content, err)
	}
	s.offline = false
	s.plan.Lock = &Lock{Materials: Materials{Pinned: &before}}
	if content, err := supplyAll(t, s); content != "onetwo" || err != nil {
		t.Errorf("locked: %q, %v", content, err)
	}
	other := supplying(t, definition.Source{OCI: &definition.OCI{Image: "h.example/debian:13"}})
	other.images, other.offline = registry, true
	if _, err := supplyAll(t, other); fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), "the store does not know what h.example/debian:13 is") {
		t.Errorf("never seen: %v", err)
	}
}

func TestImagesOfTheFileSystemNeedNoNetwork(t *testing.T) {
	registry := &images{layers: []string{"one"}}
	s := supplying(t, definition.Source{OCI: &definition.OCI{Image: "oci:install.d/debian:13"}})
	s.images, s.offline = registry, true
	if content, err := supplyAll(t, s); content != "one" || err != nil || registry.asked[0] != "oci:/definitions/install.d/debian:13 amd64" {
		t.Errorf("%q, %v, asked %q", content, err, registry.asked)
	}
}

func TestAnImageCannotNameFilesOfTheHost(t *testing.T) {
	s := supplying(t, definition.Source{OCI: &definition.OCI{Image: "h.example/debian:13"}})
	for _, digest := range []string{"sha256:../../../etc/passwd", "", "md5:" + sha256Of("x"), "sha256:" + sha512Of("x")} {
		s.images = hostile{digest}
		if _, err := s.pin(silent(t.Context())); err == nil || !strings.Contains(err.Error(), "is no digest") {
			t.Errorf("%q: %v", digest, err)
		}
	}
	s.images = &images{err: errors.New("no registry")}
	if _, err := s.pin(silent(t.Context())); err == nil || !strings.Contains(err.Error(), "Resolve: no registry") {
		t.Error(err)
	}
}

type hostile struct{ digest string }

func (h hostile) Resolve(context.Context, string, string) (Pinned, error) {
	return Pinned{Digest: "sha256:" + sha256Of("x"), Files: []PinnedFile{{Name: "x", Digest: h.digest}}}, nil
}
func (hostile) Open(string, PinnedFile) download.Opener { return nil }

func TestWhatATreeLacks(t *testing.T) {
	const status = "Package: python3\nStatus: install ok installed\nVersion: 1\n\nPackage: dash\nStatus: deinstall ok config-files\n\nPackage: grub-pc\nEssential: no\nStatus: hold ok installed\n"
	got := lackingPackages(status, []string{"dash", "grub-pc", "python3", "python3-apt"})
	if strings.Join(got, " ") != "dash python3-apt" {
		t.Errorf("%q", got)
	}
	if got := lackingPackages("", []string{"dash"}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// The bytes of a source count, wherever they come from.
func TestADownloadedTarballIsTheSameSource(t *testing.T) {
	const name = "install.d/base.yml"
	file := base.with(name, "source: {bootstrap: {suite: trixie, keyring: base/mirror.gpg}}", "source: {tarball: {path: base/root.tar}}")
	file["install.d/base/root.tar"] = "tar"
	url := file.with(name, "path: base/root.tar", "url: 'https://h.example/x', sha256: "+sha256Of("tar"))
	if got := changed(file.parts(t, "web"), url.parts(t, "web")); got != "" {
		t.Errorf("changed is %q", got)
	}
	other := file.with(name, "path: base/root.tar", "url: 'https://h.example/x', sha256: "+sha256Of("tor"))
	if got := changed(file.parts(t, "web"), other.parts(t, "web")); got != "source" {
		t.Errorf("changed is %q", got)
	}
}

func TestPinnedFilesAreInTheRecord(t *testing.T) {
	m := Manifest{Materials: Materials{Pinned: &Pinned{Digest: "sha256:" + sha256Of("x")}}}
	lock, err := NewLock(Manifest{Name: "x", Materials: m.Materials})
	if err != nil || lock.Pinned.Digest != m.Pinned.Digest {
		t.Errorf("%+v, %v", lock, err)
	}
	m.Pinned.Digest = "sha256:x"
	if _, err := NewLock(Manifest{Name: "x", Materials: m.Materials}); err == nil {
		t.Error("a lock has any digest")
	}
}

// A dry run tells what would be downloaded, and nothing that is secret.
func TestSourcesAreDescribed(t *testing.T) {
	for want, source := range map[string]definition.Source{
		"download https://h.example/root.tar, SHA-256 abc\ntar --extract --file TARBALL --directory ROOT": {Tarball: &definition.Tarball{URL: "https://h.example/root.tar?token", SHA256: "abc"}},
		"unpack the container image h.example/debian:13, and install what it lacks of python3":            {OCI: &definition.OCI{Image: "h.example/debian:13"}},
		"take the files of the disk image https://h.example/a.img, and install what it lacks of python3":  {CloudImage: &definition.CloudImage{URL: "https://h.example/a.img?token"}},
		"take the files of the disk image install.d/a.img, and install what it lacks of python3":          {CloudImage: &definition.CloudImage{File: "install.d/a.img"}},
	} {
		if got := (Plan{Definition: definition.Definition{Source: source}}).describeSource("ROOT"); !strings.HasPrefix(strings.ReplaceAll(got, "grub-pc ", ""), want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
