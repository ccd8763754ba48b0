package publish

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

// keyPair writes a key pair in PEM and returns the paths.
func keyPair(t *testing.T, key crypto.Signer) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, private, "PRIVATE KEY", der)
	if der, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	writePEM(t, public, "PUBLIC KEY", der)
	return private, public
}

func writePEM(t *testing.T, path, kind string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func newKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, err2 := ed25519.GenerateKey(rand.Reader)
	rsaKey, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	return map[string]crypto.Signer{"ECDSA": p256, "Ed25519": ed, "RSA": rsaKey}
}

func readKeys(t *testing.T, key crypto.Signer) (*artifact.Signer, *artifact.Verifier) {
	t.Helper()
	private, public := keyPair(t, key)
	signer, err := ReadSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := ReadVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	_, other := readKeys(t, newKeys(t)["ECDSA"])
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer, verifier := readKeys(t, key)
			r := newRelease(t, 1)
			ref := in(t, registrytest.Start(t, nil), "debian")
			mustPush(t, ref, r, PushOptions{Signer: signer})
			if again := mustPush(t, ref, r, PushOptions{Signer: signer}); again[0].Uploaded != 0 {
				t.Errorf("signing again sends %d bytes", again[0].Uploaded)
			}
			for _, reference := range []registry.Reference{ref.With("13"), ref.With("13-20260102.1-amd64"), ref.With("13-raw")} {
				checks, err := Verify(t.Context(), place(t, ref), reference, VerifyOptions{Key: verifier, ReadOptions: amd64()})
				if err != nil {
					t.Errorf("%s: %v\n%s", reference, err, problems(checks))
				}
			}
			checks, err := Verify(t.Context(), place(t, ref), ref.With("13"), VerifyOptions{Key: other, ReadOptions: amd64()})
			if fail.ExitCode(err) != 6 || !strings.Contains(problems(checks), "not by this key") {
				t.Errorf("another key: %v\n%s", err, problems(checks))
			}
			dir := t.TempDir()
			if _, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir, Key: other}); fail.ExitCode(err) != 6 || len(folderNames(t, dir)) != 0 {
				t.Errorf("pull with another key: %v, left %v", err, folderNames(t, dir))
			}
			if pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir, Key: verifier}); err != nil || !pulled.Signed {
				t.Errorf("%+v, %v", pulled, err)
			}
		})
	}
}

func TestUnsignedIsNotSigned(t *testing.T) {
	t.Parallel()
	_, verifier := readKeys(t, newKeys(t)["Ed25519"])
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	if _, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir(), Key: verifier}); fail.ExitCode(err) != 6 || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("%v", err)
	}
}

func TestKeysOfCosignAndOthers(t *testing.T) {
	key := newKeys(t)["ECDSA"]
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encrypted.Encrypt(der, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cosign, sec1, wrong := filepath.Join(dir, "cosign.key"), filepath.Join(dir, "ec.pem"), filepath.Join(dir, "p384.pem")
	writePEM(t, cosign, "ENCRYPTED SIGSTORE PRIVATE KEY", sealed)
	if der, err = x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey)); err != nil {
		t.Fatal(err)
	}
	writePEM(t, sec1, "EC PRIVATE KEY", der)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKCS8PrivateKey(p384); err != nil {
		t.Fatal(err)
	}
	writePEM(t, wrong, "PRIVATE KEY", der)

	t.Setenv("COSIGN_PASSWORD", "hunter2")
	for _, path := range []string{cosign, sec1} {
		if _, err := ReadSigner(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	t.Setenv("COSIGN_PASSWORD", "wrong-hunter2")
	for path, want := range map[string]string{cosign: "COSIGN_PASSWORD", wrong: "openssl genpkey", filepath.Join(dir, "none"): ""} {
		_, err := ReadSigner(path)
		if fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), want) || strings.Contains(err.Error(), "wrong-hunter2") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestVerifyNoticesEveryMismatch pushes releases whose evidence does not belong
// to their disk.
func TestVerifyNoticesEveryMismatch(t *testing.T) {
	t.Parallel()
	good := newRelease(t, 1)
	for name, tc := range map[string]struct {
		forge func(t *testing.T, dst oras.Target, l *artifact.Leaf)
		want  string
	}{
		"nothing wrong": {func(*testing.T, oras.Target, *artifact.Leaf) {}, ""},
		"no boot report": {func(_ *testing.T, _ oras.Target, l *artifact.Leaf) {
			l.Attachments = slices.DeleteFunc(l.Attachments, func(a artifact.Attachment) bool { return a.Kind == "boot" })
		}, "boot test: none is attached"},
		"boot report of another disk": {func(t *testing.T, dst oras.Target, l *artifact.Leaf) {
			replace(t, dst, l, "boot", newRelease(t, 2))
		}, "boot test: the report is of another disk"},
		"build record of another build": {func(t *testing.T, dst oras.Target, l *artifact.Leaf) {
			replace(t, dst, l, "build", newRelease(t, 2))
		}, "build record: it is of the build build-2"},
		"checksums of another build": {func(t *testing.T, dst oras.Target, l *artifact.Leaf) {
			replace(t, dst, l, "sums", newRelease(t, 2))
		}, "checksums: debian-13-amd64.qcow2 has another digest there"},
		"packages of another disk": {func(t *testing.T, dst oras.Target, l *artifact.Leaf) {
			replace(t, dst, l, "sbom", newRelease(t, 2))
		}, "list of packages: it speaks of another disk"},
		"report that knows fewer firmwares": {func(t *testing.T, dst oras.Target, l *artifact.Leaf) {
			r := good
			r.Boots = r.Boots[:1]
			replace(t, dst, l, "boot", r)
		}, "boot test: it says that it booted on [bios uefi], the report knows of [bios]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := os.DirFS(good.Folder)
			b, leaves, err := artifact.Pack(t.Context(), good, files, false)
			if err != nil {
				t.Fatal(err)
			}
			l, dst := leaves[0], memory.New()
			tc.forge(t, dst, &l)
			p := &push{ctx: t.Context(), dst: dst, release: good, files: files, bundle: b, transfers: registry.NewTransfers(nil), options: PushOptions{Retry: quick}}
			index, err := b.Index(good, l, "13-20260102.1", ocispec.Index{})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.send(t.Context(), l.Manifest); err != nil {
				t.Fatal(err)
			}
			if err := p.sendIndex(l, index, 1); err != nil {
				t.Fatal(err)
			}
			ref := parse(t, "registry.example/debian:13-20260102.1")
			checks, err := Verify(t.Context(), dst, ref, VerifyOptions{ReadOptions: amd64()})
			if got := problems(checks); !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("%v\n%s", err, got)
			}
			if (fail.ExitCode(err) == 6) != (tc.want != "") {
				t.Errorf("%v", err)
			}
		})
	}
}

