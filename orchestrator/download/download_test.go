package download

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

func init() { firstPause = time.Millisecond }

// content is more than one buffer.
var content = bytes.Repeat([]byte("0123456789abcdef"), 200_000)

func sha256Of(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// shop is a server of one file, and the folder that it is downloaded to.
type shop struct {
	*httptest.Server
	content []byte
	tag     string // its ETag
	cuts    []int  // after how many bytes of each answer the connection ends
	asked   []string
	folder  string
	notes   []string
	kept    []byte
}

func open(t *testing.T) *shop {
	s := &shop{content: content, tag: `"one"`, folder: t.TempDir()}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked = append(s.asked, r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
		if s.tag != "" {
			w.Header().Set("ETag", s.tag)
		}
		if len(s.cuts) > 0 {
			w = &cutting{w, s.cuts[0]}
			s.cuts = s.cuts[1:]
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.content))
	}))
	t.Cleanup(s.Close)
	return s
}

// cutting ends the connection after so many bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (s *shop) file(digest string) File {
	return File{
		Name: "the file", Open: HTTP("test", s.URL+"/secret?token"), Digest: digest, Folder: s.folder,
		Tell: func(int64, int64) {}, Note: func(text string) { s.notes = append(s.notes, text) }, There: func() bool { return false },
		Keep: func(path, sum string) (err error) {
			s.kept, err = os.ReadFile(path)
			if err == nil && "sha256:"+sum != sha256Of(s.kept) {
				err = fmt.Errorf("SHA-256 %s is told", sum)
			}
			return err
		},
	}
}

// left is the names in the folder.
func (s *shop) left(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestDownloadsGoOnWhereTheyWereCut(t *testing.T) {
	s := open(t)
	s.cuts = []int{1000, 5000, len(content)}
	sum := sha512.Sum512(content)
	if err := s.file("sha512:" + hex.EncodeToString(sum[:])).Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{" ", `bytes=1000- "one"`, `bytes=6000- "one"`}
	if fmt.Sprint(s.asked) != fmt.Sprint(want) || !bytes.Equal(s.kept, content) || s.left(t) != "" {
		t.Errorf("asked %q, kept %d bytes, left %q", s.asked, len(s.kept), s.left(t))
	}
}

func TestTheNextRunGoesOn(t *testing.T) {
	s := open(t)
	s.cuts = []int{7000}
	ctx, cancel := context.WithCancel(t.Context())
	f := s.file(sha256Of(content))
	f.Note = func(string) { cancel() }
	if err := f.Get(ctx); !errors.Is(err, context.Canceled) || s.kept != nil {
		t.Fatalf("%v", err)
	}
	if err := s.file(sha256Of(content)).Get(t.Context()); err != nil || !bytes.Equal(s.kept, content) {
		t.Fatal(err)
	}
	if want := `bytes=7000- "one"`; s.asked[1] != want {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
}

// A part of another file is thrown away, whether the server says that it is or not.
func TestAPartOfAnotherFile(t *testing.T) {
	for name, tag := range map[string]string{"told by the server": `"two"`, "found out by the digest": ""} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			s.tag = tag
			f := s.file(sha256Of(content))
			path := filepath.Join(s.folder, strings.ReplaceAll(f.Digest, ":", "-")+".part")
			if err := errors.Join(os.WriteFile(path, []byte("another"), 0o600), os.WriteFile(path+".from", []byte(tag[:min(len(tag), 1)]+`one"`), 0o600)); err != nil {
				t.Fatal(err)
			}
			if tag == "" {
				if err := os.Remove(path + ".from"); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Get(t.Context()); err != nil || !bytes.Equal(s.kept, content) || s.left(t) != "" {
				t.Errorf("%v, left %q", err, s.left(t))
			}
		})
	}
}

func TestAWholePartNeedsNoMore(t *testing.T) {
	s := open(t)
	f := s.file(sha256Of(content))
	if err := os.WriteFile(filepath.Join(s.folder, strings.ReplaceAll(f.Digest, ":", "-")+".part"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Get(t.Context()); err != nil || !bytes.Equal(s.kept, content) || len(s.asked) != 1 {
		t.Errorf("%v, asked %q", err, s.asked)
	}
}

func TestWrongBytesAreNotKept(t *testing.T) {
	for name, tc := range map[string]struct {
		content []byte
		size    int64
		want    string
	}{
		"another digest": {[]byte("x"), 0, "its SHA256 is 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, and "},
		"too long":       {append([]byte("x"), content...), int64(len(content)), "it has 3200001 bytes"},
	} {
		s := open(t)
		s.content = tc.content
		f := s.file(sha256Of(content))
		f.Size = tc.size
		err := f.Get(t.Context())
		if fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), tc.want) || s.left(t) != "" || s.kept != nil {
			t.Errorf("%s: %v, left %q", name, err, s.left(t))
		}
	}
}

func TestWhatFailsForGood(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	patience = 200 * time.Millisecond
	gone := make(chan struct{})
	var answers atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers.Add(1)
		switch r.URL.Path {
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		case "/silent":
			select {
			case <-gone:
			case <-r.Context().Done():
			}
		case "/elsewhere":
			http.Redirect(w, r, "ftp://h.example/?token", http.StatusFound)
		}
	}))
	defer server.Close()
	defer close(gone)
	for path, tc := range map[string]struct {
		answers int64
		want    string
	}{
		"/missing": {1, "404 Not Found"}, "/broken": {attempts, "502 Bad Gateway"}, "/silent": {attempts, "the server sends nothing"}, "/elsewhere": {1, "unsupported protocol"},
	} {
		answers.Store(0)
		s := &shop{Server: server, folder: t.TempDir()}
		f := s.file(sha256Of(content))
		f.Open = HTTP("test", server.URL+path+"?token")
		err := f.Get(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.want) || answers.Load() != tc.answers || strings.Contains(err.Error(), "token") || fail.ExitCode(err) != 4 {
			t.Errorf("%s: %v after %d answers", path, err, answers.Load())
		}
	}
}

// A file that somebody else has got meanwhile is not asked for.
func TestWhoWaitsNeedsNoDownload(t *testing.T) {
	s := open(t)
	f := s.file(sha256Of(content))
	f.There = func() bool { return true }
	if err := f.Get(t.Context()); err != nil || len(s.asked) > 0 || s.left(t) != "" {
		t.Errorf("%v, asked %q", err, s.asked)
	}
}

func TestSmallFilesHaveALimit(t *testing.T) {
	s := open(t)
	s.content = []byte("12345")
	if all, err := Small(t.Context(), "test", s.URL, 5); err != nil || string(all) != "12345" {
		t.Errorf("%q, %v", all, err)
	}
	s.cuts = []int{2}
	if all, err := Small(t.Context(), "test", s.URL, 5); err != nil || string(all) != "12345" || len(s.asked) != 3 {
		t.Errorf("after a cut: %q, %v, asked %d times", all, err, len(s.asked))
	}
	if _, err := Small(t.Context(), "test", s.URL, 4); err == nil || !strings.Contains(err.Error(), "more than 4 bytes") {
		t.Error(err)
	}
}
