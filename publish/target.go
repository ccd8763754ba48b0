package publish

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Kinds of places that hold images.
const (
	inRegistry = ""
	inLayout   = "oci"
	inArchive  = "oci-archive"
)

// Reference names an image: HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG], or
// oci-archive:FILE[:TAG].
type Reference struct {
	kind string
	path string             // of the layout or archive
	repo registry.Reference // of the registry
	Name string             // tag or digest; may be empty
}

// ParseReference reads a reference.
func ParseReference(s string) (Reference, error) {
	malformed := func(problem string) error {
		return fail.New(fail.Usage, s, "write HOST/REPOSITORY[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]", "%s", problem)
	}
	if kind, rest, ok := strings.Cut(s, ":"); ok && (kind == inLayout || kind == inArchive) {
		path, name := rest, ""
		if path, digest, found := strings.Cut(rest, "@"); found {
			return Reference{kind: kind, path: path, Name: digest}, nil
		}
		if i := strings.LastIndex(rest, ":"); i > strings.LastIndex(rest, "/") {
			path, name = rest[:i], rest[i+1:]
		}
		if path == "" {
			return Reference{}, malformed("no path")
		}
		return Reference{kind: kind, path: path, Name: name}, nil
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return Reference{}, malformed("a reference has no scheme; write " + strings.TrimPrefix(rest, "//"))
	}
	if host, _, ok := strings.Cut(s, "/"); ok && strings.Contains(host, "@") {
		return Reference{}, fail.New(fail.Usage, "", "use --username and --password-stdin, or 'vmctl login'", "a reference holds no user and no password")
	}
	repo, err := registry.ParseReference(s)
	if err != nil {
		return Reference{}, malformed(err.Error())
	}
	return Reference{repo: repo, Name: repo.Reference}, nil
}

// String is the reference as ParseReference reads it.
func (r Reference) String() string {
	at := ":"
	if r.digest() {
		at = "@"
	}
	if r.Name == "" {
		at = ""
	}
	if r.kind != inRegistry {
		return r.kind + ":" + r.path + at + r.Name
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

// Tag is the tag of a reference to push to, "" for none.
func (r Reference) Tag() (string, error) {
	if r.digest() {
		return "", fail.New(fail.Usage, r.String(), "name a tag, or none", "a digest follows from what is pushed; it cannot be chosen")
	}
	return r.Name, nil
}

func (r Reference) digest() bool { return strings.Contains(r.Name, ":") }

// Source is a place to read images from.
type Source interface {
	oras.ReadOnlyGraphTarget
}

// OpenSource opens the place to read from.
func (a Access) OpenSource(ctx context.Context, r Reference) (Source, error) {
	switch r.kind {
	case inArchive:
		store, err := oci.NewFromTar(ctx, r.path)
		return store, unreadable(r, err)
	case inLayout:
		if _, err := os.Stat(filepath.Join(r.path, ocispec.ImageLayoutFile)); err != nil {
			return nil, unreadable(r, err)
		}
		store, err := oci.NewFromFS(ctx, os.DirFS(r.path))
		return store, unreadable(r, err)
	default:
		return a.repository(ctx, r)
	}
}

func unreadable(r Reference, err error) error {
	if err == nil {
		return nil
	}
	return &fail.Error{Kind: fail.Registry, Op: r.String(), Err: err, Hint: "name an OCI image layout, as 'vmctl push' writes it"}
}

// Destination is a place to push to. Commit makes what was pushed visible,
// where that does not happen at once; Close gives up what was not committed.
type Destination interface {
	oras.GraphTarget
	Commit() error
	Close() error
}

// OpenDestination opens the place to push to.
func (a Access) OpenDestination(ctx context.Context, r Reference) (Destination, error) {
	switch r.kind {
	case inArchive:
		return openArchive(ctx, r.path)
	case inLayout:
		return openLayout(ctx, r.path)
	default:
		repository, err := a.repository(ctx, r)
		if err != nil {
			return nil, err
		}
		return direct{repository}, nil
	}
}

// direct is a destination that shows everything at once.
type direct struct{ oras.GraphTarget }

func (direct) Commit() error { return nil }
func (direct) Close() error  { return nil }

// layout is an OCI image layout. Its index is written in a folder beside the
// blobs and renamed into place at the end, so that readers never see half a
// push and a killed push leaves the index as it was.
type layout struct {
	*oci.Store
	dir   string
	stage string
	lock  *flock.Flock
}

const (
	stageName = ".push"
	lockName  = ".lock"
)

func openLayout(ctx context.Context, dir string) (_ *layout, err error) {
	if err := mayBeLayout(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir), 0o755); err != nil {
		return nil, &fail.Error{Kind: fail.Host, Err: err, Hint: "name a folder that can be written"}
	}
	l := &layout{dir: dir, stage: filepath.Join(dir, stageName), lock: flock.New(filepath.Join(dir, lockName))}
	if locked, err := l.lock.TryLock(); err != nil {
		return nil, err
	} else if !locked {
		return nil, fail.New(fail.Registry, "oci:"+dir, "wait for it", "another push is running")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := errors.Join(os.RemoveAll(l.stage), os.Mkdir(l.stage, 0o755)); err != nil {
		return nil, err
	}
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		before, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(l.stage, name), before, 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(filepath.Join("..", ocispec.ImageBlobsDir), filepath.Join(l.stage, ocispec.ImageBlobsDir)); err != nil {
		return nil, err
	}
	l.Store, err = oci.NewWithContext(ctx, l.stage)
	if err != nil {
		return nil, unreadable(Reference{kind: inLayout, path: dir}, err)
	}
	l.AutoSaveIndex = false
	return l, nil
}

// mayBeLayout refuses a folder that holds what is not ours. One without a
// layout may hold what a killed first push left, and nothing else.
func mayBeLayout(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a folder"}
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	if names[ocispec.ImageLayoutFile] || len(names) == 0 {
		return nil
	}
	killed := names[lockName]
	for _, own := range []string{lockName, stageName, ocispec.ImageBlobsDir} {
		delete(names, own)
	}
	if killed && len(names) == 0 {
		return nil
	}
	return fail.New(fail.Usage, inLayout+":"+dir, "name a new folder, or one that 'vmctl push' made", "the folder holds something else than an OCI image layout")
}

// Push implements content.Pusher. Disks keep their holes, and all of it survives
// a power failure that comes after Commit.
func (l *layout) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	path := filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded())
	if isManifest(d) || d.Size < copyBuffer {
		if err := l.Store.Push(ctx, d, r); err != nil {
			return err
		}
		return writeThrough(path)
	}
	file, err := os.CreateTemp(l.stage, "blob")
	if err != nil {
		return err
	}
	defer file.Close()
	verified := content.NewVerifyReader(r, d)
	out := &sparseFile{File: file}
	if _, err := copyInto(ctx, out, verified); err != nil {
		return err
	}
	if err := errors.Join(verified.Verify(), out.finish(), file.Chmod(0o444), file.Sync()); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Rename(file.Name(), path))
}

