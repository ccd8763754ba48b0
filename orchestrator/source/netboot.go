package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// packageCommand is the call that makes root a tree with an archive's lists, beside which lies
// the archive's package of that name, and nothing else.
func packageCommand(b definition.Bootstrap, name, root string, o Options) host.Command {
	args := []string{
		"--mode=root", "--format=directory", "--variant=custom", "--components=main",
		"--skip=check/empty,cleanup/apt/lists", `--aptopt=Acquire::Languages "none"`,
	}
	if o.APTConfig != "" {
		args = append(args, "--setup-hook=cp "+text.Word(o.APTConfig)+` "$1"`+aptSettings)
	}
	args = append(args, `--customize-hook=cd "$1" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download `+text.Word(name))
	if b.Keyring != "" {
		args = append(args, "--keyring="+b.Keyring)
	}
	args = append(args, b.Suite, root)
	if b.Mirror != "" {
		args = append(args, b.Mirror)
	}
	c := host.Cmd("mmdebstrap", args...)
	c.Env = []string{"TMPDIR=" + o.Scratch}
	return c
}

// FetchFiles gets files of a package of the archive, which apt verifies: files is their paths
// in it, and where each goes. root is a folder for the work; the state of the archive is
// returned.
func FetchFiles(ctx context.Context, h host.Host, b definition.Bootstrap, name string, files map[string]string, root string, o Options) ([]Release, error) {
	if err := errors.Join(os.MkdirAll(o.Scratch, 0o755), os.MkdirAll(root, 0o755)); err != nil {
		return nil, err
	}
	if err := h.Run(ctx, packageCommand(b, name, root, o)); err != nil {
		return nil, errors.Join(err, h.KillOthers())
	}
	fetched, err := filepath.Glob(filepath.Join(root, name+"_*.deb"))
	if err == nil && len(fetched) != 1 {
		err = fail.New(fail.Build, name, "", "apt has fetched %d files", len(fetched))
	}
	if err == nil {
		err = takeOut(ctx, h, fetched[0], files)
	}
	if err == nil {
		err = writeSources(host.Tree(root), b.Keyring)
	}
	if err != nil {
		return nil, err
	}
	return Archive(root)
}

// takeOut takes files out of a package.
func takeOut(ctx context.Context, h host.Host, deb string, files map[string]string) error {
	archive, end := io.Pipe()
	c := host.Cmd("dpkg-deb", "--fsys-tarfile", deb)
	c.Output = end
	unpacked := make(chan error, 1)
	go func() {
		err := pick(archive, files)
		_, rest := io.Copy(io.Discard, archive) // so that dpkg-deb ends
		unpacked <- errors.Join(err, rest)
	}()
	err := h.Run(ctx, c)
	_ = end.CloseWithError(err)
	return errors.Join(err, <-unpacked)
}

func pick(archive io.Reader, files map[string]string) error {
	members, left := tar.NewReader(archive), len(files)
	for left > 0 {
		member, err := members.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the package lacks %d of the %d files", left, len(files))
		}
		if err != nil {
			return err
		}
		target, wanted := files[path.Join("/", member.Name)]
		if !wanted || member.Typeflag != tar.TypeReg {
			continue
		}
		left--
		if err := writeTo(target, members); err != nil {
			return err
		}
	}
	return nil
}

func writeTo(target string, content io.Reader) error {
	file, err := os.Create(target)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Chmod(0o644), file.Close())
}
