package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Download is one blob on its way into a file. Under its name it appears whole and
// verified, or not at all; what an interrupted one has received is used by the next one.
type Download struct {
	From      content.Fetcher
	Of        Reference // for people
	Blob      ocispec.Descriptor
	Holes     bool        // it may need far less room on the disk than it has bytes
	Folder    string      // gets the file, and is made where there is none
	Name      string      // of the file: files.CheckFileName is the caller's part
	Owner     files.Owner // of the file, and of the folder where there was none
	Overwrite bool        // replace a file that holds something else
	Retry     Retry
	Transfers *Transfers
}

// Run receives the blob, unless the file is there and is it already, and says how many
// bytes were transferred. It is ErrWrongBytes where they do not have the blob's digest, a
// fail.Usage error where the file holds something else, and a fail.Host error where there
// is no room or another process receives it.
func (d Download) Run(ctx context.Context) (received int64, err error) {
	if err := files.Prepare(d.Folder, d.Owner); err != nil {
		return 0, err
	}
	in, err := openFolder(d.Folder, d.Owner)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	there, err := in.holds(ctx, d.Name, d.Blob)
	if err != nil {
		return 0, err
	}
	if there {
		d.Transfers.End(d.Blob, true)
		return 0, nil
	}
	if _, err := in.Lstat(d.Name); err == nil && !d.Overwrite {
		return 0, fail.New(fail.Usage, d.path(), "give --overwrite, or another folder with -o", "the file is there and holds something else than %s", d.Of)
	}
	one := download{Download: d, ctx: ctx, folder: in}
	err = one.run()
	return one.received, err
}

func (d Download) path() string { return filepath.Join(d.Folder, d.Name) }

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
	_, err = files.Copy(ctx, digester.Hash(), file)
	return digester.Digest() == d.Digest, err
}

// download is a Download that runs.
type download struct {
	Download
	ctx      context.Context
	folder   folder
	received int64
}

// part is where the blob is until it is whole. The digest in its name keeps
// the parts of different blobs apart.
func (d *download) part() string {
	return "." + d.Name + "." + d.Blob.Digest.Encoded()[:16] + ".part"
}

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
	if errors.Is(err, ErrWrongBytes) {
		// What an earlier pull left may be at fault, or a cache on the way.
		d.Transfers.Note("the bytes do not have the digest " + d.Blob.Digest.String() + "; again from the start")
		if err = file.Truncate(0); err == nil {
			err = d.fill(file)
		}
	}
	if errors.Is(err, ErrWrongBytes) || errors.Is(err, unix.ENOSPC) || errors.Is(err, errNoSpace) {
		_ = d.folder.Remove(d.part())
	}
	if err != nil {
		return err
	}
	if err := d.keep(file); err != nil {
		return err
	}
	d.Transfers.End(d.Blob, false)
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
	if err := d.folder.rename(d.part(), d.Name); err != nil {
		return err
	}
	return d.folder.sync(".")
}

// ErrWrongBytes is what a registry sends that does not have the digest it was asked for.
var ErrWrongBytes = errors.New("the registry does not send the bytes that the digest promises")

var errNoSpace = errors.New("no space left")

// fill receives what the file lacks, and verifies all of it.
func (d *download) fill(file *os.File) error {
	digester := d.Blob.Digest.Algorithm().Digester()
	have, err := files.Copy(d.ctx, digester.Hash(), io.NewSectionReader(file, 0, d.Blob.Size+1))
	if err != nil {
		return err
	}
	if have > d.Blob.Size {
		return ErrWrongBytes
	}
	if err := d.room(file, d.Blob.Size-have); err != nil {
		return err
	}
	out := &sparseFile{File: file, offset: have}
	d.Transfers.start(d.Blob, have)
	progress := false
	moved := func() bool {
		was := progress
		progress = false
		return was
	}
	err = d.Retry.Do(d.ctx, moved, d.Transfers.Note, func() error {
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
	if digester.Digest() != d.Blob.Digest {
		return &fail.Error{Kind: fail.Registry, Op: d.path(), Err: ErrWrongBytes, Hint: "nothing was kept; tell the registry's owner, or push the image again"}
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
	if free := int64(stat.Bavail) * stat.Bsize; free < need && !d.Holes {
		return &fail.Error{Kind: fail.Host, Op: d.path(), Err: fmt.Errorf("%w: %d MB needed, %d MB free", errNoSpace, need/1e6, free/1e6), Hint: "free some, or choose another folder with -o"}
	}
	return nil
}

// receive fetches from where the file ends, until the context does.
func (d *download) receive(out *sparseFile, sum hash.Hash) error {
	if out.offset == d.Blob.Size {
		return nil
	}
	rc, err := d.From.Fetch(d.ctx, d.Blob)
	if err != nil {
		return err
	}
	defer rc.Close()
	in := files.UntilDone(d.ctx, rc)
	if err := skip(in, rc, out.offset); err != nil {
		return err
	}
	buffer := make([]byte, files.CopyBuffer)
	for out.offset < d.Blob.Size {
		n, err := io.ReadFull(in, buffer[:min(int64(len(buffer)), d.Blob.Size-out.offset)])
		if n > 0 {
			if _, err := out.Write(buffer[:n]); err != nil {
				return err
			}
			sum.Write(buffer[:n])
			d.received += int64(n)
			d.Transfers.add(d.Blob, n)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	if n, _ := io.ReadFull(in, buffer[:1]); n > 0 {
		return ErrWrongBytes
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
