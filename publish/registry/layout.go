package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish/limit"
)

// layout is an OCI image layout. Its index is written in a folder beside the
// blobs and renamed into place at the end, so that readers never see half a
// push and a killed push leaves the index as it was.
type layout struct {
	*Store
	folder folder
	lock   *os.File
	staged atomic.Int64 // files that were made in the stage
}

const (
	stageName = ".push"
	lockName  = ".lock"
)

func openLayout(dir string, owner files.Owner) (_ *layout, err error) {
	if err := mayBeLayout(dir); err != nil {
		return nil, err
	}
	if err := files.Prepare(dir, owner); err != nil {
		return nil, asLocalBelow(dir, err)
	}
	opened, err := openFolder(dir, owner)
	if err != nil {
		return nil, asLocalBelow(dir, err)
	}
	l := &layout{folder: opened, Store: newStore(FolderFS(opened.Root, "."))}
	if err := l.makeFolders(); err != nil {
		return nil, errors.Join(asLocalBelow(dir, err), opened.Close())
	}
	l.lock, err = opened.locked(lockName, os.O_RDONLY)
	if errors.Is(err, errLocked) {
		return nil, errors.Join(fail.New(fail.Registry, inLayout+":"+dir, "wait for it", "another push is running"), opened.Close())
	}
	if err != nil {
		return nil, errors.Join(asLocalBelow(dir, err), opened.Close())
	}
	if err := l.prepare(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// makeFolders makes the folders of the layout, and sure that they can be written:
// a push that finds out in its middle has sent a disk in vain.
func (l *layout) makeFolders() error {
	blobs := filepath.Join(ocispec.ImageBlobsDir, digest.Canonical.String())
	if err := l.folder.make(ocispec.ImageBlobsDir, digest.Canonical.String()); err != nil {
		return err
	}
	for _, name := range []string{".", ocispec.ImageBlobsDir, blobs} {
		if err := l.folder.writable(name); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the stage, and reads the index as it was.
func (l *layout) prepare() error {
	dir := l.folder.path
	if err := l.folder.located(l.folder.RemoveAll(stageName)); err != nil {
		return asLocalBelow(dir, err)
	}
	if err := l.folder.make(stageName); err != nil {
		return asLocalBelow(dir, err)
	}
	err := l.checkVersion()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = l.readIndex()
	}
	return unreadable(Reference{kind: inLayout, path: dir}, err)
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
	file, err := l.Open(d.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := file.Stat()
	if err := errors.Join(err, file.Close()); err != nil {
		return false, err
	}
	if info.Size() == d.Size && d.Size >= files.CopyBuffer {
		return true, nil
	}
	if info.Size() == d.Size {
		if _, err := content.FetchAll(ctx, l, d); err == nil {
			return true, nil
		}
	}
	name, err := blobName(d.Digest)
	if err != nil {
		return false, err
	}
	return false, l.folder.located(l.folder.Remove(name))
}

// Push implements content.Pusher. Disks keep their holes, and all of it survives
// a power failure that comes after Commit.
func (l *layout) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	name, err := blobName(d.Digest)
	if err != nil {
		return err
	}
	staged := filepath.Join(stageName, strconv.FormatInt(l.staged.Add(1), 10))
	file, err := l.folder.create(staged, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	verified := content.NewVerifyReader(r, d)
	out := &sparseFile{File: file}
	if _, err := files.Copy(ctx, out, verified); err != nil {
		return err
	}
	if err := errors.Join(verified.Verify(), out.finish(), file.Chmod(0o444), file.Sync()); err != nil {
		return err
	}
	if err := l.folder.make(ocispec.ImageBlobsDir, d.Digest.Algorithm().String()); err != nil {
		return err
	}
	if err := l.folder.rename(staged, name); err != nil {
		return err
	}
	if IsManifestType(d.MediaType) {
		l.name(d, "")
	}
	return nil
}

// Tag implements content.Tagger.
func (l *layout) Tag(_ context.Context, d ocispec.Descriptor, tag string) error {
	l.name(d, tag)
	return nil
}

func (l *layout) name(d ocispec.Descriptor, tag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(ocispec.Descriptor{MediaType: d.MediaType, ArtifactType: d.ArtifactType, Digest: d.Digest, Size: d.Size}, tag)
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
	for _, one := range []struct {
		name string
		v    any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, l.encode()},
	} {
		content, err := json.Marshal(one.v)
		if err == nil {
			err = limit.AtMost("bytes of "+one.name, int64(len(content)), largestIndex)
		}
		if err == nil {
			err = l.folder.replace(filepath.Join(stageName, one.name), one.name, content)
		}
		if err != nil {
			return err
		}
	}
	return l.folder.sync(".")
}

// syncBlobs writes the names of the blobs through to the disk.
func (l *layout) syncBlobs() error {
	algorithms, err := fs.ReadDir(l.folder.FS(), ocispec.ImageBlobsDir)
	if err != nil {
		return l.folder.located(err)
	}
	for _, algorithm := range algorithms {
		if algorithm.IsDir() {
			if err := l.folder.sync(filepath.Join(ocispec.ImageBlobsDir, algorithm.Name())); err != nil {
				return err
			}
		}
	}
	return l.folder.sync(ocispec.ImageBlobsDir)
}

// Close removes what was not committed, and a folder that holds nothing.
func (l *layout) Close() error {
	err := l.folder.RemoveAll(stageName)
	if _, missing := l.folder.Lstat(ocispec.ImageLayoutFile); missing != nil {
		err = errors.Join(err, l.folder.RemoveAll(ocispec.ImageBlobsDir), l.folder.Remove(lockName))
		_ = os.Remove(l.folder.path) // fails where it holds what is not ours
	}
	return errors.Join(l.folder.located(err), l.lock.Close(), l.folder.Close())
}