// replace swaps an attachment for that of another release, which it sends.
func replace(t *testing.T, dst oras.Target, l *artifact.Leaf, kind string, from artifact.Release) {
	t.Helper()
	b, leaves, err := artifact.Pack(t.Context(), from, os.DirFS(from.Folder), false)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(l.Attachments, func(a artifact.Attachment) bool { return a.Kind == kind })
	var m ocispec.Manifest
	if err := registry.FetchJSON(t.Context(), b, leaves[0].Attachments[i].Manifest, &m); err != nil {
		t.Fatal(err)
	}
	m.Subject = &ocispec.Descriptor{MediaType: l.Manifest.MediaType, Digest: l.Manifest.Digest, Size: l.Manifest.Size}
	forged, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	needed := append([]ocispec.Descriptor{m.Config}, m.Layers...)
	for _, d := range needed {
		part, err := content.FetchAll(t.Context(), b, d)
		if err == nil {
			err = dst.Push(t.Context(), d, bytes.NewReader(part))
		}
		if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			t.Fatal(err)
		}
	}
	d := content.NewDescriptorFromBytes(m.MediaType, forged)
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	if err := dst.Push(t.Context(), d, bytes.NewReader(forged)); err != nil {
		t.Fatal(err)
	}
	l.Attachments[i].Manifest = d
}

func TestInspectTellsAllWithoutTheDisk(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, r, PushOptions{ContainerDisk: true})
	src := noDisk{place(t, ref), t, r.Disks[0].Digest}
	got, err := Inspect(t.Context(), src, ref.With("latest"), amd64())
	if err != nil {
		t.Fatal(err)
	}
	if got.Release != "13-20260102.1" || got.Disk.Digest != r.Disks[0].Digest || len(got.Boots) != 2 || len(got.Packages) != 2 || len(got.Attached) != 4 {
		t.Errorf("%+v", got)
	}
	if !slices.Equal(got.Formats, []string{"qcow2", "raw", "containerdisk"}) {
		t.Errorf("formats %v", got.Formats)
	}
	want := []string{"SHA256SUMS", "boot-bios.log", "boot-uefi.log", "boot.json", "build.json", "debian-13-amd64.spdx.json", "packages.json", "report.html"}
	if names := slices.Sorted(maps.Keys(got.Files)); !slices.Equal(names, want) {
		t.Errorf("files %v", names)
	}
}

// noDisk is a source that lets nobody read the disk.
type noDisk struct {
	registry.Place
	t    *testing.T
	disk digest.Digest
}

func (n noDisk) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if d.Digest == n.disk {
		n.t.Error("the disk is fetched")
	}
	return n.Place.Fetch(ctx, d)
}
