package publish

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
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
	ref := in(t, registrytest.Start(t, func(next http.Handler) http.Handler {
		return receiving.front(onlyOf(r.Disks[0], sending.front(next), next))
	}), "debian")
	access := registry.Access{Patience: 300 * time.Millisecond}
	if _, err := pushWith(t, access, ref, r, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	sending.times.Store(1)
	src, err := access.OpenPlace(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := Pull(t.Context(), src, ref, PullOptions{Folder: t.TempDir(), ReadOptions: amd64()})
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
	t.Parallel()
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
			t.Parallel()
			r := newRelease(t, 1)
			ref := in(t, registrytest.Start(t, f.front), "debian")
			var notes []string
			mustPush(t, ref, r, PushOptions{Tell: func(e registry.Event) {
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
	t.Parallel()
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
			t.Parallel()
			ref := in(t, registrytest.Start(t, tc.fault.front), "debian")
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
func onlyOf(d artifact.Disk, faulty, good http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, d.Digest.Encoded()) {
			faulty.ServeHTTP(w, r)
			return
		}
		good.ServeHTTP(w, r)
	})
}

func TestPullSurvivesFaultsAndResumes(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*fault{
		"cut at 1 %":         newFault(2, http.MethodGet, cut(0.01)),
		"cut at 50 %":        newFault(2, http.MethodGet, cut(0.5)),
		"cut at 99 %":        newFault(2, http.MethodGet, cut(0.99)),
		"503":                newFault(3, http.MethodGet, answer(503)),
		"429":                newFault(3, http.MethodGet, answer(429)),
		"wrong digest, once": newFault(1, http.MethodGet, corrupt),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelease(t, 1)
			ref := in(t, registrytest.Start(t, func(next http.Handler) http.Handler { return onlyOf(r.Disks[0], f.front(next), next) }), "debian")
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
	t.Parallel()
	r := newRelease(t, 1)
	f := newFault(1000, http.MethodGet, corrupt)
	ref := in(t, registrytest.Start(t, func(next http.Handler) http.Handler { return onlyOf(r.Disks[0], f.front(next), next) }), "debian")
	mustPush(t, ref, r, PushOptions{})
	dir := t.TempDir()
	_, err := pullTo(t, ref.With("13"), PullOptions{Folder: dir})
	if fail.ExitCode(err) != 6 || !errors.Is(err, registry.ErrWrongBytes) {
		t.Errorf("%v", err)
	}
	if names := folderNames(t, dir); len(names) != 0 {
		t.Errorf("left are %v", names)
	}
	checks, err := Verify(t.Context(), place(t, ref), ref.With("13"), VerifyOptions{ReadOptions: amd64()})
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

// TestTokenThatExpiresDoesNotLoseThePush has a token server whose tokens all end
// whenever a disk is about to be sent for the first time.
func TestTokenThatExpiresDoesNotLoseThePush(t *testing.T) {
	registrytest.OwnConfig(t)
	var mu sync.Mutex
	issued, good := 0, map[string]bool{}
	ended := map[string]bool{} // for which digests the tokens have ended
	server := registrytest.Start(t, func(next http.Handler) http.Handler {
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
