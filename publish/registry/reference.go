package registry

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Kinds of places that hold images.
const (
	inRegistry = ""
	inLayout   = "oci"
	inArchive  = "oci-archive"
)

// Reference names an image: HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG|@DIGEST],
// or oci-archive:FILE[:TAG|@DIGEST].
type Reference struct {
	kind string
	path string                 // of the layout or archive
	repo orasregistry.Reference // of the registry
	Name string                 // tag or digest; may be empty
}

const howToRefer = "write HOST/REPOSITORY[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]; a slash ends a DIR whose name holds a colon"

func malformed(s, problem string) error { return fail.New(fail.Usage, s, howToRefer, "%s", problem) }

// NamesLocal says whether a reference is one to a layout or archive by how it begins.
func NamesLocal(s string) bool {
	kind, _, ok := strings.Cut(s, ":")
	return ok && (kind == inLayout || kind == inArchive)
}

// ParseReference reads a reference that a user wrote. What is none is a fail.Usage error.
func ParseReference(s string) (Reference, error) {
	if NamesLocal(s) {
		kind, rest, _ := strings.Cut(s, ":")
		return parseLocal(s, kind, rest)
	}
	if host, _, ok := strings.Cut(s, "/"); ok && (host == "" || host == "." || host == "..") {
		return Reference{}, malformed(s, "a path is no reference")
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return Reference{}, malformed(s, "a reference has no scheme; write "+strings.TrimPrefix(rest, "//"))
	}
	if host, _, ok := strings.Cut(s, "/"); ok && strings.Contains(host, "@") {
		return Reference{}, fail.New(fail.Usage, "", "use --username and --password-stdin, or 'vmctl login'", "a reference holds no user and no password")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Reference{}, fail.New(fail.Usage, "", howToRefer, "%q holds a character that no reference to a registry has", s)
	}
	repo, err := orasregistry.ParseReference(s)
	if err != nil {
		return Reference{}, malformed(s, err.Error())
	}
	return Reference{repo: repo, Name: repo.Reference}, nil
}

var (
	// localDigest is the end of a path that names a digest: an at sign alone may
	// be in any path.
	localDigest = regexp.MustCompile(`@((?:sha256|sha384|sha512):[^/:]*)$`)
	validTag    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) // OCI distribution-spec 1.1
)

func parseLocal(s, kind, path string) (Reference, error) {
	name := ""
	if found := localDigest.FindStringSubmatchIndex(path); found != nil {
		path, name = path[:found[0]], path[found[2]:found[3]]
		if err := digest.Digest(name).Validate(); err != nil {
			return Reference{}, malformed(s, name+" is no digest: "+err.Error())
		}
	} else if i := strings.LastIndex(path, ":"); i > strings.LastIndex(path, "/") {
		path, name = path[:i], path[i+1:]
		if !validTag.MatchString(name) {
			return Reference{}, malformed(s, "after the colon there is no tag")
		}
	}
	if path == "" {
		return Reference{}, malformed(s, "no path")
	}
	r := Reference{kind: kind, path: path, Name: name}
	return r, r.expressible()
}

// Layout is the reference to an image in the OCI layout of a folder, whatever its
// path holds. name is a tag or digest; it may be empty. A path that cannot be shown on one
// line is a fail.Usage error.
func Layout(dir, name string) (Reference, error) {
	r := Reference{kind: inLayout, path: dir, Name: name}
	return r, r.expressible()
}

// expressible makes sure that the reference can be shown on one line.
func (r Reference) expressible() error {
	if strings.ContainsFunc(r.path, unicode.IsControl) {
		return fail.New(fail.Usage, "", "give it another name", "the path %q holds a control character", r.path)
	}
	return nil
}

// String is the reference as ParseReference reads it.
func (r Reference) String() string {
	at := ":"
	if r.IsDigest() {
		at = "@"
	}
	if r.Name == "" {
		at = ""
	}
	if r.kind != inRegistry {
		path := r.path
		if r.Name == "" && r.kind == inLayout && (strings.Contains(filepath.Base(path), ":") && !strings.HasSuffix(path, "/")) {
			path += "/" // or what follows the colon would be a tag
		}
		return r.kind + ":" + path + at + r.Name
	}
	return r.repo.Registry + "/" + r.repo.Repository + at + r.Name
}

// With is the reference to another tag or digest in the same place.
func (r Reference) With(name string) Reference {
	r.Name = name
	return r
}

// Host is the registry's host and port, "" for a folder or archive.
func (r Reference) Host() string { return r.repo.Registry }

// Tag is the tag of a reference to push to, "" for none. A digest is a fail.Usage error.
func (r Reference) Tag() (string, error) {
	if r.IsDigest() {
		return "", fail.New(fail.Usage, r.String(), "name a tag, or none", "a digest follows from what is pushed; it cannot be chosen")
	}
	return r.Name, nil
}

// IsDigest says whether the reference names a digest, and no tag.
func (r Reference) IsDigest() bool { return strings.Contains(r.Name, ":") }

// unreadable is the failure to open a layout or archive to read from.
func unreadable(r Reference, err error) error {
	if err == nil {
		return nil
	}
	if IsLocal(err) && !errors.Is(err, os.ErrNotExist) {
		return asLocal(err)
	}
	hint := "name an OCI image layout, as 'vmctl push' writes it"
	whole := r.path + ":" + r.Name
	if r.kind == inLayout {
		whole = filepath.Join(whole, ocispec.ImageLayoutFile)
	}
	if _, there := os.Stat(whole); r.Name != "" && there == nil {
		hint = "name the tag, too: " + r.kind + ":" + r.path + ":" + r.Name + ":TAG"
	}
	return &fail.Error{Kind: fail.Registry, Op: r.String(), Err: err, Hint: hint}
}
