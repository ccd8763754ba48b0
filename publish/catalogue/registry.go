package catalogue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/btw-img/btw-img/publish/limit"
	"github.com/btw-img/btw-img/publish/registry"
)

// api is the part of the OCI distribution API (distribution-spec 1.1) that reads: GET
// and HEAD of manifests, blobs, tags and referrers. It sends what it has opened inside
// a layout and compared with its digest, nothing else.
type api struct {
	catalogue *Catalogue
	verified  verifiedBlobs
}

// problems is the errors of the API, by their codes, with HTTP status and text.
var problems = map[string]struct {
	status int
	text   string
}{
	"NAME_UNKNOWN":     {http.StatusNotFound, "there is no such repository"},
	"MANIFEST_UNKNOWN": {http.StatusNotFound, "there is no such manifest"},
	"BLOB_UNKNOWN":     {http.StatusNotFound, "there is no such blob, or it is damaged"},
	"DIGEST_INVALID":   {http.StatusBadRequest, "that is no digest"},
	"UNSUPPORTED":      {http.StatusMethodNotAllowed, "this registry can only be read from"},
}

func refuse(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(problems[code].status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, problems[code].text)
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, "UNSUPPORTED")
		return
	}
	rest := strings.TrimPrefix(r.URL.Path, "/v2/")
	if rest == "" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	parent, last := cutLast(rest)
	name, kind := cutLast(parent)
	serve, ok := map[string]func(http.ResponseWriter, *http.Request, asked){
		"manifests": a.manifest, "blobs": a.blob, "referrers": a.referrers, "tags": a.tags,
	}[kind]
	if !ok || kind == "tags" && last != "list" {
		http.NotFound(w, r)
		return
	}
	store, err := a.catalogue.open(name)
	if err != nil {
		refuse(w, "NAME_UNKNOWN")
		return
	}
	serve(w, r, asked{name, last, store})
}

// asked is what a request names.
type asked struct {
	repository, reference string
	store                 *registry.Store
}

