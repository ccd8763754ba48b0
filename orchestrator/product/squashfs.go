package product

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// squashfsAttributes is those that squashfs can hold.
func squashfsAttributes(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "user.")
}

// packSquashfs reads the archive of a tree. Higher levels take several times as long for little;
// the defaults are of folders that the archive does not have.
func packSquashfs(path string, in io.Reader) host.Command {
	c := host.Cmd("tar2sqfs", "--quiet", "--no-skip", "--compressor", "zstd", "--comp-extra", "level=9", "--block-size", strconv.Itoa(128<<10), "--defaults", "mtime=0", path)
	c.Input = in
	return c
}

// unpackSquashfs prints the tree as an archive.
func unpackSquashfs(path string, out io.Writer) host.Command {
	c := host.Cmd("sqfs2tar", "--no-skip", "--root-becomes", ".", path)
	c.Output = out
	return c
}

func (w *work) squashfs() error {
	if err := w.writeSquashfs(w.own()); err != nil {
		return err
	}
	return w.finished(w.own(), 0)
}

// writeSquashfs packs the tree with the tools of squashfs-tools-ng, which write the same bytes
// for the same tree, and reads it back.
func (w *work) writeSquashfs(path string) error {
	read, write := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := w.writeTree(write, squashfsAttributes)
		_ = write.CloseWithError(err)
		written <- err
	}()
	err := w.host.Run(w.ctx, packSquashfs(path, read))
	_ = read.CloseWithError(io.ErrClosedPipe)
	if writing := <-written; writing != nil && !errors.Is(writing, io.ErrClosedPipe) {
		return writing
	}
	if err != nil {
		return err
	}
	return w.checkSquashfs(path)
}

func (w *work) checkSquashfs(path string) error {
	read, write := io.Pipe()
	compared := make(chan error, 1)
	go func() {
		err := w.compareTree(read, squashfsAttributes)
		_, _ = io.Copy(io.Discard, read)
		compared <- err
	}()
	err := w.host.Run(w.ctx, unpackSquashfs(path, write))
	_ = write.CloseWithError(err)
	if comparing := <-compared; err == nil {
		err = comparing
	}
	return err
}
