// Package registrytest is registries for tests alone.
package registrytest

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

// Start starts a registry in this process, with something in front, or nil.
func Start(t *testing.T, front func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	registry := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}})
	var handler http.Handler = registry
	if front != nil {
		handler = front(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		_ = registry.Close()
	})
	return server
}

// Repository is the reference of a repository of a server, HOST:PORT/REPOSITORY.
func Repository(server *httptest.Server, repository string) string {
	_, host, _ := strings.Cut(server.URL, "://")
	return host + "/" + repository
}

// BasicAuth asks for a user and a password.
func BasicAuth(user, password string) func(http.Handler) http.Handler {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != want {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Main runs the tests of a package without the tester's own credentials.
func Main(m *testing.M) {
	for _, variable := range []string{"DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "CI_REGISTRY", "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD", "CI_SERVER_HOST"} {
		if err := os.Unsetenv(variable); err != nil {
			panic(err)
		}
	}
	home, err := os.MkdirTemp("", "registry-test-")
	if err != nil {
		panic(err)
	}
	for _, variable := range []string{"HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(variable, home); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(home)
	os.Exit(code)
}

// OwnConfig gives the test a configuration of Docker that it can write.
func OwnConfig(t *testing.T) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
}
