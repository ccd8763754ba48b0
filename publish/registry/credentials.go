package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

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

// Login checks the credential with the registry, HOST or HOST:PORT, and keeps it where
// Docker does. The error is as of Explain.
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
	return kept, Explain(host, err)
}

// Logout forgets the credential of a registry, HOST or HOST:PORT.
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
