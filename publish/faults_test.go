package publish

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// fault is what goes wrong between client and registry, a number of times.
type fault struct {
	times  atomic.Int32
	hits   atomic.Int32
	method string // of the requests it meets
	do     func(http.ResponseWriter, *http.Request, http.Handler)
}

func newFault(times int32, method string, do func(http.ResponseWriter, *http.Request, http.Handler)) *fault {
	f := &fault{method: method, do: do}
	f.times.Store(times)
	return f
}

func (f *fault) front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		large := strings.Contains(r.URL.Path, "/blobs/") && (r.ContentLength > 1<<20 || r.Method == http.MethodGet)
		if r.Method == f.method && large && f.times.Add(-1) >= 0 {
			f.hits.Add(1)
			f.do(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// reset closes the connection after a part of the request's body was read.
func reset(part float64) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, int64(part*float64(r.ContentLength)))
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_ = connection.(*net.TCPConn).SetLinger(0)
		_ = connection.Close()
	}
}

func answer(status int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(status) }
}

// cut sends a part of the blob and breaks the connection.
func cut(part float64) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutter{ResponseWriter: w, part: part}, r)
	}
}

type cutter struct {
	http.ResponseWriter
	part   float64
	before func() // the connection is broken; may be nil
	left   int64
}

func (c *cutter) WriteHeader(status int) {
	var size int64
	_, _ = fmt.Sscan(c.Header().Get("Content-Length"), &size)
	c.left = int64(c.part * float64(size))
	c.ResponseWriter.WriteHeader(status)
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if c.left <= 0 {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		if c.before != nil {
			c.before()
		}
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestConnectionsThatHangAreGivenUp has a registry that falls silent in the
// middle of a disk, once while it receives and once while it sends.
func TestConnectionsThatHangAreGivenUp(t *testing.T) {
	receiving := newFault(1, http.MethodPut, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		t.Cleanup(func() { _ = connection.Close() })
	})
	sending := newFault(0, http.MethodGet, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutter{ResponseWriter: w, part: 0.5, before: func() { <-r.Context().Done() }}, r)
	})
	r := newRelease(t, 1)
	ref := in(t, registryWith(t, func(next http.Handler) http.Handler {
		return receiving.front(onlyOf(r.Disks[0], sending.front(next), next))
	}), "debian")
	access := Access{Patience: 300 * time.Millisecond}
	if _, err := pushWith(t, access, ref, r, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	sending.times.Store(1)
	src, err := access.OpenPlace(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := Pull(t.Context(), src, ref, PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: quick}})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
	if receiving.hits.Load() != 1 || sending.hits.Load() != 1 {
		t.Errorf("the registry hung %d times while it received and %d times while it sent", receiving.hits.Load(), sending.hits.Load())
	}
}

// corrupt sends the blob with one byte changed.
func corrupt(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&corrupter{ResponseWriter: w}, r)
}

type corrupter struct {
	http.ResponseWriter
	done bool
}

func (c *corrupter) Write(p []byte) (int, error) {
	if !c.done && len(p) > 0 {
		p = slices.Clone(p)
		p[len(p)/2] ^= 1
		c.done = true
	}
	return c.ResponseWriter.Write(p)
}

func TestPushSurvivesFaults(t *testing.T) {
	for name, f := range map[string]*fault{
		"reset at 1 %":        newFault(2, http.MethodPut, reset(0.01)),
		"reset at 50 %":       newFault(2, http.MethodPut, reset(0.5)),
		"reset at 99 %":       newFault(2, http.MethodPut, reset(0.99)),
		"500":                 newFault(2, http.MethodPut, answer(500)),
		"503":                 newFault(3, http.MethodPut, answer(503)),
		"429":                 newFault(3, http.MethodPut, answer(429)),
		"401 in the mid-push": newFault(1, http.MethodPut, answer(401)),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelease(t, 1)
			ref := in(t, registryWith(t, f.front), "debian")
			var notes []string
			mustPush(t, ref, r, PushOptions{Tell: func(e Event) {
				if e.Item == "" {
					notes = append(notes, e.Note)
				}
			}})
			if f.hits.Load() == 0 || len(notes) == 0 || !strings.Contains(notes[0], "again in") {
				t.Errorf("the fault came %d times, told was %q", f.hits.Load(), notes)
			}
			pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			sameAsDisk(t, pulled.Path, r, 0)
		})
	}
}

