//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/btw-img/btw-img/publish"
)

// with runs vmctl against a registry, with what that registry needs.
func (r registry) with(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := command(t.TempDir(), append(args, r.flags...)...)
	cmd.Env = append(os.Environ(), r.env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	_ = cmd.Run() // the exit code tells
	res := result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	t.Logf("vmctl %s: exit code %d after %.1f s", strings.Join(args, " "), res.code, res.took.Seconds())
	if strings.Contains(res.stdout+res.stderr, registryPassword) {
		t.Errorf("the password is shown:\n%s%s", res.stdout, res.stderr)
	}
	return res
}

func (r registry) good(t *testing.T, args ...string) result {
	t.Helper()
	res := r.with(t, "", args...)
	if res.code != 0 {
		t.Fatalf("exit code %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	return res
}

func pushed(t *testing.T, res result) []publish.Pushed {
	t.Helper()
	var p []publish.Pushed
	res.read(t, &p)
	return p
}

// TestPublishToRegistries pushes the image to three kinds of registry, and reads
// it back with every client. What each client got is the same bytes, and boots.
func TestPublishToRegistries(t *testing.T) {
	t.Parallel()
	rebuilt := t.TempDir() // at another time, with nothing changed
	good(t, rebuilt, "build", "debian", "--format", "raw,qcow2,vmdk")
	b := debianOf(t, filepath.Join(rebuilt, "images/debian"), "--format", "raw,qcow2,vmdk")
	for name, open := range map[string]func(*testing.T) registry{
		"olareg, with referrers": olaregInProcess, "docker-registry, without referrers": plainRegistry, "TLS and password": lockedRegistry,
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			key, public := signingKey(t)
			ref := r.host + "/lab/debian"
			if r.user != "" {
				r.logIn(t)
			}
			push := []string{"push", b.folder, ref, "--container-disk", "--sign-key", key, "--json"}
			first := pushed(t, r.good(t, push...))
			if len(first) != 4 || first[0].Uploaded == 0 {
				t.Fatalf("%+v", first)
			}
			push[1] = filepath.Join(rebuilt, "images/debian")
			for _, p := range pushed(t, r.good(t, push...)) {
				if p.Uploaded != 0 || p.Tags[0] != first[0].Tags[0]+strings.TrimPrefix(p.Tags[0], first[0].Tags[0]) {
					t.Errorf("pushed again: %+v", p)
				}
			}
			verified := r.good(t, "verify", ref+":13", "--key", public)
			if strings.Count(verified.stdout, "ok ") != 7 {
				t.Error(verified.stdout)
			}
			if told := r.good(t, "inspect", ref).stdout; !strings.Contains(told, "boot secureboot  came up") || !strings.Contains(told, "formats          qcow2, raw, vmdk, containerdisk") {
				t.Error(told)
			}
			if console := r.good(t, "inspect", ref, "--file", "boot-uefi.log").stdout; !strings.Contains(console, "Linux version") {
				t.Error("the console is not attached")
			}
			if r.collect != nil {
				r.collect(t)
				r.good(t, "verify", ref+":13", "--key", public)
				r.good(t, "verify", ref+":13-raw", "--key", public)
			}
			r.signatureIsPlainDSSE(t, "lab/debian", public)
			for client, fetch := range map[string]func(*testing.T, string) string{
				"vmctl": r.pullWithVmctl, "oras": r.pullWithOras, "skopeo": r.pullWithSkopeo, "curl": r.pullWithCurl,
			} {
				t.Run("pull with "+client, func(t *testing.T) {
					path := fetch(t, "lab/debian")
					if got := strings.Fields(tool(t, "sha256sum", path))[0]; got != b.manifest.Outputs[0].SHA256 {
						t.Fatalf("%s is another disk: %s", path, got)
					}
					if r.collect != nil && client == "vmctl" { // once: the bytes are the same everywhere, before and after
						good(t, t.TempDir(), "test", path, "--firmware", "bios", "--logs", t.TempDir())
						if got := strings.Fields(tool(t, "sha256sum", path))[0]; got != b.manifest.Outputs[0].SHA256 {
							t.Errorf("the boot test changed %s", path)
						}
					}
				})
			}
			vmdk := strings.TrimSpace(r.good(t, "pull", ref, "--format", "vmdk", "-o", t.TempDir()).stdout)
			tool(t, "qemu-img", "compare", "-f", "vmdk", "-F", "raw", vmdk, b.image("raw"))
			raw := t.TempDir()
			r.good(t, "pull", ref+":13", "--format", "raw", "-o", raw)
			tool(t, "cmp", b.image("raw"), filepath.Join(raw, "debian-13-amd64.raw"))
			var stat syscall.Stat_t
			if err := syscall.Stat(filepath.Join(raw, "debian-13-amd64.raw"), &stat); err != nil || stat.Blocks*512 > stat.Size/2 {
				t.Errorf("the pulled raw image takes %d of %d bytes: %v", stat.Blocks*512, stat.Size, err)
			}
			r.containerDiskIsAnImage(t, "lab/debian")
		})
	}
}

// logIn shows that nothing goes without a password, and keeps it.
func (r registry) logIn(t *testing.T) {
	t.Helper()
	ref := r.host + "/lab/debian"
	if res := r.with(t, "", "inspect", ref); res.code != 6 || !strings.Contains(res.stderr, "vmctl login "+r.host) {
		t.Errorf("without a password: exit code %d\n%s", res.code, res.stderr)
	}
	if res := r.with(t, "wrong", "login", r.host, "--username", r.user, "--password-stdin"); res.code != 6 {
		t.Errorf("a wrong password: exit code %d\n%s", res.code, res.stderr)
	}
	if res := r.with(t, r.password+"\n", "login", r.host, "--username", r.user, "--password-stdin"); res.code != 0 {
		t.Fatalf("login: exit code %d\n%s", res.code, res.stderr)
	}
	r.flags = nil // of this copy
	if res := r.with(t, "", "inspect", ref); res.code != 6 || !strings.Contains(res.stderr, "--ca-file") {
		t.Errorf("without the authority: exit code %d\n%s", res.code, res.stderr)
	}
}

func signingKey(t *testing.T) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	tool(t, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private)
	tool(t, "openssl", "pkey", "-in", private, "-pubout", "-out", public)
	return private, public
}

