package publish

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// PullOptions is how a disk is pulled.
type PullOptions struct {
	Selection
	Folder    string    // gets the disk
	Overwrite bool      // replace a file that holds something else
	Key       *Verifier // refuse what it did not sign; may be nil
	Retry     Retry
	Tell      Tell
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
func Pull(ctx context.Context, src Source, ref Reference, o PullOptions) (Pulled, error) {
	t := newTransfers(o.Tell)
	r := reader{ctx: ctx, src: src, retry: o.Retry, tell: t.note}
	image, err := r.find(ref, o.Selection)
	if err != nil {
		return Pulled{}, explain(ref.String(), err)
	}
	if o.Key != nil {
		attachments, err := r.referrers(image.Leaf, image.leafTag())
		if err == nil {
			err = r.signedBy(image, attachments, o.Key)
		}
		if err != nil {
			return Pulled{}, explain(ref.String(), err)
		}
	}
	path := filepath.Join(o.Folder, image.Title())
	pulled := Pulled{
		Path: path, Reference: image.Reference.String(), Digest: image.Leaf.Digest, Release: image.Release,
		Disk: image.Disk.Digest, Size: image.Disk.Size, Signed: o.Key != nil,
	}
	there, err := holds(ctx, path, image.Disk)
	if err != nil {
		return Pulled{}, err
	}
	if there {
		t.end(image.Disk, true)
		return pulled, nil
	}
	if _, err := os.Lstat(path); err == nil && !o.Overwrite {
		return Pulled{}, fail.New(fail.Usage, path, "give --overwrite, or another folder with -o", "the file is there and holds something else than %s", ref)
	}
	d := download{transfers: t, src: src, desc: image.Disk, path: path, retry: o.Retry}
	if err := d.run(ctx); err != nil {
		return Pulled{}, explain(ref.String(), err)
	}
	pulled.Received = d.received
	return pulled, nil
}

// holds says whether the file is the blob already.
func holds(ctx context.Context, path string, d ocispec.Descriptor) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != d.Size {
		return false, nil
	}
	file, err := os.Open(path)
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
	transfers *transfers
	src       content.Fetcher
	desc      ocispec.Descriptor
	path      string
	retry     Retry
	received  int64
}

// part is where the blob is until it is whole. The digest in its name keeps
// the parts of different blobs apart.
func (d *download) part() string {
	return filepath.Join(filepath.Dir(d.path), "."+filepath.Base(d.path)+"."+d.desc.Digest.Encoded()[:16]+".part")
}

func (d *download) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o755); err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "choose another folder with -o"}
	}
	lock := flock.New(d.part())
	if locked, err := lock.TryLock(); err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "choose another folder with -o"}
	} else if !locked {
		return fail.New(fail.Host, d.path, "wait for it", "another pull of it is running")
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	file, err := os.OpenFile(d.part(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	fresh := false
	for {
		err := d.fill(ctx, file)
		if errors.Is(err, errWrongBytes) && !fresh {
			// What an earlier pull left may be at fault, or a cache on the way.
			fresh = true
			if err := file.Truncate(0); err != nil {
				return err
			}
			d.transfers.note("the bytes do not have the digest " + d.desc.Digest.String() + "; again from the start")
			continue
		}
		if err != nil {
			if errors.Is(err, errWrongBytes) || errors.Is(err, unix.ENOSPC) || errors.Is(err, errNoSpace) {
				os.Remove(d.part())
			}
			return err
		}
		break
	}
	if err := errors.Join(file.Sync(), os.Rename(d.part(), d.path)); err != nil {
		return err
	}
	d.transfers.end(d.desc, false)
	return nil
}

var (
	errWrongBytes = errors.New("the registry does not send the bytes that the digest promises")
	errNoSpace    = errors.New("no space left")
)

// fill receives what the file lacks, and verifies all of it.
func (d *download) fill(ctx context.Context, file *os.File) error {
	digester := d.desc.Digest.Algorithm().Digester()
	have, err := copyInto(ctx, digester.Hash(), io.NewSectionReader(file, 0, math.MaxInt64))
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
	err = d.retry.do(ctx, moved, d.transfers.note, func() error {
		before := out.offset
		err := d.receive(ctx, out, digester.Hash())
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
		return &fail.Error{Kind: fail.Registry, Op: d.path, Err: errWrongBytes, Hint: "nothing was kept; tell the registry's owner, or push the image again"}
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
	if free := int64(stat.Bavail) * stat.Bsize; free < need && d.desc.MediaType != mediaTypeLayer+"raw" {
		return &fail.Error{Kind: fail.Host, Op: d.path, Err: fmt.Errorf("%w: %d MB needed, %d MB free", errNoSpace, need/1e6, free/1e6), Hint: "free some, or choose another folder with -o"}
	}
	return nil
}

// receive fetches from where the file ends.
func (d *download) receive(ctx context.Context, out *sparseFile, sum hash.Hash) error {
	if out.offset == d.desc.Size {
		return nil
	}
	rc, err := d.src.Fetch(ctx, d.desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	if out.offset > 0 {
		if seeker, ok := rc.(io.Seeker); ok {
			_, err = seeker.Seek(out.offset, io.SeekStart)
		} else { // a registry without range requests
			_, err = io.CopyN(io.Discard, rc, out.offset)
		}
		if err != nil {
			return err
		}
	}
	buffer := make([]byte, copyBuffer)
	for out.offset < d.desc.Size {
		n, err := io.ReadFull(rc, buffer[:min(int64(len(buffer)), d.desc.Size-out.offset)])
		if n > 0 {
			if _, err := out.Write(buffer[:n]); err != nil {
				if errors.Is(err, unix.ENOSPC) {
					return &fail.Error{Kind: fail.Host, Op: d.path, Err: err, Hint: "free some space, or choose another folder with -o"}
				}
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
	if n, _ := io.ReadFull(rc, buffer[:1]); n > 0 {
		return errWrongBytes
	}
	return nil
}