func TestPushGivesUpAndSaysWhere(t *testing.T) {
	for name, tc := range map[string]struct {
		fault *fault
		hint  string
		tries int32
	}{
		"503 for ever": {newFault(1000, http.MethodPut, answer(503)), "try again later", 4},
		"401 for ever": {newFault(1000, http.MethodPut, answer(401)), "vmctl login", 2},
		"403":          {newFault(1000, http.MethodPut, answer(403)), "the right to push", 1},
		"413":          {newFault(1000, http.MethodPut, answer(413)), "limits the size", 1},
	} {
		t.Run(name, func(t *testing.T) {
			ref := in(t, registryWith(t, tc.fault.front), "debian")
			r := newRelease(t, 1)
			r.Disks = r.Disks[:1]
			_, err := pushTo(t, ref, r, PushOptions{})
			if fail.ExitCode(err) != 6 || !strings.Contains(err.Error(), ref.String()) || !strings.Contains(fail.Hint(err), tc.hint) {
				t.Errorf("%v; hint %s", err, fail.Hint(err))
			}
			// Each blob that came through beside the one that fails renews the patience.
			if hits := tc.fault.hits.Load(); hits < tc.tries || hits > 3*tc.tries {
				t.Errorf("tried %d times, want %d", hits, tc.tries)
			}
			if _, err := place(t, ref).Resolve(t.Context(), "latest"); err == nil {
				t.Error("half a release is tagged")
			}
		})
	}
	_, err := pushTo(t, parse(t, "127.0.0.1:1/debian"), newRelease(t, 1), PushOptions{})
	if fail.ExitCode(err) != 6 || !strings.Contains(fail.Hint(err), "runs") {
		t.Errorf("nobody listens: %v; hint %s", err, fail.Hint(err))
	}
}

// onlyOf lets a faulty handler answer what is asked of the disk, and a good one
// the rest.
func onlyOf(d Disk, faulty, good http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, d.Digest.Encoded()) {
			faulty.ServeHTTP(w, r)
			return
		}
		good.ServeHTTP(w, r)
	})
}

func TestPullSurvivesFaultsAndResumes(t *testing.T) {
	for name, f := range map[string]*fault{
		"cut at 1 %":         newFault(2, http.MethodGet, cut(0.01)),
		"cut at 50 %":        newFault(2, http.MethodGet, cut(0.5)),
		"cut at 99 %":        newFault(2, http.MethodGet, cut(0.99)),
		"503":                newFault(3, http.MethodGet, answer(503)),
		"429":                newFault(3, http.MethodGet, answer(429)),
		"wrong digest, once": newFault(1, http.MethodGet, corrupt),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelease(t, 1)
			ref := in(t, registryWith(t, func(next http.Handler) http.Handler { return onlyOf(r.Disks[0], f.front(next), next) }), "debian")
			mustPush(t, ref, r, PushOptions{})
			dir := t.TempDir()
			pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir})
			if err != nil {
				t.Fatal(err)
			}
			sameAsDisk(t, pulled.Path, r, 0)
			if names := folderNames(t, dir); len(names) != 1 || f.hits.Load() == 0 {
				t.Errorf("left are %v; the fault came %d times", names, f.hits.Load())
			}
			if strings.HasPrefix(name, "cut") && pulled.Received != r.Disks[0].Size {
				t.Errorf("received %d bytes for %d: it did not go on where it stopped", pulled.Received, r.Disks[0].Size)
			}
		})
	}
}

func TestWrongBytesAreNotLeftBehind(t *testing.T) {
	r := newRelease(t, 1)
	f := newFault(1000, http.MethodGet, corrupt)
	ref := in(t, registryWith(t, func(next http.Handler) http.Handler { return onlyOf(r.Disks[0], f.front(next), next) }), "debian")
	mustPush(t, ref, r, PushOptions{})
	dir := t.TempDir()
	_, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir})
	if fail.ExitCode(err) != 6 || !errors.Is(err, errWrongBytes) {
		t.Errorf("%v", err)
	}
	if names := folderNames(t, dir); len(names) != 0 {
		t.Errorf("left are %v", names)
	}
	checks, err := Verify(t.Context(), place(t, ref), ref.With("13"), VerifyOptions{ReadOptions: ReadOptions{Selection: Selection{Architecture: "amd64"}, Retry: quick}})
	if fail.ExitCode(err) != 6 || !strings.Contains(problems(checks), "disk "+r.Disks[0].Digest.String()) {
		t.Errorf("%s, %v", problems(checks), err)
	}
}

