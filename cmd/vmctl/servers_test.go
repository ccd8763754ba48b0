package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"
)

// makeRelease is "release FOLDER": what a build leaves.
func makeRelease(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(writeBuild(ts.MkAbs(args[0])))
}

// writeBuild writes the folder of a build.
func writeBuild(folder string) error {
	name := filepath.Base(folder)
	disk := bytes.Repeat([]byte("a disk of "+name+"\n"), 1<<17)
	sum := digest.FromBytes(disk).Encoded()
	files := map[string]string{
		name + ".qcow2": string(disk),
		"boot-bios.log": "login:\n",
		"packages.json": `[{"name": "bash", "version": "5.2", "architecture": "amd64", "source": "bash", "source_version": "5.2"}]`,
		"build.json": fmt.Sprintf(`{"id": "3d0c2b1a-0000-4000-8000-000000000000", "name": %q, "version": "13", "architecture": "amd64", "vmctl": "test",
			"created": "2026-01-02T03:04:05Z", "tested": true, "disk": {"size": %[2]d, "sha256": %[3]q}, "definition": {"name": %[1]q},
			"outputs": [{"name": "%[1]s.qcow2", "format": "qcow2", "size": %[2]d, "virtual_size": %[2]d, "sha256": %[3]q}],
			"boot": [{"firmware": "bios", "passed": true, "proof": "report", "accel": "tcg", "seconds": 30}]}`, name, len(disk), sum),
	}
	err := os.MkdirAll(folder, 0o755)
	sums := ""
	for file, content := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(folder, file), []byte(content), 0o644))
		sums += digest.FromString(content).Encoded() + "  " + file + "\n"
	}
	return errors.Join(err, os.WriteFile(filepath.Join(folder, "SHA256SUMS"), []byte(sums), 0o644))
}

// startRegistry is "registry VARIABLE [h2] [USER:PASSWORD]": a registry of this
// process, over TLS and with HTTP/2 where that is said. The variable gets its
// host and port; its certificate is in ca.pem, with its key in key.pem.
func startRegistry(ts *testscript.TestScript, _ bool, args []string) {
	registry := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}})
	h2, want := false, ""
	for _, arg := range args[1:] {
		if h2 = h2 || arg == "h2"; arg != "h2" {
			want = "Basic " + base64.StdEncoding.EncodeToString([]byte(arg))
		}
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want != "" && r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	if server.EnableHTTP2 = h2; h2 {
		server.StartTLS()
		key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
		ts.Check(err)
		writePEM(ts, "key.pem", "PRIVATE KEY", key)
		writePEM(ts, "ca.pem", "CERTIFICATE", server.Certificate().Raw)
	} else {
		server.Start()
	}
	_, host, _ := strings.Cut(server.URL, "://")
	ts.Setenv(args[0], host)
	ts.Defer(func() {
		server.CloseClientConnections()
		server.Close()
		_ = registry.Close()
	})
}

func writePEM(ts *testscript.TestScript, name, kind string, der []byte) {
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// startServe is "serve VARIABLE ARG…": "vmctl serve ARG…", which ends with the
// script. The variable gets its host and port; serve.log gets its standard error.
func startServe(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("vmctl", append([]string{"serve", "--listen", "127.0.0.1:0"}, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	for _, variable := range []string{"HOME", "PATH", "DOCKER_CONFIG", "SSL_CERT_FILE"} {
		cmd.Env = append(cmd.Env, variable+"="+ts.Getenv(variable))
	}
	log, err := os.Create(filepath.Join(ts.Getenv("WORK"), "serve.log"))
	ts.Check(err)
	ts.Defer(func() { _ = log.Close() })
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			ts.Fatalf("vmctl serve ends with %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		ts.Fatalf("vmctl serve says no URL: %v", err)
	}
	u, err := url.Parse(strings.TrimSpace(line))
	ts.Check(err)
	ts.Setenv(args[0], u.Host)
}
