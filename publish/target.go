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

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

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

// Destination is a place to push to. Commit makes what was pushed visible,
// where that does not happen at once; Close gives up what was not committed.
type Destination interface {
	oras.GraphTarget
	Commit(ctx context.Context) error
	Close() error
}

// OpenDestination opens the place to push to.
func (a Access) OpenDestination(ctx context.Context, r Reference) (Destination, error) {
	switch r.kind {
	case inArchive:
		return openArchive(ctx, r.path, a.Owner)
	case inLayout:
		return openLayout(ctx, r.path, a.Owner)
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

func (direct) Commit(context.Context) error { return nil }
func (direct) Close() error                 { return nil }

// layout is an OCI image layout. Its index is written in a folder beside the
// blobs and renamed into place at the end, so that readers never see half a
// push and a killed push leaves the index as it was.
type layout struct {
	*oci.Store
	dir   string
	stage string
	lock  *os.File
	owner files.Owner
}

const (
	stageName = ".push"
	lockName  = ".lock"
)

func openLayout(ctx context.Context, dir string, owner files.Owner) (_ *layout, err error) {
	if err := files.Trusted(dir); err != nil {
		return nil, err
	}
	if err := mayBeLayout(dir); err != nil {
		return nil, err
	}
	l := &layout{dir: dir, stage: filepath.Join(dir, stageName), owner: owner}
	if err := l.makeFolders(); err != nil {
		return nil, asLocalBelow(dir, err)
	}
	l.lock, err = openLocked(filepath.Join(dir, lockName), owner)
	if errors.Is(err, errLocked) {
		return nil, fail.New(fail.Registry, inLayout+":"+dir, "wait for it", "another push is running")
	}
	if err != nil {
		return nil, asLocalBelow(dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := l.prepare(); err != nil {
		return nil, asLocalBelow(dir, err)
	}
	l.Store, err = oci.NewWithContext(ctx, l.stage)
	if err != nil {
		return nil, unreadable(Reference{kind: inLayout, path: dir}, err)
	}
	l.AutoSaveIndex = false
	return l, nil
}

// blobs is the folder that blobs of the algorithm lie in.
func (l *layout) blobs(algorithm digest.Algorithm) string {
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, algorithm.String())
}

// makeFolders makes the folders of the layout, and sure that they can be written:
// a push that finds out in its middle has sent a disk in vain.
func (l *layout) makeFolders() error {
	blobs := l.blobs(digest.Canonical)
	if err := l.owner.MakeFolders(blobs); err != nil {
		return err
	}
	for _, folder := range []string{l.dir, filepath.Dir(blobs), blobs} {
		if err := unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK, unix.AT_EACCESS); err != nil {
			return &fs.PathError{Op: "write to", Path: folder, Err: err}
		}
	}
	return nil
}

// prepare makes the stage: a layout with the index as it was, and the blobs.
func (l *layout) prepare() error {
	if err := errors.Join(os.RemoveAll(l.stage), l.owner.MakeFolders(l.stage)); err != nil {
		return err
	}
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		before, err := os.ReadFile(filepath.Join(l.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(l.stage, name), before, 0o644); err != nil {
			return err
		}
	}
	return os.Symlink(filepath.Join("..", ocispec.ImageBlobsDir), filepath.Join(l.stage, ocispec.ImageBlobsDir))
}

// mayBeLayout refuses a folder that holds what is not ours. One without a
// layout may hold what a killed first push left, and nothing else.
func mayBeLayout(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a folder"}
	}
	if err != nil {
		return asLocal(err)
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

// Exists implements content.ReadOnlyStorage. A blob that is not whole, as a power
// failure in an earlier push may have left it, is not there. Disks are looked at
// by their size alone: they get their names when they are on the disk.
func (l *layout) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	there, err := l.Store.Exists(ctx, d)
	if !there || err != nil {
		return there, err
	}
	path := l.blob(d)
	if info, err := os.Stat(path); err != nil || info.Size() == d.Size && d.Size >= copyBuffer {
		return err == nil, err
	}
	if blob, err := os.ReadFile(path); err != nil || d.Digest.Algorithm().FromBytes(blob) == d.Digest {
		return err == nil, err
	}
	return false, os.Remove(path)
}

func (l *layout) blob(d ocispec.Descriptor) string {
	return filepath.Join(l.blobs(d.Digest.Algorithm()), d.Digest.Encoded())
}

// Push implements content.Pusher. Disks keep their holes, and all of it survives
// a power failure that comes after Commit.
func (l *layout) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	path := l.blob(d)
	if isManifest(d) { // which the store must know of
		if err := l.Store.Push(ctx, d, r); err != nil {
			return err
		}
		return errors.Join(writeThrough(path), l.owner.Give(path))
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
	if err := errors.Join(verified.Verify(), out.finish(), file.Chmod(0o444), l.owner.Give(file.Name()), file.Sync()); err != nil {
		return err
	}
	return errors.Join(l.owner.MakeFolders(filepath.Dir(path)), os.Rename(file.Name(), path))
}

// Commit makes the push visible. Its blobs have their names for good before the
// index names them.
func (l *layout) Commit(ctx context.Context) error { return asLocal(l.commit(ctx)) }

func (l *layout) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.syncBlobs(); err != nil {
		return err
	}
	if err := l.SaveIndex(); err != nil {
		return err
	}
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		staged := filepath.Join(l.stage, name)
		if err := errors.Join(writeThrough(staged), l.owner.Give(staged)); err != nil {
			return err
		}
		if err := os.Rename(staged, filepath.Join(l.dir, name)); err != nil {
			return err
		}
	}
	return files.Sync(l.dir)
}

