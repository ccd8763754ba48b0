package catalogue_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/btw-img/btw-img/publish/catalogue"
)

// TestCopiedCommandsRunNothingElse has names of a layout and a host that a shell
// would run, and runs what the pages offer to copy.
func TestCopiedCommandsRunNothingElse(t *testing.T) {
	root, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	disk := "a';touch ran;$(touch ran)`touch ran`|touch ran& b"
	fill(t, root, "debian")
	fillDisk(t, root, "evil", disk)
	server := serve(t, root)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "host;touch${IFS}ran;"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, part := range strings.Split(string(page), `<div class="command"><code>`)[1:] {
		line, _, _ := strings.Cut(part, "</code>")
		line = strings.NewReplacer("&#39;", "'", "&amp;", "&", "&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#43;", "+").Replace(line)
		commands++
		cmd := exec.Command("sh", "-c", "vmctl() { :; }; oras() { :; }; curl() { :; }; "+line)
		cmd.Dir = filepath.Dir(ran)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	if _, err := os.Stat(ran); err == nil || commands != 6 {
		t.Errorf("of %d commands, one runs what a name says", commands)
	}
}

// TestConnectionsAreLimited opens more than there may be.
func TestConnectionsAreLimited(t *testing.T) {
	plain, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pages := newCatalogue(t, t.TempDir())
	server := pages.Server()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(catalogue.Limited(plain)) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), pages.Close()); err != nil {
			t.Error(err)
		}
		<-ended
	})
	var open []net.Conn
	refused := 0
	for range 300 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		open = append(open, c)
	}
	for _, c := range open { // all before the first is waited for, since a request has its time
		_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			refused++
		} else if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if refused != 300-256 {
		t.Errorf("%d connections are refused", refused)
	}
	for _, c := range open {
		_ = c.Close()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, err := http.Get("http://" + plain.Addr().String() + "/")
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("once they are closed: %v", err)
		}
	}
}

// TestBodiesAreNotWaitedFor sends a body that never ends.
func TestBodiesAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	plain, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pages := newCatalogue(t, t.TempDir())
	server := pages.Server()
	go func() { _ = server.Serve(catalogue.Limited(plain)) }()
	t.Cleanup(func() { _, _ = server.Close(), pages.Close() })
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(8 * time.Second))
	_, _ = fmt.Fprintf(c, "POST /v2/debian/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nslow")
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 405") {
		t.Errorf("%v: %s", err, answer)
	}
}

// TestWhoTakesNothingIsLeft asks for an answer without end: who takes none of it holds
// the server no longer than its patience, who takes some of it slowly is served.
func TestWhoTakesNothingIsLeft(t *testing.T) {
	t.Parallel()
	const patience = 2 * time.Second
	for name, tc := range map[string]struct {
		takes  int // bytes in each half of the patience
		served bool
	}{"nothing": {0, false}, "a little": {4 << 20, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			sent, ended := make([]byte, 64<<10), make(chan error, 1)
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := w.Write(sent); err != nil {
						ended <- err
						return
					}
				}
			})}
			go func() { _ = server.Serve(catalogue.Impatient(plain, patience)) }()
			t.Cleanup(func() { _ = server.Close() })
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", plain.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_, _ = fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			for range 5 {
				select {
				case err := <-ended:
					if tc.served || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("it ended: %v", err)
					}
					return
				case <-time.After(patience / 2):
				}
				if _, err := io.CopyN(io.Discard, c, int64(tc.takes)); err != nil {
					t.Fatal(err)
				}
			}
			if !tc.served {
				t.Errorf("it is still sent to after %s", 5*patience/2)
			}
		})
	}
}

// TestDamagedBlobsAreNotSent changes a blob that was sent before.
func TestDamagedBlobsAreNotSent(t *testing.T) {
	root := t.TempDir()
	r := fill(t, root, "debian")
	server := serve(t, root)
	of := r.Disks[0].Digest
	path := filepath.Join(root, "debian/blobs/sha256", of.Encoded())
	url := server.URL + "/v2/debian/blobs/" + of.String()
	if status, body := get(t, url); status != 200 || digest.FromString(body) != of {
		t.Fatalf("%d", status)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[0] ^= 1
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, url); status != 404 {
		t.Errorf("a damaged blob: %d", status)
	}
}
