package unpack

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// What removes files of the layers below (OCI image specification, Representing Changes).
const (
	whiteout       = ".wh."         // before the name of one
	whiteoutMarks  = ".wh..wh."     // what is no name, but said of the folder
	whiteoutOpaque = ".wh..wh..opq" // all that the layers below have in the folder
)

// Layers unpacks the layers of a container image, the lowest first.
type Layers struct {
	ctx    context.Context
	tree   *tree
	buffer []byte
}

// NewLayers begins to unpack layers into the folder root, which is empty.
func NewLayers(ctx context.Context, root string) (*Layers, error) {
	t, err := openTree(root)
	return &Layers{ctx, t, make([]byte, files.CopyBuffer)}, err
}

// Close ends it, after the error that it is given, if any.
func (l *Layers) Close(err error) error { return l.tree.close(err) }

// Add unpacks the next layer, which is compressed by gzip or zstd, or not at all, and is an
// error unless that has the SHA-256.
func (l *Layers) Add(in io.Reader, digest string) error {
	plain, err := Decompress(l.ctx, in, nil)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	sum := sha256.New()
	all := io.TeeReader(files.UntilDone(l.ctx, plain), sum)
	one := layer{l, tar.NewReader(all), map[string]bool{}}
	if err := one.unpack(); err != nil {
		return err
	}
	if rest, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(all, mostPadding)}, l.buffer); err != nil || rest == mostPadding {
		return errors.Join(damaged("something follows the end of the archive"), err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); digest != "" && "sha256:"+got != digest {
		return damaged("unpacked, its SHA-256 is %s, and not %s", got, digest)
	}
	return nil
}

// mostPadding is how much may follow the end of an archive.
const mostPadding = 1 << 20

// layer is one that is being unpacked.
type layer struct {
	*Layers
	archive *tar.Reader
	own     map[string]bool // names that it has, which its whiteouts leave alone
}

func (l *layer) unpack() error {
	for {
		h, err := l.archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if l.ctx.Err() != nil {
			return l.ctx.Err()
		}
		if err != nil {
			return damaged("after %d files: %w", l.tree.met, err)
		}
		if err := l.entry(h); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

func (l *layer) entry(h *tar.Header) error {
	name := path.Clean("/" + h.Name)
	if err := l.tree.meet(name, h.Size); err != nil {
		return err
	}
	switch base := path.Base(name); {
	case h.Typeflag == tar.TypeXGlobalHeader:
		return nil
	case base == whiteoutOpaque:
		return l.removeLower(path.Dir(name))
	case strings.HasPrefix(base, whiteoutMarks):
		return nil
	case strings.HasPrefix(base, whiteout):
		return l.whiteout(path.Dir(name), strings.TrimPrefix(base, whiteout))
	case isDevice(h) && strings.HasPrefix(name, "/dev/"):
		return nil // the machine's own will be there
	case isDevice(h):
		return noDevices()
	}
	for above := name; above != "/" && !l.own[above]; above = path.Dir(above) {
		l.own[above] = true
	}
	if h.Typeflag == tar.TypeLink {
		return l.tree.link(name, path.Clean("/"+h.Linkname))
	}
	node, err := nodeOf(h)
	if err != nil {
		return err
	}
	return l.tree.put(name, node, func(file *os.File) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{l.archive}, l.buffer)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return damaged("it is cut off")
		}
		return err
	})
}

func isDevice(h *tar.Header) bool { return h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock }

var kinds = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG, tar.TypeCont: unix.S_IFREG,
	tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeFifo: unix.S_IFIFO,
}

// attributePrefix is of the PAX records that hold extended attributes.
const attributePrefix = "SCHILY.xattr."

func nodeOf(h *tar.Header) (*rawdisk.Node, error) {
	kind, known := kinds[h.Typeflag]
	if !known {
		return nil, damaged("it is of no known kind (%q)", h.Typeflag)
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return nil, damaged("it belongs to nobody (%d:%d)", h.Uid, h.Gid)
	}
	node := &rawdisk.Node{
		Mode: kind | uint32(h.Mode)&0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), ModTime: h.ModTime, Size: h.Size, Target: h.Linkname, Attributes: map[string]string{},
	}
	for key, value := range h.PAXRecords {
		if name, is := strings.CutPrefix(key, attributePrefix); is && files.OfTheFile(name) {
			node.Attributes[name] = value
		}
	}
	return node, nil
}

// whiteout removes what the layers below have of a name.
func (l *layer) whiteout(folder, base string) error {
	if base == "" || base == "." || base == ".." {
		return damaged("it removes %q", base)
	}
	name := path.Join(folder, base)
	if l.own[name] {
		return l.removeLower(name)
	}
	fd, err := l.tree.folder(folder, false)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return Remove(fd, base)
}

func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// removeLower removes what the layers below have in a folder.
func (l *layer) removeLower(name string) error {
	fd, err := l.tree.folder(name, false)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	entries, err := os.ReadDir(below(fd, "."))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		inside := path.Join(name, entry.Name())
		switch {
		case !l.own[inside]:
			err = Remove(fd, entry.Name())
		case entry.Type() == fs.ModeDir:
			err = l.removeLower(inside)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
