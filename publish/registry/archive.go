package registry

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish/limit"
)

// archive is a layout in a tar file. It is written anew by each push.
type archive struct {
	*layout
	path string
}

func openArchive(path string, owner files.Owner) (*archive, error) {
	if err := files.Trusted(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fail.New(fail.Usage, path, "remove it, or name another file", "the archive exists already")
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return nil, asLocal(err)
	}
	l, err := openLayout(dir, owner)
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
	const part = ".tar"
	if err := a.write(ctx, part); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(a.folder.path, part), a.path); err != nil {
		return err
	}
	return files.Sync(filepath.Dir(a.path))
}

// Close removes the folder that the archive was made of.
func (a *archive) Close() error {
	return errors.Join(a.layout.Close(), os.RemoveAll(a.folder.path))
}

func (a *archive) write(ctx context.Context, part string) error {
	file, err := a.folder.create(part, 0o666)
	if err != nil {
		return err
	}
	defer file.Close()
	out := tar.NewWriter(file)
	all := a.folder.FS()
	err = fs.WalkDir(all, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if strings.HasPrefix(name, ".") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return addToArchive(ctx, out, all, name, entry)
	})
	return errors.Join(err, out.Close(), file.Sync())
}

func addToArchive(ctx context.Context, out *tar.Writer, from fs.FS, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = name, 0, 0, "", ""
	if err := out.WriteHeader(header); err != nil || entry.IsDir() {
		return err
	}
	blob, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = blob.Close() }()
	_, err = files.Copy(ctx, out, blob)
	return err
}

// archiveFS is the files of a tar archive, as fs.FS. The archive stays open until
// the process ends.
type archiveFS struct {
	file    *os.File
	members map[string]member
}

const longestMember = 200 // bytes of a name; those of a layout are far shorter

type member struct {
	header *tar.Header
	offset int64
}

func openArchiveFS(name string) (fs.FS, error) {
	file, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	a := &archiveFS{file: file, members: map[string]member{}}
	if err := a.list(); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

func (a *archiveFS) list() error {
	in := tar.NewReader(a.file)
	for n := int64(1); ; n++ {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := limit.AtMost("files in the archive", n, mostEntries); err != nil {
			return err
		}
		offset, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if name := path.Clean(header.Name); header.Typeflag == tar.TypeReg && len(name) <= longestMember {
			a.members[name] = member{&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: header.Size, Mode: header.Mode}, offset}
		}
	}
}

// Open implements fs.FS. What it gives can seek.
func (a *archiveFS) Open(name string) (fs.File, error) {
	found, ok := a.members[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return archived{io.NewSectionReader(a.file, found.offset, found.header.Size), found.header}, nil
}

type archived struct {
	*io.SectionReader
	header *tar.Header
}

func (a archived) Stat() (fs.FileInfo, error) { return a.header.FileInfo(), nil }
func (archived) Close() error                 { return nil }
