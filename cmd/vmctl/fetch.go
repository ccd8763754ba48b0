package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/publish"
)

// pullFlags is for verbs that use an image that may be a published one.
type pullFlags struct {
	key      string
	registry registryFlags
}

func (f *pullFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "key", "", "public key (PEM) that must have signed what is pulled")
	f.registry.add(cmd)
}

// find is the image that an argument names, and the format that it is said to have: a file,
// that of a build, or a published one, which is in a folder for big files until remove.
func (f *pullFlags) find(cmd *cobra.Command, arg, builds string) (path, format string, remove func() error, err error) {
	remove = func() error { return nil }
	if !isReference(arg) {
		path, build, err := findImage(arg, builds)
		return path, build.Format(filepath.Base(path)), remove, err
	}
	folder, err := os.MkdirTemp(host.LargeTemp(), "vmctl-pull-")
	if err != nil {
		return "", "", remove, err
	}
	remove = func() error { return os.RemoveAll(folder) }
	if path, err = f.verified(cmd, arg, folder); err != nil {
		err = errors.Join(err, remove())
	}
	return path, "", remove, err
}

// isReference says whether an argument is the reference of a published image: it is neither a
// file nor a build's folder or name.
func isReference(arg string) bool {
	info, err := os.Stat(arg)
	return (err != nil || info.IsDir() && !isBuild(arg)) && strings.ContainsAny(arg, "/:")
}

// verified fetches a published image once all that is attached to it was found to
// belong to it.
func (f *pullFlags) verified(cmd *cobra.Command, arg, folder string) (path string, err error) {
	key, err := verifierFlag(f.key)
	if err != nil {
		return "", err
	}
	ref, src, err := f.registry.place(cmd, arg)
	if err != nil {
		return "", err
	}
	show := newProgress(cmd.ErrOrStderr(), false)
	defer show.close()
	read := publish.ReadOptions{Selection: publish.Selection{Architecture: arch.Target.OCI}, Tell: show.transfer}
	if _, err := publish.Verify(cmd.Context(), src, ref, publish.VerifyOptions{ReadOptions: read, Key: key}); err != nil {
		return "", err
	}
	pulled, err := publish.Pull(cmd.Context(), src, ref, publish.PullOptions{ReadOptions: read, Folder: folder, Key: key})
	return pulled.Path, err
}