// slow sends a blob bit by bit, so that there is time to interrupt.
func slow(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(slowWriter{w}, r)
}

type slowWriter struct{ http.ResponseWriter }

func (s slowWriter) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n, err := s.ResponseWriter.Write(p[written:min(len(p), written+32<<10)])
		written += n
		if err != nil {
			return written, err
		}
		_ = http.NewResponseController(s.ResponseWriter).Flush()
		time.Sleep(10 * time.Millisecond)
	}
	return written, nil
}

func TestInterruptedPullIsResumedByTheNext(t *testing.T) {
	r := newRelease(t, 1)
	f := newFault(0, http.MethodGet, slow)
	ref := in(t, registryWith(t, f.front), "debian")
	mustPush(t, ref, r, PushOptions{})
	f.times.Store(1000)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	_, err := pullWithin(ctx, t, ref.With("13"), PullOptions{Folder: dir, ReadOptions: ReadOptions{Tell: func(e Event) {
		if e.Done > 1<<20 {
			once.Do(cancel)
		}
	}}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	names := folderNames(t, dir)
	if len(names) != 1 || !strings.HasSuffix(names[0], ".part") {
		t.Fatalf("left are %v", names)
	}
	f.times.Store(0)
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
	if pulled.Received >= r.Disks[0].Size || pulled.Received == 0 {
		t.Errorf("the second pull received %d of %d bytes", pulled.Received, r.Disks[0].Size)
	}
	if names := folderNames(t, dir); len(names) != 1 {
		t.Errorf("left are %v", names)
	}
}

func TestResumeWithoutRangeRequests(t *testing.T) {
	r := newRelease(t, 1)
	f := newFault(3, http.MethodGet, cut(0.5))
	ref := in(t, registryWith(t, func(next http.Handler) http.Handler {
		whole := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req.Header.Del("Range")
			next.ServeHTTP(noRanges{w}, req)
		})
		return onlyOf(r.Disks[0], f.front(whole), whole)
	}), "debian")
	mustPush(t, ref, r, PushOptions{})
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 0)
}

type noRanges struct{ http.ResponseWriter }

func (w noRanges) WriteHeader(status int) {
	w.Header().Del("Accept-Ranges")
	w.ResponseWriter.WriteHeader(status)
}

func TestPulledDiskIsSparse(t *testing.T) {
	r := newRelease(t, 1)
	ref := in(t, registryWith(t, nil), "debian")
	mustPush(t, ref, r, PushOptions{})
	pulled, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Format: "raw"}}})
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, pulled.Path, r, 1)
	var stat unix.Stat_t
	if err := unix.Stat(pulled.Path, &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > 5<<19 { // 2 of 4 MiB are a hole
		t.Errorf("%d of %d bytes are on disk", used, stat.Size)
	}
}

