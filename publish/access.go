package publish

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Access is how registries are reached, and layouts written. The zero value reaches them over TLS
// with the credentials of Docker's configuration.
type Access struct {
	PlainHTTP bool   // no TLS; loopback does without where the registry speaks none
	CAFile    string // PEM certificates trusted beside the system's
	Username  string
	Password  string
	UserAgent string
	Patience  time.Duration // with a connection on which nothing moves; 0 means 5 min
	Owner     files.Owner   // of what is written to layouts and archives
}

// repository is the registry's repository, with all that oras-go needs to know.
func (a Access) repository(ctx context.Context, r Reference) (*remote.Repository, error) {
	client, plain, err := a.client(ctx, r.Host())
	if err != nil {
		return nil, err
	}
	repository, err := remote.NewRepository(r.repo.Registry + "/" + r.repo.Repository)
	if err != nil {
		return nil, err
	}
	repository.Client, repository.PlainHTTP = client, plain
	repository.SkipReferrersGC = true // many registries refuse DELETE
	return repository, nil
}

func (a Access) client(ctx context.Context, host string) (_ *auth.Client, plain bool, err error) {
	transport, err := a.transport()
	if err != nil {
		return nil, false, err
	}
	credential, err := a.credential()
	if err != nil {
		return nil, false, err
	}
	client := &auth.Client{
		Client: &http.Client{Transport: limitPages(trustRealm(transport, os.Getenv("CI_SERVER_HOST")))},
		Cache:  auth.NewCache(), Credential: credential,
	}
	client.SetUserAgent(a.UserAgent)
	return client, a.PlainHTTP || a.CAFile == "" && speaksPlain(ctx, host), nil
}

// transport speaks HTTP/1.1 and nothing else. HTTP/2 would put all requests on
// one connection, where a transfer that hangs could not be told from the others,
// and its windows make the single large body that a disk is half as fast, even
// within one machine. Every registry speaks HTTP/1.1, but takes HTTP/2 if the TLS
// handshake offers both, as the default transport's TLS configuration does: so
// this one has its own.
func (a Access) transport() (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = false
	transport.TLSClientConfig = &tls.Config{NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	transport.DisableCompression = true // it saves nothing on compressed disks
	transport.MaxResponseHeaderBytes = 256 << 10
	transport.WriteBufferSize, transport.ReadBufferSize = copyBuffer, copyBuffer
	transport.DialContext = impatiently(transport.DialContext, a.Patience)
	if a.CAFile == "" {
		return transport, nil
	}
	var err error
	transport.TLSClientConfig.RootCAs, err = a.pool()
	return transport, err
}

func (a Access) pool() (*x509.CertPool, error) {
	content, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, &fail.Error{Kind: fail.Usage, Op: "--ca-file", Err: err}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(content) {
		return nil, fail.New(fail.Usage, a.CAFile, "give a file of PEM certificates", "it holds no certificate")
	}
	return pool, nil
}

// speaksPlain says whether a registry on this very machine speaks no TLS. Any
// other registry is asked without TLS only if the user says so.
func speaksPlain(ctx context.Context, hostport string) bool {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, "443"
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return false
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 3 * time.Second}, Config: &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(strings.Trim(host, "[]"), port))
	if err == nil {
		_ = connection.Close()
		return false
	}
	var notTLS tls.RecordHeaderError
	return errors.As(err, &notTLS)
}

// credential finds the credential of a registry: the one given, then Docker's
// configuration and helpers, DOCKER_AUTH_CONFIG, Podman's file, and what GitLab
// gives its jobs.
func (a Access) credential() (auth.CredentialFunc, error) {
	if a.Username != "" || a.Password != "" {
		given := auth.Credential{Username: a.Username, Password: a.Password}
		return func(context.Context, string) (auth.Credential, error) { return given, nil }, nil
	}
	var store credentials.Store
	if _, err := os.UserHomeDir(); err != nil && os.Getenv("DOCKER_CONFIG") == "" {
		store = credentials.NewMemoryStore() // a service without a home has no configuration
	} else if store, err = dockerStore(false); err != nil {
		return nil, err
	}
	var fallbacks []credentials.Store
	if config := os.Getenv("DOCKER_AUTH_CONFIG"); config != "" {
		inline, err := credentials.NewMemoryStoreFromDockerConfig([]byte(config))
		if err != nil {
			return nil, fail.New(fail.Usage, "DOCKER_AUTH_CONFIG", `write {"auths": {"HOST": {"auth": "…"}}}`, "it is no configuration of Docker")
		}
		fallbacks = append(fallbacks, inline)
	}
	for _, path := range podmanFiles() {
		if podman, err := credentials.NewFileStore(path); err == nil {
			fallbacks = append(fallbacks, podman)
		}
	}
	if job := gitlabStore(); job != nil {
		fallbacks = append(fallbacks, job)
	}
	return credentials.Credential(credentials.NewStoreWithFallbacks(store, fallbacks...)), nil
}

// dockerStore is Docker's configuration with the helpers that it names.
func dockerStore(plainText bool) (*credentials.DynamicStore, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: plainText, DetectDefaultNativeStore: true})
	if err != nil {
		return nil, &fail.Error{Kind: fail.Usage, Op: "Docker's configuration", Err: err, Hint: "mend the file, or name another folder in DOCKER_CONFIG"}
	}
	return store, nil
}

// podmanFiles is where containers-auth.json(5) says that credentials lie.
func podmanFiles() []string {
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []string{path}
	}
	var files []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	var there []string
	for _, path := range files {
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	return there
}

// gitlabStore is what GitLab gives a job for its project's registry.
func gitlabStore() credentials.Store {
	host, user, password := os.Getenv("CI_REGISTRY"), os.Getenv("CI_REGISTRY_USER"), os.Getenv("CI_REGISTRY_PASSWORD")
	if host == "" || user == "" || password == "" {
		return nil
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": encoded}}})
	if err != nil {
		return nil
	}
	store, err := credentials.NewMemoryStoreFromDockerConfig(config)
	if err != nil {
		return nil
	}
	return store
}

// Kept is where a credential lies after a login.
type Kept struct {
	Config    string // Docker's configuration
	PlainText bool   // the password is in that file itself, not in what it names
}

// Login checks the credential with the registry and keeps it where Docker does.
func (a Access) Login(ctx context.Context, host string) (Kept, error) {
	store, err := dockerStore(false)
	if err != nil {
		return Kept{}, err
	}
	client, plain, err := a.client(ctx, host)
	if err != nil {
		return Kept{}, err
	}
	reg, err := remote.NewRegistry(host)
	if err != nil {
		return Kept{}, fail.New(fail.Usage, "", "write HOST or HOST:PORT", "%q is no registry", host)
	}
	reg.Client, reg.PlainHTTP = client, plain
	kept := Kept{Config: store.ConfigPath()}
	credential := auth.Credential{Username: a.Username, Password: a.Password}
	err = credentials.Login(ctx, store, reg, credential)
	if errors.Is(err, credentials.ErrPlaintextPutDisabled) { // no helper: the file itself is left
		kept.PlainText = true
		if store, err = dockerStore(true); err == nil {
			err = store.Put(ctx, credentials.ServerAddressFromRegistry(host), credential)
		}
	}
	return kept, explain(host, err)
}

// Logout forgets the credential of a registry.
func Logout(ctx context.Context, host string) error {
	store, err := dockerStore(false)
	if err != nil {
		return err
	}
	if err := credentials.Logout(ctx, store, host); err != nil {
		return fail.Wrap(fail.Registry, fmt.Sprintf("log out of %s", host), err)
	}
	return nil
}
