package publish

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// PullOptions is how a disk is pulled.
type PullOptions struct {
	ReadOptions
	Folder    string      // gets the disk
	Owner     files.Owner // of the disk, and of the folder where there was none
	Overwrite bool        // replace a file that holds something else
	Key       *Verifier   // refuse what it did not sign; may be nil
}

// Pulled is a disk that was pulled.
type Pulled struct {
	Path      string        `json:"path"`
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"` // of the manifest
	Release   string        `json:"release,omitempty"`
	Disk      digest.Digest `json:"disk"`
	Size      int64         `json:"size"`
	Received  int64         `json:"received"` // bytes that were transferred
	Signed    bool          `json:"signed"`   // by the key that was given
}

// Pull writes a disk to a folder. Under its name it appears whole and verified,
// or not at all; what an interrupted pull has received is used by the next one.
func Pull(ctx context.Context, src Place, ref Reference, o PullOptions) (Pulled, error) {
	if err := files.Trusted(o.Folder); err != nil {
		return Pulled{}, err
	}
	pulled, err := pull(ctx, src, ref, o)
	if err != nil {
		return Pulled{}, explain(ref.String(), err)
	}
	return pulled, nil
}

func pull(ctx context.Context, src Place, ref Reference, o PullOptions) (Pulled, error) {
	r, image, err := openImage(ctx, src, ref, o.ReadOptions)
	if err != nil {
		return Pulled{}, err
	}
	if o.Key != nil {
		attachments, err := r.attachments(image)
		if err == nil {
			err = r.signedBy(image, attachments, o.Key)
		}
		if err != nil {
			return Pulled{}, err
		}
	}
	path := filepath.Join(o.Folder, image.Title())
	pulled := Pulled{
		Path: path, Reference: image.Reference.String(), Digest: image.Leaf.Digest, Release: image.Release,
		Disk: image.Disk.Digest, Size: image.Disk.Size, Signed: o.Key != nil,
	}
	if err := files.Prepare(o.Folder, o.Owner); err != nil {
		return Pulled{}, err
	}
	in, err := openFolder(o.Folder, o.Owner)
	if err != nil {
		return Pulled{}, err
	}
	defer func() { _ = in.Close() }()
	there, err := in.holds(ctx, image.Title(), image.Disk)
	if err != nil {
		return Pulled{}, err
	}
	if there {
		r.transfers.end(image.Disk, true)
		return pulled, nil
	}
	if _, err := in.Lstat(image.Title()); err == nil && !o.Overwrite {
		return Pulled{}, fail.New(fail.Usage, path, "give --overwrite, or another folder with -o", "the file is there and holds something else than %s", ref)
	}
	d := download{reader: r, desc: image.Disk, folder: in, name: image.Title()}
	err = d.run()
	pulled.Received = d.received
	return pulled, err
}