func TestPullKeepsFilesOfOthers(t *testing.T) {
	r := newRelease(t, 1)
	ref := in(t, registryWith(t, nil), "debian").With("13")
	mustPush(t, ref.With(""), r, PushOptions{})
	dir := t.TempDir()
	path := filepath.Join(dir, r.Disks[0].Name)
	if err := os.WriteFile(path, []byte("the disk of a machine that runs"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := pullTo(t, ref, PullOptions{Folder: dir})
	if fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), "--overwrite") {
		t.Errorf("%v", err)
	}
	if _, err := pullTo(t, ref, PullOptions{Folder: dir, Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	again, err := pullTo(t, ref, PullOptions{Folder: dir})
	if err != nil || again.Received != 0 {
		t.Errorf("what is there was received again: %+v, %v", again, err)
	}
	sameAsDisk(t, path, r, 0)
}

func TestPullNamesWhatIsMissing(t *testing.T) {
	ref := in(t, registryWith(t, nil), "debian")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	for name, tc := range map[string]struct {
		ref    Reference
		format string
		want   string
	}{
		"tag":    {ref.With("12"), "", "not found"},
		"format": {ref.With("13"), "vmdk", "only as qcow2"},
	} {
		_, err := pullTo(t, tc.ref, PullOptions{Folder: t.TempDir(), ReadOptions: ReadOptions{Selection: Selection{Format: tc.format}}})
		if fail.ExitCode(err) != 6 || !strings.Contains(err.Error(), tc.want) || fail.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// basicAuth asks for a user and a password.
func basicAuth(user, password string) func(http.Handler) http.Handler {
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

func TestCredentials(t *testing.T) {
	const secret = "hunter2-of-the-registry"
	server := registryWith(t, basicAuth("alice", secret))
	ref := in(t, server, "debian")
	host := ref.Host()
	r := newRelease(t, 1)
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
			ownConfig(t)
			for key, value := range tc.env {
				t.Setenv(key, value)
			}
			if tc.file != "" {
				if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(tc.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := pushWith(t, tc.access, ref, r, PushOptions{})
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
	ownConfig(t)
	ref := in(t, registryWith(t, basicAuth("alice", "hunter2")), "debian")
	if _, err := (Access{Username: "alice", Password: "wrong"}).Login(t.Context(), ref.Host()); fail.ExitCode(err) != 6 {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := pushTo(t, ref, newRelease(t, 1), PushOptions{}); err == nil {
		t.Error("a wrong password was kept, or none is needed")
	}
	if _, err := (Access{Username: "alice", Password: "hunter2"}).Login(t.Context(), ref.Host()); err != nil {
		t.Fatal(err)
	}
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	if err := Logout(t.Context(), ref.Host()); err != nil {
		t.Fatal(err)
	}
	if _, err := pushTo(t, ref, newRelease(t, 2), PushOptions{}); fail.ExitCode(err) != 6 {
		t.Errorf("after logout: %v", err)
	}
}

// TestTokenThatExpiresDoesNotLoseThePush has a token server whose tokens all end
// whenever a disk is about to be sent for the first time.
func TestTokenThatExpiresDoesNotLoseThePush(t *testing.T) {
	ownConfig(t)
	var mu sync.Mutex
	issued, good := 0, map[string]bool{}
	ended := map[string]bool{} // for which digests the tokens have ended
	server := registryWith(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			if r.URL.Path == "/token" {
				issued++
				token := fmt.Sprintf("token-%d", issued)
				good["Bearer "+token] = true
				mu.Unlock()
				fmt.Fprintf(w, `{"token": %q}`, token)
				return
			}
			if blob := r.URL.Query().Get("digest"); r.ContentLength > 1<<20 && !ended[blob] {
				ended[blob] = true
				clear(good)
			}
			authorized := good[r.Header.Get("Authorization")]
			mu.Unlock()
			if !authorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := in(t, server, "debian")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	if len(ended) != 2 || issued < 3 {
		t.Errorf("the tokens ended %d times, %d were issued", len(ended), issued)
	}
}

// TestTokenServerOfAPrivateGitLab has the registry and its token server on two
// hosts of a private network.
func TestTokenServerOfAPrivateGitLab(t *testing.T) {
	ownConfig(t)
	gitlab := registryWith(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/jwt/auth" || r.URL.Query().Get("service") != "container_registry" {
				t.Errorf("the token server is asked for %s", r.URL)
			}
			fmt.Fprint(w, `{"token": "good"}`)
		})
	})
	realm := strings.Replace(gitlab.URL, "127.0.0.1", "localhost", 1) + "/jwt/auth"
	server := registryWith(t, func(next http.Handler) http.Handler {
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
	if _, err := pushTo(t, ref, newRelease(t, 1), PushOptions{}); fail.ExitCode(err) != 6 || !strings.Contains(fail.Hint(err), "CI_SERVER_HOST") {
		t.Errorf("a token server that nobody vouches for: %v; hint %s", err, fail.Hint(err))
	}
	t.Setenv("CI_SERVER_HOST", "localhost")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
}

// TestCredentialHelper has a helper as Docker's configuration names it.
func TestCredentialHelper(t *testing.T) {
	ownConfig(t)
	ref := in(t, registryWith(t, basicAuth("alice", "hunter2")), "debian")
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
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
}

// TestAServiceWithoutAHome reads what is open to all.
func TestAServiceWithoutAHome(t *testing.T) {
	ref := in(t, registryWith(t, nil), "debian")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	t.Setenv("HOME", "")
	t.Setenv("DOCKER_CONFIG", "")
	if _, err := pullTo(t, ref.With("13"), PullOptions{Folder: t.TempDir()}); err != nil {
		t.Error(err)
	}
}

// TestOnlyThisMachineIsAskedWithoutTLS makes sure that no password goes over a
// network in the clear unless the user says so.
func TestOnlyThisMachineIsAskedWithoutTLS(t *testing.T) {
	plain := in(t, registryWith(t, nil), "debian").Host()
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