// leaf is the manifest of the release for amd64, read over plain HTTP.
func (r registry) leaf(t *testing.T, repository, tag string) (digest string, m ocispec.Manifest) {
	t.Helper()
	var index ocispec.Index
	if err := json.Unmarshal(r.get(t, "/v2/"+repository+"/manifests/"+tag, ocispec.MediaTypeImageIndex), &index); err != nil {
		t.Fatal(err)
	}
	digest = index.Manifests[0].Digest.String()
	if err := json.Unmarshal(r.get(t, "/v2/"+repository+"/manifests/"+digest, ocispec.MediaTypeImageManifest), &m); err != nil {
		t.Fatal(err)
	}
	return digest, m
}

// signatureIsPlainDSSE checks the signature of the leaf with openssl, by what
// the DSSE specification says.
func (r registry) signatureIsPlainDSSE(t *testing.T, repository, public string) {
	t.Helper()
	digest, _ := r.leaf(t, repository, "13")
	var tagged struct{ Tags []string }
	if err := json.Unmarshal(r.get(t, "/v2/"+repository+"/tags/list", "application/json"), &tagged); err != nil {
		t.Fatal(err)
	}
	for _, tag := range tagged.Tags {
		if !strings.HasSuffix(tag, "-amd64.sig") || strings.Contains(tag, "raw") || strings.Contains(tag, "container") {
			continue
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(r.get(t, "/v2/"+repository+"/manifests/"+tag, ocispec.MediaTypeImageManifest), &m); err != nil {
			t.Fatal(err)
		}
		var bundle struct {
			DsseEnvelope struct {
				Payload, PayloadType string
				Signatures           []struct{ Sig []byte }
			}
		}
		if err := json.Unmarshal(r.get(t, "/v2/"+repository+"/blobs/"+m.Layers[0].Digest.String(), "*/*"), &bundle); err != nil {
			t.Fatal(err)
		}
		e := bundle.DsseEnvelope
		payload, err := base64.StdEncoding.DecodeString(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(payload, []byte(strings.TrimPrefix(digest, "sha256:"))) {
			t.Errorf("what is signed does not name %s: %s", digest, payload)
		}
		dir := t.TempDir()
		write(t, filepath.Join(dir, "pae"), fmt.Sprintf("DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload))
		write(t, filepath.Join(dir, "sig"), string(e.Signatures[0].Sig))
		tool(t, "openssl", "dgst", "-sha256", "-verify", public, "-signature", filepath.Join(dir, "sig"), filepath.Join(dir, "pae"))
		return
	}
	t.Errorf("no signature among %v", tagged.Tags)
}

func (r registry) pullWithVmctl(t *testing.T, repository string) string {
	dir := t.TempDir()
	return strings.TrimSpace(r.good(t, "pull", r.host+"/"+repository, "-o", dir).stdout)
}

// pullWithOras does what "oras pull REF" does, with the library that it is made
// of: the command itself is not packaged for Debian.
func (r registry) pullWithOras(t *testing.T, repository string) string {
	src, err := remote.NewRepository(r.host + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	src.PlainHTTP = r.user == ""
	src.Client = &auth.Client{Client: r.client, Credential: auth.StaticCredential(r.host, auth.Credential{Username: r.user, Password: r.password})}
	dir := t.TempDir()
	store, err := file.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if _, err := oras.Copy(t.Context(), src, "13", store, "", oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("oras pull gives %v, %v", files, err)
	}
	return filepath.Join(dir, files[0].Name())
}

func (r registry) skopeo(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("skopeo", args...)
	cmd.Env = append(os.Environ(), r.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (r registry) skopeoFlags() []string {
	if r.user == "" {
		return []string{"--src-tls-verify=false"}
	}
	return []string{"--src-cert-dir", filepath.Dir(r.flags[1])}
}

func (r registry) pullWithSkopeo(t *testing.T, repository string) string {
	dir := filepath.Join(t.TempDir(), "dir")
	r.skopeo(t, append(append([]string{"copy"}, r.skopeoFlags()...), "docker://"+r.host+"/"+repository+":13", "dir:"+dir)...)
	_, m := r.leaf(t, repository, "13")
	return filepath.Join(dir, m.Layers[0].Digest.Encoded())
}

func (r registry) pullWithCurl(t *testing.T, repository string) string {
	_, m := r.leaf(t, repository, "13")
	path := filepath.Join(t.TempDir(), m.Layers[0].Annotations[ocispec.AnnotationTitle])
	args := []string{"--fail", "--silent", "--show-error", "--location", "-o", path, r.url("/v2/" + repository + "/blobs/" + m.Layers[0].Digest.String())}
	if r.user != "" {
		netrc := filepath.Join(t.TempDir(), "netrc")
		write(t, netrc, fmt.Sprintf("machine 127.0.0.1 login %s password %s\n", r.user, r.password))
		args = append(args, "--cacert", r.flags[1], "--netrc-file", netrc)
	}
	tool(t, "curl", args...)
	return path
}

// containerDiskIsAnImage copies it with skopeo and looks into it with tar.
func (r registry) containerDiskIsAnImage(t *testing.T, repository string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dir")
	r.skopeo(t, append(append([]string{"copy"}, r.skopeoFlags()...), "docker://"+r.host+"/"+repository+":13-containerdisk", "dir:"+dir)...)
	var config ocispec.Image
	_, m := r.leaf(t, repository, "13-containerdisk")
	readJSON(t, filepath.Join(dir, m.Config.Digest.Encoded()), &config)
	if config.Architecture != "amd64" || config.OS != "linux" {
		t.Errorf("%+v", config)
	}
	listing := tool(t, "tar", "--numeric-owner", "-tvf", filepath.Join(dir, m.Layers[0].Digest.Encoded()))
	if !strings.Contains(listing, "107/107") || !strings.Contains(listing, "disk/debian-13-amd64.qcow2") {
		t.Error(listing)
	}
}

// TestPullOntoAFullDisk leaves nothing behind and says what is missing.
func TestPullOntoAFullDisk(t *testing.T) {
	t.Parallel()
	r := olaregInProcess(t)
	r.good(t, "push", debian(t).folder, r.host+"/debian")
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	for _, format := range []string{"qcow2", "raw"} { // of a raw image, only the data has to fit
		res := r.with(t, "", "pull", r.host+"/debian", "--format", format, "-o", dir)
		if res.code != 3 || !strings.Contains(res.stderr, "no space left") || !strings.Contains(res.stderr, "-o") {
			t.Errorf("%s: exit code %d\n%s", format, res.code, res.stderr)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: left are %v, %v", format, left, err)
		}
	}
}

// TestKilledPushAndPull are gone on with by the next.
func TestKilledPushAndPull(t *testing.T) {
	t.Parallel()
	r := plainRegistry(t)
	b := debian(t)
	ref := r.host + "/debian"
	kill := func(dir string, after func() bool, args ...string) {
		t.Helper()
		cmd := command(dir, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !after() && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			t.Errorf("vmctl %v ended before it could be killed", args)
		}
	}
	start := time.Now()
	kill(t.TempDir(), func() bool { return time.Since(start) > time.Second }, "push", b.folder, ref)
	if res := r.with(t, "", "inspect", ref); res.code != 6 {
		t.Errorf("a killed push is visible: exit code %d\n%s", res.code, res.stdout)
	}
	r.good(t, "push", b.folder, ref)

	dir := t.TempDir()
	part := func() int64 {
		files, _ := filepath.Glob(filepath.Join(dir, ".*.part"))
		if len(files) != 1 {
			return 0
		}
		info, err := os.Stat(files[0])
		if err != nil {
			return 0
		}
		return info.Size()
	}
	kill(dir, func() bool { return part() > 200<<20 }, "pull", ref, "--format", "raw", "-o", dir)
	if _, err := os.Stat(filepath.Join(dir, "debian-13-amd64.raw")); err == nil {
		t.Error("a killed pull leaves a file under the final name")
	}
	have := part()
	var p publish.Pulled
	r.good(t, "pull", ref, "--format", "raw", "-o", dir, "--json").read(t, &p)
	t.Logf("%d MB were there, %d MB were fetched", have/1e6, p.Received/1e6)
	if p.Received != p.Size-have || have == 0 {
		t.Errorf("of %d bytes, %d were there and %d were fetched", p.Size, have, p.Received)
	}
	tool(t, "cmp", b.image("raw"), filepath.Join(dir, "debian-13-amd64.raw"))
}

// fakeBuild is a folder as a build leaves it, around a disk that no machine boots.
func fakeBuild(t *testing.T, folder, id string) {
	t.Helper()
	disk := strings.Repeat("the disk of "+id+"\n", 1<<17)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(disk)))
	write(t, filepath.Join(folder, "debian.qcow2"), disk)
	write(t, filepath.Join(folder, "packages.json"), "[]")
	write(t, filepath.Join(folder, "boot-bios.log"), "login:\n")
	write(t, filepath.Join(folder, "build.json"), fmt.Sprintf(`{"id": %q, "name": "debian", "version": "13", "architecture": "amd64",
		"created": "2026-01-02T03:04:05Z", "tested": true, "disk": {"size": %[2]d, "sha256": %[3]q}, "definition": {"name": "debian"},
		"outputs": [{"name": "debian.qcow2", "format": "qcow2", "size": %[2]d, "virtual_size": %[2]d, "sha256": %[3]q}],
		"boot": [{"firmware": "bios", "passed": true, "proof": "report", "accel": "tcg", "seconds": 30}]}`, id, len(disk), sum))
	tool(t, "sh", "-c", "cd '"+folder+"' && rm -f SHA256SUMS && sha256sum * > SHA256SUMS")
}

// user is an ordinary user's number.
const user = 54321

// asUser runs vmctl as that user.
func asUser(t *testing.T, dir string, args ...string) result {
	t.Helper()
	cmd := command(dir, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// TestWhatSudoPublishesBelongsToItsCaller has root and an ordinary user publish to
// the same layouts in turn.
func TestWhatSudoPublishesBelongsToItsCaller(t *testing.T) {
	dir := t.TempDir()
	tool(t, "chmod", "755", filepath.Dir(dir)) // for the user
	images := filepath.Join(dir, "images")
	ours := func() {
		t.Helper()
		if foreign := strings.Fields(tool(t, "find", dir, "!", "-uid", fmt.Sprint(user))); len(foreign) > 0 {
			t.Errorf("root's are %v", foreign)
		}
	}
	fakeBuild(t, filepath.Join(images, "debian"), "one")
	tool(t, "chown", "-R", fmt.Sprintf("%d:%d", user, user), dir)

	t.Setenv("SUDO_UID", fmt.Sprint(user))
	t.Setenv("SUDO_GID", fmt.Sprint(user))
	good(t, dir, "push", "debian")
	good(t, dir, "push", "debian", "oci:other/layouts/debian")
	good(t, dir, "push", "debian", "oci-archive:debian.tar")
	good(t, dir, "pull", "oci:images/oci/debian", "-o", "pulled/here")
	ours()
	fakeBuild(t, filepath.Join(images, "debian"), "two")
	tool(t, "chown", "-R", fmt.Sprintf("%d:%d", user, user), filepath.Join(images, "debian"))
	host := served(t, dir) // which publishes the build before it listens
	if in := inspection(t, registry{host: host}, host+"/debian"); in.Config.Build != "two" {
		t.Errorf("offered is %s", in.Config.Build)
	}
	ours()
	fakeBuild(t, filepath.Join(images, "debian"), "three")
	if res := asUser(t, dir, "push", "debian"); res.code != 0 || !strings.Contains(res.stdout, "13-20260102.3") {
		t.Errorf("the user's push after root's: exit code %d\n%s", res.code, res.stderr)
	}

}

// TestWhatIsRootsComesWithACure has an ordinary user publish to what root made
// without sudo, and do what the error says.
func TestWhatIsRootsComesWithACure(t *testing.T) {
	dir := t.TempDir()
	tool(t, "chmod", "755", filepath.Dir(dir)) // for the user
	t.Setenv("SUDO_UID", "")
	fakeBuild(t, filepath.Join(dir, "images/debian"), "one")
	good(t, dir, "push", "debian", "oci:roots")
	good(t, dir, "pull", "oci:roots", "-o", "roots-pull")
	fakeBuild(t, filepath.Join(dir, "images/debian"), "two")
	good(t, dir, "push", "debian", "oci:other")
	caller := fmt.Sprintf("%d:%d", user, user)
	tool(t, "chown", caller, dir) // root would not have worked in it
	tool(t, "chown", "-R", caller, filepath.Join(dir, "images"), filepath.Join(dir, "other"))
	for layout, args := range map[string][]string{"roots": {"push", "debian", "oci:roots"}, "roots-pull": {"pull", "oci:other", "-o", "roots-pull", "--overwrite"}} {
		res := asUser(t, dir, args...)
		_, cure, told := strings.Cut(res.stderr, "run: sudo ")
		if res.code != 3 || !told || !strings.Contains(cure, layout) {
			t.Errorf("vmctl %v in what is root's: exit code %d\n%s", args, res.code, res.stderr)
			continue
		}
		cmd := exec.Command("sh", "-c", cure)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", cure, err, out)
		}
		if res := asUser(t, dir, args...); res.code != 0 {
			t.Errorf("vmctl %v after the cure: exit code %d\n%s", args, res.code, res.stderr)
		}
	}
}

// TestPushWithoutARegistryGoesToALayout and is read by other tools.
func TestPushWithoutARegistryGoesToALayout(t *testing.T) {
	t.Parallel()
	b := debian(t)
	dir := t.TempDir()
	r := good(t, dir, "push", b.folder, "-o", "images")
	if !strings.HasPrefix(r.stdout, "oci:images/oci/debian:13-") {
		t.Error(r.stdout)
	}
	tool(t, "skopeo", "inspect", "--raw", "oci:"+filepath.Join(dir, "images/oci/debian")+":13")
	good(t, dir, "push", b.folder, "oci-archive:debian.tar")
	good(t, dir, "pull", "oci-archive:debian.tar:13", "-o", "got")
	tool(t, "cmp", b.image("qcow2"), filepath.Join(dir, "got/debian-13-amd64.qcow2"))
	good(t, dir, "verify", "oci:images/oci/debian:13")
}