// syncBlobs writes the names of the blobs through to the disk.
func (l *layout) syncBlobs() error {
	all := filepath.Join(l.dir, ocispec.ImageBlobsDir)
	algorithms, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	for _, algorithm := range algorithms {
		if algorithm.IsDir() {
			if err := files.Sync(filepath.Join(all, algorithm.Name())); err != nil {
				return err
			}
		}
	}
	return files.Sync(all)
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
		err = errors.Join(err, os.RemoveAll(filepath.Join(l.dir, ocispec.ImageBlobsDir)), os.Remove(filepath.Join(l.dir, lockName)), l.lock.Close())
		_ = os.Remove(l.dir) // fails where it holds what is not ours
		return err
	}
	return errors.Join(err, l.lock.Close())
}

// archive is a layout in a tar file. It is written anew by each push.
type archive struct {
	*layout
	path string
}

func openArchive(ctx context.Context, path string, owner files.Owner) (*archive, error) {
	if err := files.Trusted(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err == nil {
		return nil, fail.New(fail.Usage, path, "remove it, or name another file", "the archive exists already")
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return nil, asLocal(err)
	}
	l, err := openLayout(ctx, dir, owner)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &archive{l, path}, nil
}

// Commit writes the archive.
func (a *archive) Commit(ctx context.Context) error {
	return asLocal(a.commit(ctx))
}

func (a *archive) commit(ctx context.Context) error {
	if err := a.layout.commit(ctx); err != nil {
		return err
	}
	part := filepath.Join(a.dir, ".tar")
	if err := writeArchive(ctx, part, a.dir); err != nil {
		return err
	}
	if err := errors.Join(a.owner.Give(part), os.Rename(part, a.path)); err != nil {
		return err
	}
	return files.Sync(filepath.Dir(a.path))
}

// Close removes the folder that the archive was made of.
func (a *archive) Close() error { return errors.Join(a.layout.Close(), os.RemoveAll(a.dir)) }

func writeArchive(ctx context.Context, path, dir string) error {
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
		return addToArchive(ctx, out, name, inside, entry)
	})
	return errors.Join(err, out.Close(), file.Sync())
}

func addToArchive(ctx context.Context, out *tar.Writer, path, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = filepath.ToSlash(name), 0, 0, "", ""
	if err := out.WriteHeader(header); err != nil || entry.IsDir() {
		return err
	}
	blob, err := os.Open(path)
	if err != nil {
		return err
	}
	defer blob.Close()
	_, err = copyInto(ctx, out, blob)
	return err
}