// Commit makes the push visible.
func (l *layout) Commit() error {
	if err := l.SaveIndex(); err != nil {
		return err
	}
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		staged := filepath.Join(l.stage, name)
		if err := writeThrough(staged); err != nil {
			return err
		}
		if err := os.Rename(staged, filepath.Join(l.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// writeThrough writes a file through to the disk.
func writeThrough(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// Close removes what was not committed, and a folder that holds nothing.
func (l *layout) Close() error {
	err := os.RemoveAll(l.stage)
	if _, missing := os.Stat(filepath.Join(l.dir, ocispec.ImageLayoutFile)); missing != nil {
		err = errors.Join(err, os.RemoveAll(filepath.Join(l.dir, ocispec.ImageBlobsDir)), os.Remove(filepath.Join(l.dir, lockName)), l.lock.Unlock())
		_ = os.Remove(l.dir) // fails where it holds what is not ours
		return err
	}
	return errors.Join(err, l.lock.Unlock())
}

// archive is a layout in a tar file. It is written anew by each push.
type archive struct {
	*layout
	path string
}

func openArchive(ctx context.Context, path string) (*archive, error) {
	if _, err := os.Stat(path); err == nil {
		return nil, fail.New(fail.Usage, path, "remove it, or name another file", "the archive exists already")
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return nil, &fail.Error{Kind: fail.Host, Err: err, Hint: "name a file in a folder that can be written"}
	}
	l, err := openLayout(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &archive{l, path}, nil
}

// Commit writes the archive.
func (a *archive) Commit() error {
	if err := a.layout.Commit(); err != nil {
		return err
	}
	part := filepath.Join(a.dir, ".tar")
	if err := writeArchive(part, a.dir); err != nil {
		return err
	}
	return os.Rename(part, a.path)
}

// Close removes the folder that the archive was made of.
func (a *archive) Close() error { return errors.Join(a.layout.Close(), os.RemoveAll(a.dir)) }

func writeArchive(path, dir string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	out := tar.NewWriter(file)
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		inside, _ := filepath.Rel(dir, name)
		if err != nil || inside == "." {
			return err
		}
		if strings.HasPrefix(inside, ".") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		header.Name, header.Uid, header.Gid, header.Uname, header.Gname = filepath.ToSlash(inside), 0, 0, "", ""
		if err := out.WriteHeader(header); err != nil || entry.IsDir() {
			return err
		}
		blob, err := os.Open(name)
		if err != nil {
			return err
		}
		defer blob.Close()
		_, err = io.Copy(out, blob)
		return err
	})
	return errors.Join(err, out.Close(), file.Sync())
}
