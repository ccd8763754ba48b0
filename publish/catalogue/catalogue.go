// Package catalogue serves a folder of OCI image layouts to a network, read-only:
// as a registry, and as web pages that tell what it holds. Each layout is a
// repository; its path below the folder is its name.
package catalogue

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
)

//go:embed web
var web embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"megabytes": func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) },
	"gigabytes": func(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) },
	"seconds":   func(s float64) string { return fmt.Sprintf("%.0f s", s) },
	"text":      func(b []byte) string { return strings.ToValidUTF8(string(b[:min(len(b), longestText)]), "�") },
	"line":      text.Line,
}).ParseFS(web, "web/*.html"))

// longestText is how many bytes of a console a page shows; its file has all.
const longestText = 256 << 10

// Catalogue is the handler of both. Close releases the folder.
type Catalogue struct {
	root  *os.Root
	mux   *http.ServeMux
	cache *cache
}

// New serves the layouts below root, and nothing outside of it.
func New(root string) (*Catalogue, error) {
	opened, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	c := &Catalogue{root: opened, mux: http.NewServeMux(), cache: newCache()}
	assets, err := fs.Sub(web, "web")
	if err != nil {
		panic(err) // the folder is embedded
	}
	c.mux.Handle("/v2/", &api{catalogue: c})
	c.mux.Handle("GET /assets/", http.StripPrefix("/assets/", http.FileServerFS(assets)))
	c.mux.HandleFunc("GET /{$}", c.list)
	c.mux.HandleFunc("GET /image/{repository...}", c.image)
	c.mux.HandleFunc("GET /file/{repository...}", c.file)
	return c, nil
}

// Close releases the folder.
func (c *Catalogue) Close() error { return c.root.Close() }

// ServeHTTP implements http.Handler.
func (c *Catalogue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	c.mux.ServeHTTP(w, r)
}

// NameRule is what a layout's path must be to be offered.
const NameRule = "its path is no name of a repository: lower-case letters and digits, with dots, dashes, underscores or slashes between them"

// IsName says whether a layout of that path below the served folder is offered.
func IsName(name string) bool {
	return orasregistry.Reference{Repository: name}.ValidateRepository() == nil
}

// Repositories is the names of the layouts below root, sorted. odd is the paths
// of those that no client can ask for.
func Repositories(root string) (names, odd []string, err error) {
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		inside, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if strings.HasPrefix(path.Base(inside), ".") && inside != "." {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(name, ocispec.ImageLayoutFile)); err == nil && inside != "." {
			if name := filepath.ToSlash(inside); IsName(name) {
				names = append(names, name)
			} else {
				odd = append(odd, name)
			}
			return fs.SkipDir
		}
		return nil
	})
	slices.Sort(names)
	return names, odd, err
}

// view is what the pages show of an image.
type view struct {
	publish.Inspection
	Repository string
	Tag        string
	Tags       []string // that name a release
	Problem    string
	Commands   []command
}

// command is one to copy.
type command struct{ Purpose, Line string }

func (c *Catalogue) list(w http.ResponseWriter, r *http.Request) {
	names, _, err := Repositories(c.root.Name())
	if err != nil {
		http.Error(w, "the catalogue cannot be read", http.StatusInternalServerError)
		return
	}
	images := make([]view, 0, len(names))
	for _, name := range names {
		images = append(images, c.look(r, name, "latest"))
	}
	render(w, http.StatusOK, "list.html", map[string]any{"Host": r.Host, "Images": images})
}

func (c *Catalogue) image(w http.ResponseWriter, r *http.Request) {
	tag := r.URL.Query().Get("tag")
	if tag == "" {
		tag = "latest"
	}
	v := c.look(r, r.PathValue("repository"), tag)
	status := http.StatusOK
	if v.Problem != "" {
		status = http.StatusNotFound
	}
	render(w, status, "image.html", v)
}

// reportName is the attached file that is a page of its own. Whoever pushed the image wrote
// it: it may have styles, but no scripts, forms, origin, nor anything from elsewhere.
const (
	reportName   = "report.html"
	reportPolicy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

// file sends an attached file.
func (c *Catalogue) file(w http.ResponseWriter, r *http.Request) {
	v := c.look(r, r.PathValue("repository"), r.URL.Query().Get("tag"))
	content, ok := v.Files[r.URL.Query().Get("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	kind := "text/plain"
	if r.URL.Query().Get("name") == reportName {
		kind = "text/html"
		w.Header().Set("Content-Security-Policy", reportPolicy)
	}
	w.Header().Set("Content-Type", kind+"; charset=utf-8")
	_, _ = w.Write(content) // the reader has gone
}

// look inspects an image. What cannot be inspected has a Problem.
func (c *Catalogue) look(r *http.Request, repository, tag string) view {
	in, tags, err := c.inspect(r.Context(), repository, tag)
	if err != nil && tag == "latest" && len(tags) > 0 { // pushed with tags of somebody's own
		tag = tags[0]
		in, tags, err = c.inspect(r.Context(), repository, tag)
	}
	v := view{Repository: repository, Tag: tag}
	if err != nil {
		v.Problem = "there is no image " + repository + ":" + tag
		return v
	}
	v.Inspection, v.Tags = in, tags
	v.Commands = commands(r, v)
	return v
}

var errName = errors.New("no such repository")

func (c *Catalogue) inspect(ctx context.Context, repository, tag string) (publish.Inspection, []string, error) {
	if !IsName(repository) {
		return publish.Inspection{}, nil, errName
	}
	l, err := c.cache.layout(ctx, c.files(repository), repository)
	if err != nil {
		return publish.Inspection{}, nil, err
	}
	in, err := c.cache.image(ctx, repository, tag, l)
	return in, l.tags, err
}

// files is those of a layout, and of no other.
func (c *Catalogue) files(repository string) fs.FS {
	return registry.FolderFS(c.root, filepath.FromSlash(repository))
}

// open is a layout as it is now.
func (c *Catalogue) open(repository string) (*registry.Store, error) {
	if !IsName(repository) {
		return nil, errName
	}
	l, err := c.cache.layout(context.Background(), c.files(repository), repository)
	return l.store, err
}

// architecture is the first one of a release: a page shows images for any.
func architecture(ctx context.Context, store registry.Place, tag string) string {
	platforms, err := publish.Architectures(ctx, store, tag)
	if err != nil || len(platforms) == 0 {
		return ""
	}
	return platforms[0]
}

// commands is how the image is fetched.
func commands(r *http.Request, v view) []command {
	scheme, plain := "https", ""
	if r.TLS == nil {
		scheme, plain = "http", "--plain-http "
	}
	ref := r.Host + "/" + v.Repository + ":" + v.Tag
	blob := scheme + "://" + r.Host + "/v2/" + v.Repository + "/blobs/" + v.Disk.Digest.String()
	return []command{
		{"vmctl", "vmctl pull " + plain + text.Word(ref)},
		{"oras", "oras pull " + plain + text.Word(ref)},
		{"curl", "curl -o " + text.Word(v.Disk.Name) + " " + text.Word(blob)},
	}
}

func render(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // the reader has gone
}