// holds says whether the file is the blob already. A link to it is not.
func (f folder) holds(ctx context.Context, name string, d ocispec.Descriptor) (bool, error) {
	info, err := f.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != d.Size {
		return false, nil
	}
	file, err := f.regular(name, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer file.Close()
	digester := d.Digest.Algorithm().Digester()
	_, err = copyInto(ctx, digester.Hash(), file)
	return digester.Digest() == d.Digest, err
}

// download is one blob on its way into a file.
type download struct {
	reader
	desc     ocispec.Descriptor
	folder   folder
	name     string // of the file
	received int64
}

// part is where the blob is until it is whole. The digest in its name keeps
// the parts of different blobs apart.
func (d *download) part() string {
	return "." + d.name + "." + d.desc.Digest.Encoded()[:16] + ".part"
}

func (d *download) path() string { return filepath.Join(d.folder.path, d.name) }

func (d *download) run() error {
	file, err := d.folder.locked(d.part(), os.O_RDWR)
	if errors.Is(err, errLocked) {
		return fail.New(fail.Host, d.path(), "wait for it", "another pull of it is running")
	}
	if err != nil {
		return err
	}
	defer file.Close() // which unlocks it
	err = d.fill(file)
	if errors.Is(err, errWrongBytes) {
		// What an earlier pull left may be at fault, or a cache on the way.
		d.transfers.note("the bytes do not have the digest " + d.desc.Digest.String() + "; again from the start")
		if err = file.Truncate(0); err == nil {
			err = d.fill(file)
		}
	}
	if errors.Is(err, errWrongBytes) || errors.Is(err, unix.ENOSPC) || errors.Is(err, errNoSpace) {
		_ = d.folder.Remove(d.part())
	}
	if err != nil {
		return err
	}
	if err := d.keep(file); err != nil {
		return err
	}
	d.transfers.end(d.desc, false)
	return nil
}

// keep gives the file that was filled its name, and no other that took its place.
func (d *download) keep(file *os.File) error {
	if err := file.Sync(); err != nil {
		return err
	}
	if !d.folder.has(file, d.part()) {
		return d.folder.located(&fs.PathError{Op: "rename", Path: d.part(), Err: errNotOwn})
	}
	if err := d.folder.rename(d.part(), d.name); err != nil {
		return err
	}
	return d.folder.sync(".")
}

var (
	errWrongBytes = errors.New("the registry does not send the bytes that the digest promises")
	errNoSpace    = errors.New("no space left")
)

// fill receives what the file lacks, and verifies all of it.
func (d *download) fill(file *os.File) error {
	digester := d.desc.Digest.Algorithm().Digester()
	have, err := copyInto(d.ctx, digester.Hash(), io.NewSectionReader(file, 0, d.desc.Size+1))
	if err != nil {
		return err
	}
	if have > d.desc.Size {
		return errWrongBytes
	}
	if err := d.room(file, d.desc.Size-have); err != nil {
		return err
	}
	out := &sparseFile{File: file, offset: have}
	d.transfers.start(d.desc, have)
	progress := false
	moved := func() bool {
		was := progress
		progress = false
		return was
	}
	err = d.retry.do(d.ctx, moved, d.transfers.note, func() error {
		before := out.offset
		err := d.receive(out, digester.Hash())
		progress = out.offset > before
		return err
	})
	if err != nil {
		return errors.Join(err, out.finish())
	}
	if err := out.finish(); err != nil {
		return err
	}
	if digester.Digest() != d.desc.Digest {
		return &fail.Error{Kind: fail.Registry, Op: d.path(), Err: errWrongBytes, Hint: "nothing was kept; tell the registry's owner, or push the image again"}
	}
	return nil
}

// room makes sure that the rest of the blob fits, before it is fetched. A blob
// with holes may need less; that much is not refused.
func (d *download) room(file *os.File, need int64) error {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return nil //nolint:nilerr // a file system that cannot tell may still have room
	}
	if free := int64(stat.Bavail) * stat.Bsize; free < need && d.desc.MediaType != mediaTypeLayer+diskformat.Raw {
		return &fail.Error{Kind: fail.Host, Op: d.path(), Err: fmt.Errorf("%w: %d MB needed, %d MB free", errNoSpace, need/1e6, free/1e6), Hint: "free some, or choose another folder with -o"}
	}
	return nil
}

// receive fetches from where the file ends, until the context does.
func (d *download) receive(out *sparseFile, sum hash.Hash) error {
	if out.offset == d.desc.Size {
		return nil
	}
	rc, err := d.src.Fetch(d.ctx, d.desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	in := files.UntilDone(d.ctx, rc)
	if err := skip(in, rc, out.offset); err != nil {
		return err
	}
	buffer := make([]byte, copyBuffer)
	for out.offset < d.desc.Size {
		n, err := io.ReadFull(in, buffer[:min(int64(len(buffer)), d.desc.Size-out.offset)])
		if n > 0 {
			if _, err := out.Write(buffer[:n]); err != nil {
				return err
			}
			sum.Write(buffer[:n])
			d.received += int64(n)
			d.transfers.add(d.desc, n)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	if n, _ := io.ReadFull(in, buffer[:1]); n > 0 {
		return errWrongBytes
	}
	return nil
}

// skip goes on to an offset of the blob rc, which in reads.
func skip(in io.Reader, rc io.ReadCloser, offset int64) error {
	if offset == 0 {
		return nil
	}
	if seeker, ok := rc.(io.Seeker); ok {
		_, err := seeker.Seek(offset, io.SeekStart)
		return err
	}
	_, err := io.CopyN(io.Discard, in, offset) // a registry without range requests
	return err
}
