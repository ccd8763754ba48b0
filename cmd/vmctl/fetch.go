package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/registry"
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
// file nor a build's folder or name, nor the path of what is not there.
func isReference(arg string) bool {
	info, err := os.Stat(arg)
	return (err != nil || info.IsDir() && !isBuild(arg)) && strings.ContainsAny(arg, "/:") && !isPath(arg)
}

// isPath says whether an argument can be no reference: it begins as paths do, or in a folder that
// is there, or it has no tag and ends as names of images do.
func isPath(arg string) bool {
	if registry.NamesLocal(arg) {
		return false
	}
	first, _, deep := strings.Cut(arg, "/")
	if info, err := os.Stat(first); deep && (first == "" || first == "." || first == ".." || err == nil && info.IsDir()) {
		return true
	}
	last := filepath.Base(arg)
	return !strings.Contains(last, ":") && slices.Contains(diskformat.Suffixes(), filepath.Ext(last))
}

// absent is the error for a path that leads nowhere; nil for one that does.
func absent(path string) error {
	if _, err := os.Stat(path); err != nil {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a build or an image file; what is published is HOST/REPOSITORY:TAG"}
	}
	return nil
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
