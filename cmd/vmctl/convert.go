package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
)

type convertOptions struct {
	folder    string
	builds    string
	overwrite bool
}

func newConvert() *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert NAME|IMAGE FORMAT",
		Short: "Write a disk image in another format",
		Long: `Write the disk inside an image in another format: ` + strings.Join(diskformat.Written(), ", ") + `.
What was written is read back and compared. The file appears under its name once it is
whole; the same disk gives the same bytes. No root is needed.

` + exitCodes,
		Example: `  vmctl convert debian vmdk
  vmctl convert images/debian/debian-13-amd64.qcow2 vhd -o azure`,
		RunE: func(cmd *cobra.Command, args []string) error { return runConvert(cmd, o, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", ".", "folder that gets the file")
	flags.StringVar(&o.builds, "images", defaultFolder, "folder with the builds, where a NAME is given")
	flags.BoolVar(&o.overwrite, "overwrite", false, "replace a file of the same name")
	return cmd
}

// converted is what a conversion has made.
type converted struct {
	image.File
	Path string `json:"path"`
}

func runConvert(cmd *cobra.Command, o convertOptions, from, format string) error {
	if !diskformat.Named(format).Written {
		return fail.New(fail.Usage, "", cmp.Or(didYouMean(format, "", diskformat.Written()), "known: "+strings.Join(diskformat.Written(), ", ")), "%q is no format that can be written", format)
	}
	path, build, err := findImage(from, o.builds)
	if err != nil {
		return err
	}
	file, is, err := image.Open(path, build.Format(filepath.Base(path)))
	if err != nil {
		return err
	}
	defer file.Close()
	base := filepath.Base(path)
	target := filepath.Join(o.folder, strings.TrimSuffix(base, filepath.Ext(base))+"."+format)
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) && !o.overwrite {
		return fail.New(fail.Usage, target, "give --overwrite, or another folder with -o", "it is there already")
	}
	owner := files.Caller()
	if err := files.Prepare(o.folder, owner); err != nil {
		return err
	}
	made, err := writeImage(cmd.Context(), &host.Local{}, file, is, format, target, owner)
	if err != nil {
		return fail.Wrap(fail.Build, "convert "+from, err)
	}
	result := converted{made, target}
	if asJSON(cmd, result) {
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout(), target)
	return nil
}

// writeImage writes the disk in an open image as another one, in a folder beside it until it
// is whole.
func writeImage(ctx context.Context, h host.Host, file *os.File, is, format, target string, owner files.Owner) (made image.File, err error) {
	folder, err := os.MkdirTemp(filepath.Dir(target), ".vmctl-convert-")
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	raw := image.Name(file)
	if is != diskformat.Raw {
		raw = filepath.Join(folder, "disk")
		if err := h.Run(ctx, image.Unpack(file, is, raw)); err != nil {
			return made, err
		}
	}
	sum, _, err := image.Digest(ctx, raw)
	if err != nil {
		return made, err
	}
	out := filepath.Join(folder, "image")
	if made, err = image.Make(ctx, h, raw, sum, format, out); err != nil {
		return made, err
	}
	made.Name = filepath.Base(target)
	if err := errors.Join(owner.Give(out), os.Chmod(out, 0o644)); err != nil {
		return made, err
	}
	if err := os.Rename(out, target); err != nil {
		return made, err
	}
	return made, files.Sync(filepath.Dir(target))
}
