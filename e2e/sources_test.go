//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// server serves the files of a folder, and cuts the connection once, in the middle of one.
type server struct {
	*httptest.Server
	cut   atomic.Int64 // bytes after which it does
	asked atomic.Int64 // requests that go on somewhere
}

func serveFolder(t *testing.T, folder string) *server {
	t.Helper()
	s := &server{}
	files := http.FileServer(http.Dir(folder))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			s.asked.Add(1)
		}
		if strings.HasSuffix(r.URL.Path, "SUMS") {
			files.ServeHTTP(w, r)
			return
		}
		if left := s.cut.Swap(0); left > 0 {
			w = &cutConnection{w, left}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

type cutConnection struct {
	http.ResponseWriter
	left int64
}

func (c *cutConnection) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left == 0 {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestATarballFromAServer has a tree that is no machine: its build gets as far as the source.
func TestATarballFromAServer(t *testing.T) {
	folder, served := t.TempDir(), t.TempDir()
	tarball := filepath.Join(served, "root.tar")
	write(t, tarball, string(layerOf(t, [2]string{"etc/"}, [2]string{"etc/large", strings.Repeat("content ", 1<<20)})))
	s := serveFolder(t, served)
	build := func(sum string, args ...string) result {
		write(t, filepath.Join(folder, "install.d/tree.yml"), fmt.Sprintf("source: {tarball: {url: '%s/root.tar?token', sha256: %s}}\n", s.URL, sum))
		return run(t, folder, append([]string{"build", "tree", "--no-test", "--cache", "cache"}, args...)...)
	}
	if r := build(strings.Repeat("0", 64)); r.code != 4 || !strings.Contains(r.stderr, "download root.tar: it has another digest") || strings.Contains(r.stderr, "token") {
		t.Errorf("a wrong digest: exit code %d\n%s", r.code, r.stderr)
	}
	for _, name := range []string{"downloads", "partial"} {
		if left, err := filepath.Glob(filepath.Join(folder, "cache", name, "*-*")); err != nil || len(left) > 0 {
			t.Errorf("kept: %q, %v", left, err)
		}
	}
	sum := strings.Fields(tool(t, "sha256sum", tarball))[0]
	unpacked := regexp.MustCompile(`(?m)^done .* Source$`)
	s.cut.Store(4 << 20)
	if r := build(sum); !unpacked.MatchString(r.stderr) || s.asked.Load() != 1 {
		t.Errorf("after a cut, it went on %d times\n%s", s.asked.Load(), r.stderr)
	}
	s.Close()
	if r := build(sum, "--no-cache", "--offline"); !unpacked.MatchString(r.stderr) {
		t.Errorf("without network\n%s", r.stderr)
	}
	if r := build(sum, "--offline", "--cache", t.TempDir()); r.code != 4 || !strings.Contains(r.stderr, "the store lacks root.tar, sha256:"+sum) {
		t.Errorf("with an empty store: exit code %d\n%s", r.code, r.stderr)
	}
}

// layerOf is an archive of files: a name that ends in a slash is a folder, "a -> b" a link.
func layerOf(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for _, file := range files {
		h := &tar.Header{Name: file[0], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(file[1])), ModTime: time.Unix(1_700_000_000, 0)}
		if name, to, link := strings.Cut(file[0], " -> "); link {
			h.Name, h.Linkname, h.Typeflag = name, to, tar.TypeSymlink
		}
		if strings.HasSuffix(file[0], "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if file[1] == "block device" {
			h.Typeflag, h.Size, h.Devmajor, file[1] = tar.TypeBlock, 0, 8, ""
		}
		if err := out.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, file[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// containerImage writes an OCI layout of an image for two architectures, with the layers
// compressed in different ways.
func containerImage(t *testing.T, folder string, layers ...[]byte) (manifest string) {
	t.Helper()
	blob := func(content []byte) map[string]any {
		sum := sha256.Sum256(content)
		name := hex.EncodeToString(sum[:])
		write(t, filepath.Join(folder, "blobs/sha256", name), string(content))
		return map[string]any{"digest": "sha256:" + name, "size": len(content)}
	}
	document := func(mediaType string, value any) map[string]any {
		content, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		d := blob(content)
		d["mediaType"] = mediaType
		return d
	}
	const prefix = "application/vnd.oci.image."
	var descriptors, plain []any
	for i, layer := range layers {
		sum := sha256.Sum256(layer)
		plain = append(plain, "sha256:"+hex.EncodeToString(sum[:]))
		var packed bytes.Buffer
		kind, out := "layer.v1.tar", io.WriteCloser(nil)
		switch i % 3 {
		case 0:
			kind, out = kind+"+zstd", must(zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedFastest)))
		case 1:
			kind, out = kind+"+gzip", gzip.NewWriter(&packed)
		}
		if out == nil {
			packed.Write(layer)
		} else if _, err := out.Write(layer); err != nil || out.Close() != nil {
			t.Fatal(err)
		}
		d := blob(packed.Bytes())
		d["mediaType"] = prefix + kind
		descriptors = append(descriptors, d)
	}
	config := document(prefix+"config.v1+json", map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": plain}})
	ours := document(prefix+"manifest.v1+json", map[string]any{"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json", "config": config, "layers": descriptors})
	manifest = ours["digest"].(string)
	ours["platform"] = map[string]any{"os": "linux", "architecture": "amd64"}
	index := document(prefix+"index.v1+json", map[string]any{"schemaVersion": 2, "mediaType": prefix + "index.v1+json", "manifests": []any{ours}})
	index["annotations"] = map[string]any{"org.opencontainers.image.ref.name": "13"}
	top, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{index}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "index.json"), string(top))
	write(t, filepath.Join(folder, "oci-layout"), `{"imageLayoutVersion": "1.0.0"}`)
	return manifest
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// TestAContainerImageBecomesAMachine takes one out of a registry that has neither a kernel nor
// Python, adds a kernel, and boots it.
func TestAContainerImageBecomesAMachine(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	tool(t, "mmdebstrap", "--variant=minbase", "--mode=root", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "trixie", at("base.tar"))
	base := must(os.ReadFile(at("base.tar")))
	manifest := containerImage(t, at("image"), base,
		layerOf(t, [2]string{"opt/app/"}, [2]string{"opt/app/old", "old"}, [2]string{"opt/app/kept", "kept"}, [2]string{"usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"}, [2]string{".dockerenv"}),
		layerOf(t, [2]string{"opt/app/.wh.old"}, [2]string{"opt/app/new", "new"}, [2]string{"dev/console", "block device"}))
	registry := olaregInProcess(t)
	tool(t, "skopeo", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", "oci:"+at("image")+":13", "docker://"+registry.host+"/lab/debian:13")
	write(t, at("install.d/box.yml"), fmt.Sprintf(`source: {oci: {image: '%s/lab/debian:13'}}
disk: {layout: bios, size: 1G}
install:
  - packages: [linux-image-cloud-amd64, systemd-sysv, udev]
`, registry.host))
	good(t, folder, "build", "box", "--format", "raw")
	var record struct {
		Pinned struct{ Digest string }
		Tested bool
	}
	readJSON(t, at("images/box/build.json"), &record)
	if record.Pinned.Digest != manifest || !record.Tested {
		t.Errorf("%+v, want %s", record, manifest)
	}
	d := openDisk(t, at("images/box/box-amd64.raw"))
	if got := fmt.Sprint(d.ls("/opt/app"), d.cat("/opt/app/kept"), d.stat("/usr/sbin/policy-rc.d"), d.stat("/.dockerenv")); got != "[kept new]kept" {
		t.Errorf("%s", got)
	}
	if r := good(t, folder, "build", "box", "--format", "raw", "--offline"); !strings.Contains(r.stderr, "unchanged") {
		t.Errorf("without network\n%s", r.stderr)
	}
}

// TestHostileContainerImages has layouts that mean harm, or are damaged.
func TestHostileContainerImages(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	write(t, at("install.d/box.yml"), "source: {oci: {image: 'oci:image:13'}}\n")
	for name, tc := range map[string]struct {
		layer []byte
		spoil func(layout, manifest string)
		want  string
		code  int
	}{
		"a device":            {layer: layerOf(t, [2]string{"srv/disk", "block device"}), want: `"srv/disk": the tree of an image can have no device nodes`, code: 4},
		"no archive":          {layer: []byte("this is no archive at all"), want: "damaged", code: 4},
		"links that lead out": {layer: layerOf(t, [2]string{"etc -> ../../../../../../etc"}, [2]string{"etc/vmctl-was-here", "x"}), want: "too many levels of symbolic links", code: 4},
		"names that lead out": {layer: layerOf(t, [2]string{"../../../../../../etc/vmctl-was-here", "x"}), want: "has no apt", code: 4},
		"another digest": {layer: layerOf(t), want: "another digest", code: 4, spoil: func(layout, manifest string) {
			var m struct{ Layers []struct{ Digest string } }
			readJSON(t, filepath.Join(layout, "blobs/sha256", strings.TrimPrefix(manifest, "sha256:")), &m)
			blob := filepath.Join(layout, "blobs/sha256", strings.TrimPrefix(m.Layers[0].Digest, "sha256:"))
			content := must(os.ReadFile(blob))
			content[len(content)-1] ^= 1
			write(t, blob, string(content))
		}},
		"no such layout": {layer: layerOf(t), want: "no such file", code: 6, spoil: func(layout, _ string) { _ = os.Remove(filepath.Join(layout, "index.json")) }},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.RemoveAll(at("install.d/image"))
			manifest := containerImage(t, at("install.d/image"), tc.layer)
			if tc.spoil != nil {
				tc.spoil(at("install.d/image"), manifest)
			}
			r := run(t, folder, "build", "box", "--no-test", "--cache", t.TempDir())
			if r.code != tc.code || !strings.Contains(r.stderr, tc.want) {
				t.Errorf("exit code %d\n%s", r.code, r.stderr)
			}
			if _, err := os.Lstat("/etc/vmctl-was-here"); err == nil {
				t.Error("it wrote to the host")
			}
		})
	}
}

// TestACloudImage takes the files of the shipped build out of a server that is laid out as
// Debian's own: on a new disk of the same layout they are what they were.
func TestACloudImage(t *testing.T) {
	t.Parallel()
	folder, official := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	latest := filepath.Join(official, "trixie/latest")
	const name = "debian-13-genericcloud-amd64.qcow2"
	original := debian(t)
	if err := os.MkdirAll(latest, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "cp", original.image("qcow2"), filepath.Join(latest, name))
	s := serveFolder(t, official)
	write(t, at("install.d/cloud.yml"), fmt.Sprintf("source: {cloudimage: {suite: trixie, flavour: genericcloud, mirror: '%s'}}\nhostname: debian\n", s.URL))
	build := []string{"build", "cloud", "--no-test", "--format", "raw", "--cache", at("cache")}
	write(t, filepath.Join(latest, "SHA512SUMS"), strings.Repeat("0", 128)+"  "+name+"\n")
	if r := run(t, folder, build...); r.code != 4 || !strings.Contains(r.stderr, name+": it has another digest") {
		t.Errorf("a broken sum: exit code %d\n%s", r.code, r.stderr)
	}
	for _, where := range []string{"downloads", "partial"} {
		if left, err := filepath.Glob(at("cache/" + where + "/*-*")); err != nil || len(left) > 0 {
			t.Errorf("kept: %q, %v", left, err)
		}
	}
	sum := strings.Fields(tool(t, "sha512sum", filepath.Join(latest, name)))[0]
	write(t, filepath.Join(latest, "SHA512SUMS"), sum+"  "+name+"\n")
	s.cut.Store(50 << 20)
	good(t, folder, build...)
	if s.asked.Load() != 1 {
		t.Errorf("after a cut, it went on %d times", s.asked.Load())
	}
	var record struct {
		Version string
		Pinned  struct{ Digest string }
	}
	readJSON(t, at("images/cloud/build.json"), &record)
	if record.Pinned.Digest != "sha512:"+sum || record.Version != "13" {
		t.Errorf("%+v", record)
	}
	r := run(t, folder, "diff", original.image("raw"), at("images/cloud/cloud-13-amd64.raw"))
	for line := range strings.Lines(r.stdout) {
		path, _, is := strings.Cut(strings.TrimSpace(line), ": ")
		if is && strings.HasPrefix(path, "/") && !ofTheDisk.MatchString(path) {
			t.Errorf("differs: %s", line)
		}
	}
	if r.code != 1 || !strings.Contains(r.stdout, "/etc/fstab") {
		t.Errorf("exit code %d\n%s", r.code, r.stdout)
	}
}

// ofTheDisk is files that tell which disk they are on, and folders that sealing or FAT dates.
var ofTheDisk = regexp.MustCompile(`^/(etc/fstab|boot/grub/grub\.cfg|boot/grub/i386-pc/core\.img|boot/initrd\.img-.*|EFI/.*/grub\.cfg|boot/efi|var/tmp)$`)

// TestHostileDiskImages has images that would show a file of the host, and such as hold no
// machine.
func TestHostileDiskImages(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	secret := filepath.Join(folder, "secret")
	write(t, secret, endless())
	refused := map[string]string{"empty": "no Linux root file system", "cut.xz": "damaged", "text": "no Linux root file system", "two.tar": "several disk images", "huge.qcow2": "no more than"}
	at := func(name string) string { return filepath.Join(folder, "images", name) }
	write(t, at("empty"), "")
	write(t, at("cut.xz"), "\xfd7zXZ\x00\x00\x04")
	write(t, at("text"), strings.Repeat("this is no image\n", 10_000))
	write(t, at("two.tar"), string(layerOf(t, [2]string{"a.raw", "x"}, [2]string{"../b.raw", "x"})))
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", at("huge.qcow2"), "17T")
	images := hostileImages(t, secret)
	for name := range refused {
		images[name] = at(name)
	}
	for name, path := range images {
		t.Run(name, func(t *testing.T) {
			write(t, filepath.Join(folder, "install.d/box.yml"), "source: {cloudimage: {file: '"+path+"'}}\n")
			r := run(t, folder, "build", "box", "--no-test", "--cache", filepath.Join(folder, "cache"))
			want := refused[name]
			if want == "" {
				want = ": it"
			}
			if r.code != 4 || !strings.Contains(r.stderr, want) {
				t.Errorf("exit code %d\n%s", r.code, r.stderr)
			}
		})
	}
}
