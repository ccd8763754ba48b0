package registry

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

func TestCredentials(t *testing.T) {
	const secret = "hunter2-of-the-registry"
	server := registrytest.Start(t, registrytest.BasicAuth("alice", secret))
	ref := in(t, server, "debian")
	host := ref.Host()
	dockerConfig := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("alice:"+secret)))
	for name, tc := range map[string]struct {
		access Access
		env    map[string]string
		file   string
		denied bool
	}{
		"none":               {denied: true},
		"flags":              {access: Access{Username: "alice", Password: secret}},
		"wrong flags":        {access: Access{Username: "alice", Password: secret + "!"}, denied: true},
		"docker's file":      {file: dockerConfig},
		"DOCKER_AUTH_CONFIG": {env: map[string]string{"DOCKER_AUTH_CONFIG": dockerConfig}},
		"GitLab":             {env: map[string]string{"CI_REGISTRY": host, "CI_REGISTRY_USER": "alice", "CI_REGISTRY_PASSWORD": secret}},
		"GitLab elsewhere":   {env: map[string]string{"CI_REGISTRY": "registry.example", "CI_REGISTRY_USER": "alice", "CI_REGISTRY_PASSWORD": secret}, denied: true},
	} {
		t.Run(name, func(t *testing.T) {
			registrytest.OwnConfig(t)
			for key, value := range tc.env {
				t.Setenv(key, value)
			}
			if tc.file != "" {
				if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(tc.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := send(t, tc.access, ref, "disk")
			if !tc.denied && err != nil {
				t.Error(err)
			}
			if tc.denied && (fail.ExitCode(err) != 6 || !strings.Contains(fail.Hint(err), "vmctl login "+host)) {
				t.Errorf("%v; hint %s", err, fail.Hint(err))
			}
			if err != nil && strings.Contains(err.Error()+fail.Hint(err), secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

func TestLoginKeepsWhatTheRegistryAccepts(t *testing.T) {
	registrytest.OwnConfig(t)
	ref := in(t, registrytest.Start(t, registrytest.BasicAuth("alice", "hunter2")), "debian")
	if _, err := (Access{Username: "alice", Password: "wrong"}).Login(t.Context(), ref.Host()); fail.ExitCode(err) != 6 {
		t.Errorf("a wrong password: %v", err)
	}
	if err := send(t, Access{}, ref, "disk"); err == nil {
		t.Error("a wrong password was kept, or none is needed")
	}
	if _, err := (Access{Username: "alice", Password: "hunter2"}).Login(t.Context(), ref.Host()); err != nil {
		t.Fatal(err)
	}
	if err := send(t, Access{}, ref, "disk"); err != nil {
		t.Error(err)
	}
	if err := Logout(t.Context(), ref.Host()); err != nil {
		t.Fatal(err)
	}
	if err := send(t, Access{}, ref, "another disk"); fail.ExitCode(err) != 6 {
		t.Errorf("after logout: %v", err)
	}
}

// TestTokenServerOfAPrivateGitLab has the registry and its token server on two
// hosts of a private network.
func TestTokenServerOfAPrivateGitLab(t *testing.T) {
	registrytest.OwnConfig(t)
	gitlab := registrytest.Start(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/jwt/auth" || r.URL.Query().Get("service") != "container_registry" {
				t.Errorf("the token server is asked for %s", r.URL)
			}
			fmt.Fprint(w, `{"token": "good"}`)
		})
	})
	realm := strings.Replace(gitlab.URL, "127.0.0.1", "localhost", 1) + "/jwt/auth"
	server := registrytest.Start(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer good" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="container_registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := in(t, server, "debian")
	if err := send(t, Access{}, ref, "disk"); fail.ExitCode(err) != 6 || !strings.Contains(fail.Hint(err), "CI_SERVER_HOST") {
		t.Errorf("a token server that nobody vouches for: %v; hint %s", err, fail.Hint(err))
	}
	t.Setenv("CI_SERVER_HOST", "localhost")
	if err := send(t, Access{}, ref, "disk"); err != nil {
		t.Error(err)
	}
}

// TestCredentialHelper has a helper as Docker's configuration names it.
func TestCredentialHelper(t *testing.T) {
	registrytest.OwnConfig(t)
	ref := in(t, registrytest.Start(t, registrytest.BasicAuth("alice", "hunter2")), "debian")
	bin := t.TempDir()
	helper := "#!/bin/sh\ntest \"$1\" = get && echo '{\"Username\": \"alice\", \"Secret\": \"hunter2\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	config := fmt.Sprintf(`{"credHelpers": {%q: "test"}}`, ref.Host())
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := send(t, Access{}, ref, "disk"); err != nil {
		t.Error(err)
	}
}

// TestAServiceWithoutAHome reads what is open to all.
func TestAServiceWithoutAHome(t *testing.T) {
	ref := in(t, registrytest.Start(t, nil), "debian")
	if err := send(t, Access{}, ref, "disk"); err != nil {
		t.Error(err)
	}
	t.Setenv("HOME", "")
	t.Setenv("DOCKER_CONFIG", "")
	src, err := Access{}.OpenPlace(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := FetchAll(t.Context(), src, blob("disk"), 100); err != nil || string(content) != "disk" {
		t.Errorf("%q, %v", content, err)
	}
}

// TestOnlyThisMachineIsAskedWithoutTLS makes sure that no password goes over a
// network in the clear unless the user says so.
func TestOnlyThisMachineIsAskedWithoutTLS(t *testing.T) {
	plain := in(t, registrytest.Start(t, nil), "debian").Host()
	_, port, err := net.SplitHostPort(plain)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		plain: true, "localhost:" + port: true, "192.0.2.1:" + port: false, "registry.example:" + port: false, "localhost.example:" + port: false, "registry.example": false,
	} {
		if got := speaksPlain(t.Context(), host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}