func cutLast(s string) (before, last string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

func (a *api) manifest(w http.ResponseWriter, r *http.Request, of asked) {
	d, err := of.store.Resolve(r.Context(), of.reference)
	if err != nil || d.Size > limit.Manifest || !registry.IsManifestType(d.MediaType) {
		refuse(w, "MANIFEST_UNKNOWN")
		return
	}
	manifest, err := content.FetchAll(r.Context(), of.store, d)
	if err != nil {
		refuse(w, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.Header().Set("ETag", strconv.Quote(d.Digest.String()))
	send(w, d.MediaType, manifest)
}

func send(w http.ResponseWriter, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the reader has gone; net/http keeps the body of HEAD
}

func (a *api) blob(w http.ResponseWriter, r *http.Request, of asked) {
	want := digest.Digest(of.reference)
	if want.Validate() != nil {
		refuse(w, "DIGEST_INVALID")
		return
	}
	opened, err := of.store.Open(want)
	if err != nil {
		refuse(w, "BLOB_UNKNOWN")
		return
	}
	file, ok := opened.(*os.File)
	defer func() { _ = opened.Close() }()
	if !ok || a.verified.verify(r.Context(), file, want) != nil {
		refuse(w, "BLOB_UNKNOWN")
		return
	}
	w.Header().Set("Docker-Content-Digest", want.String())
	w.Header().Set("ETag", strconv.Quote(want.String()))
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, file)
}

func (a *api) tags(w http.ResponseWriter, r *http.Request, of asked) {
	list := struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{of.repository, []string{}}
	query := r.URL.Query()
	_ = of.store.Tags(r.Context(), query.Get("last"), func(some []string) error { // which are in memory
		list.Tags = append(list.Tags, some...)
		return nil
	})
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n >= 0 && n < len(list.Tags) {
		list.Tags = list.Tags[:n]
		if n > 0 {
			next := url.URL{Path: r.URL.Path, RawQuery: url.Values{"n": {strconv.Itoa(n)}, "last": {list.Tags[n-1]}}.Encode()}
			w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
		}
	}
	sendJSON(w, "application/json", list)
}

func (a *api) referrers(w http.ResponseWriter, r *http.Request, of asked) {
	subject := digest.Digest(of.reference)
	if subject.Validate() != nil {
		refuse(w, "DIGEST_INVALID")
		return
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	kind := r.URL.Query().Get("artifactType")
	err := of.store.Referrers(r.Context(), ocispec.Descriptor{Digest: subject}, kind, func(some []ocispec.Descriptor) error {
		index.Manifests = append(index.Manifests, some...)
		return nil
	})
	if err != nil {
		refuse(w, "MANIFEST_UNKNOWN")
		return
	}
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	sendJSON(w, ocispec.MediaTypeImageIndex, index)
}

func sendJSON(w http.ResponseWriter, mediaType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "the answer cannot be made", http.StatusInternalServerError)
		return
	}
	send(w, mediaType, body)
}

// blobFile is a file as it was when it was verified. Whatever changes its bytes
// changes one of these.
type blobFile struct {
	device, inode     uint64
	size              int64
	modified, changed syscall.Timespec
	digest            digest.Digest
}

// verifiedBlobs remembers which files have the digests that they are named by.
type verifiedBlobs struct {
	mu      sync.Mutex
	files   map[blobFile]bool
	reading map[blobFile]*reading // who asks for what is being read waits for it
}

// reading is a blob that is being compared with its digest.
type reading struct {
	ended chan struct{}
	err   error
}

const (
	mostVerified = 100000
	settled      = time.Second // from when on a change has another time than the one before it
)

var errDamaged = errors.New("the blob does not have its digest")

// verify reads a blob for the first time, and leaves the file at its start.
func (v *verifiedBlobs) verify(ctx context.Context, file *os.File, want digest.Digest) error {
	before, err := fileOf(file, want)
	if err != nil {
		return err
	}
	v.mu.Lock()
	known, r := v.files[before], v.reading[before]
	if !known && r == nil {
		r, err = v.start(file, before)
	}
	v.mu.Unlock()
	if known || err != nil {
		return err
	}
	select {
	case <-r.ended:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start reads a blob to its end, whoever waits for it: a client or proxy that gives up
// finds it verified when it comes again. v is locked.
func (v *verifiedBlobs) start(file *os.File, before blobFile) (*reading, error) {
	own, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd())) // who asked may be gone
	if err != nil {
		return nil, err
	}
	if v.reading == nil {
		v.reading = map[blobFile]*reading{}
	}
	r := &reading{ended: make(chan struct{})}
	v.reading[before] = r
	go func() {
		r.err = errors.Join(v.read(own, before), own.Close())
		v.mu.Lock()
		delete(v.reading, before)
		v.mu.Unlock()
		close(r.ended)
	}()
	return r, nil
}

func (v *verifiedBlobs) read(file *os.File, before blobFile) error {
	digester := before.digest.Algorithm().Digester()
	_, err := io.Copy(digester.Hash(), io.NewSectionReader(file, 0, before.size))
	if err != nil {
		return err
	}
	after, err := fileOf(file, before.digest)
	if err != nil || after != before || digester.Digest() != before.digest {
		return cmp.Or(err, errDamaged)
	}
	if time.Since(time.Unix(before.changed.Unix())) > settled {
		v.remember(before)
	}
	return nil
}

func (v *verifiedBlobs) remember(file blobFile) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.files == nil || len(v.files) >= mostVerified {
		v.files = map[blobFile]bool{}
	}
	v.files[file] = true
}

func fileOf(file *os.File, of digest.Digest) (blobFile, error) {
	info, err := file.Stat()
	if err != nil {
		return blobFile{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return blobFile{}, errDamaged
	}
	return blobFile{stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim, of}, nil
}
