//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
	"golang.org/x/crypto/bcrypt"
)

// registry is a registry that runs for a test.
type registry struct {
	host     string // with the port
	flags    []string
	env      []string
	client   *http.Client
	user     string
	password string
	collect  func(t *testing.T) // garbage collection; nil where there is none
}

func (r registry) url(path string) string {
	scheme := "http"
	if r.user != "" {
		scheme = "https"
	}
	return scheme + "://" + r.host + path
}

// get fetches with a plain HTTP client, as curl does.
func (r registry) get(t *testing.T, path, accept string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	if r.user != "" {
		req.SetBasicAuth(r.user, r.password)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", path, resp.Status, err)
	}
	return body
}

// olaregInProcess has native referrers.
func olaregInProcess(t *testing.T) registry {
	t.Helper()
	server := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreDir, RootDir: t.TempDir()}})
	front := httptest.NewServer(server)
	t.Cleanup(func() {
		front.Close()
		_ = server.Close()
	})
	return registry{host: strings.TrimPrefix(front.URL, "http://"), client: http.DefaultClient}
}

// debianRegistry is Debian's docker-registry in a container. It knows of no
// referrers.
func debianRegistry(t *testing.T, env map[string]string, files map[string][]byte) (testcontainers.Container, string) {
	t.Helper()
	docker(t)
	port := freePort(t)
	settings := map[string]string{"REGISTRY_HTTP_ADDR": "127.0.0.1:" + port, "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/data"}
	for key, value := range env {
		settings[key] = value
	}
	c, err := testcontainers.GenericContainer(t.Context(), testcontainers.GenericContainerRequest{
		Started: true,
		ContainerRequest: testcontainers.ContainerRequest{
			FromDockerfile:     testcontainers.FromDockerfile{ContextArchive: registryContext(t, files), KeepImage: false},
			Env:                settings,
			WaitingFor:         wait.ForLog("listening on").WithStartupTimeout(time.Minute),
			HostConfigModifier: func(c *container.HostConfig) { c.NetworkMode = "host" },
		},
	})
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return c, "127.0.0.1:" + port
}

// registryProgram is where Debian's docker-registry is, unpacked once.
var registryProgram = sync.OnceValues(func() (string, error) {
	path, err := exec.Command("./debian-registry.sh", filepath.Join(shared, "docker-registry")).Output()
	return strings.TrimSpace(string(path)), err
})

// registryContext is a build context with the registry and the two libraries
// that it needs.
func registryContext(t *testing.T, files map[string][]byte) io.ReadSeeker {
	t.Helper()
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	add := func(name string, mode int64, content []byte) {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	dockerfile := "FROM scratch\nENTRYPOINT [\"/usr/bin/docker-registry\"]\nCMD [\"serve\", \"/etc/registry.yml\"]\n"
	program, err := registryProgram()
	if err != nil {
		t.Fatalf("get docker-registry: %v", err)
	}
	places := map[string]string{program: "/usr/bin/docker-registry"}
	for _, library := range regexp.MustCompile(`/\S+`).FindAllString(tool(t, "ldd", program), -1) {
		places[library] = library
	}
	for from, to := range places {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(to)
		add(name, 0o755, content)
		dockerfile += fmt.Sprintf("COPY %s %s\n", name, to)
	}
	all := map[string][]byte{"registry.yml": []byte("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: /data}}\nhttp: {addr: ':5000'}\n")}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		add(name, 0o644, content)
		dockerfile += fmt.Sprintf("COPY %s /etc/%s\n", name, name)
	}
	add("Dockerfile", 0o644, []byte(dockerfile))
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// plainRegistry is open to all and speaks no TLS.
func plainRegistry(t *testing.T) registry {
	t.Helper()
	c, host := debianRegistry(t, nil, nil)
	return registry{host: host, client: http.DefaultClient, collect: func(t *testing.T) {
		t.Helper()
		code, out, err := c.Exec(t.Context(), []string{"/usr/bin/docker-registry", "garbage-collect", "-m", "/etc/registry.yml"})
		if err != nil || code != 0 {
			text, _ := io.ReadAll(out)
			t.Fatalf("garbage-collect: %d, %v\n%s", code, err, text)
		}
	}}
}

const registryPassword = "hunter2-of-the-registry"

// lockedRegistry asks for a password, over TLS with an authority of its own.
func lockedRegistry(t *testing.T) registry {
	t.Helper()
	authority, certificate, key := certificates(t)
	hash, err := bcrypt.GenerateFromPassword([]byte(registryPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	_, host := debianRegistry(t, map[string]string{
		"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM": "registry", "REGISTRY_AUTH_HTPASSWD_PATH": "/etc/htpasswd",
		"REGISTRY_HTTP_TLS_CERTIFICATE": "/etc/registry.pem", "REGISTRY_HTTP_TLS_KEY": "/etc/registry.key",
	}, map[string][]byte{"htpasswd": fmt.Appendf(nil, "alice:%s\n", hash), "registry.pem": certificate, "registry.key": key})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.crt"), string(authority))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return registry{
		host: host, user: "alice", password: registryPassword, flags: []string{"--ca-file", filepath.Join(dir, "ca.crt")},
		env:    []string{"DOCKER_CONFIG=" + filepath.Join(dir, "docker"), "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "docker", "config.json")},
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}},
	}
}

// certificates is an authority, and a certificate of it for this machine, in PEM.
func certificates(t *testing.T) (authority, certificate, key []byte) {
	t.Helper()
	make509 := func(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of the test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.MarshalECPrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	return make509(ca, ca, &caKey.PublicKey, caKey), make509(leaf, ca, &serverKey.PublicKey, caKey), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
