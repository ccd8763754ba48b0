package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/product"
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
		Long: `Write the disk inside an image in another format: ` + strings.Join(diskformat.Written(), ", ") + `;
or what is on it:

` + formatsHelp() + `
What was written is read back and compared. Files appear under their names once they are
whole; the same disk gives the same bytes. No root is needed.

` + exitCodes,
		Example: `  vmctl convert debian vmdk
  vmctl convert images/debian/debian-13-amd64.qcow2 vhd -o azure
  vmctl convert debian oci -o containers`,
		RunE: func(cmd *cobra.Command, args []string) error { return runConvert(cmd, o, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", ".", "folder that gets the file")
	flags.StringVar(&o.builds, "images", defaultFolder, "folder with the builds, where a NAME is given")
	flags.BoolVar(&o.overwrite, "overwrite", false, "replace a file of the same name")
	return cmd
}

// formatsHelp is the formats that are no images of a disk.
func formatsHelp() string {
	var b strings.Builder
	for _, f := range format.All() {
		if !f.Disk {
			fmt.Fprintf(&b, "  %-10s  %s\n", f.Name, f.About)
		}
	}
	return b.String()
}

// converted is what a conversion has made.
type converted struct {
	image.File
	Path  string      `json:"path"`
	Files []converted `json:"files,omitempty"` // all of them, where they are several
}

func runConvert(cmd *cobra.Command, o convertOptions, from, name string) error {
	to := format.Named(name)
	if to.Name == "" {
		return fail.New(fail.Usage, "", cmp.Or(didYouMean(name, "", format.Names()), "known: "+strings.Join(format.Names(), ", ")), "%q is no format that can be written", name)
	}
	if err := orchestrator.Refusal(orchestrator.Preflight(orchestrator.Needs{Formats: []string{name}})); err != nil {
		return err
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
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if err := files.CheckFileName(base); err != nil {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "give the image another name"}
	}
	c := conversion{h: &host.Local{}, file: file, is: is, folder: o.folder, overwrite: o.overwrite, owner: files.Caller()}
	if err := c.mayWrite(base + "." + to.Suffix); err != nil {
		return err
	}
	if err := files.Prepare(o.folder, c.owner); err != nil {
		return err
	}
	made, err := c.write(cmd.Context(), name, subjectOf(build, base))
	if err != nil {
		return fail.Wrap(fail.Build, "convert "+from, err)
	}
	var results []converted
	for _, f := range made {
		results = append(results, converted{File: f, Path: filepath.Join(o.folder, f.Name)})
	}
	result := results[0]
	if len(results) > 1 {
		result.Files = results
	}
	if asJSON(cmd, result) {
		return nil
	}
	for _, r := range results {
		fmt.Fprintln(cmd.OutOrStdout(), r.Path)
	}
	return nil
}

// subjectOf is what formats tell of an image: what the record of its build says, where there
// is one.
func subjectOf(build orchestrator.Built, base string) product.Subject {
	settings := machine.Defaults()
	of := product.Subject{Base: base, Name: base, Memory: settings.Memory, CPUs: settings.CPUs, Epoch: time.Unix(0, 0)}
	if build.Name != "" {
		d := build.Definition
		of.Name, of.Version, of.Description, of.Epoch = build.Name, build.Version, d.Description, time.Unix(build.Epoch, 0)
		of.Memory, of.CPUs, of.UEFI = cmp.Or(int64(d.Test.Memory), of.Memory), cmp.Or(d.Test.CPUs, of.CPUs), !slices.Contains(d.Firmware, arch.BIOS)
	}
	return of
}

// conversion is of an open image into files of a folder.
type conversion struct {
	h         host.Host
	file      *os.File
	is        string // the image's format
	folder    string
	overwrite bool
	owner     files.Owner
}

// mayWrite refuses to replace a file, unless that is wanted.
func (c conversion) mayWrite(name string) error {
	target := filepath.Join(c.folder, name)
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) && !c.overwrite {
		return fail.New(fail.Usage, target, "give --overwrite, or another folder with -o", "it is there already")
	}
	return nil
}

// write writes the disk in the image in a format, in a folder beside the files until they are
// whole.
func (c conversion) write(ctx context.Context, name string, of product.Subject) (made []image.File, err error) {
	folder, err := os.MkdirTemp(c.folder, ".vmctl-convert-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	of.Disk = image.Name(c.file)
	if c.is != diskformat.Raw {
		of.Disk = filepath.Join(folder, ".disk")
		if err := c.h.Run(ctx, image.Unpack(c.file, c.is, of.Disk)); err != nil {
			return nil, err
		}
	}
	if err := product.Unreadable(name, of.Disk); err != nil {
		return nil, err
	}
	if of.SHA256, of.Size, err = image.Digest(ctx, of.Disk); err != nil {
		return nil, err
	}
	if made, err = product.Make(ctx, c.h, name, of, folder); err != nil {
		return nil, err
	}
	for _, f := range made {
		if err := c.mayWrite(f.Name); err != nil {
			return nil, err
		}
	}
	return made, c.deliver(folder, made)
}

// deliver puts whole files in their places; those that were put there go where others cannot.
func (c conversion) deliver(folder string, made []image.File) error {
	for i, f := range made {
		out, target := filepath.Join(folder, f.Name), filepath.Join(c.folder, f.Name)
		mode := os.FileMode(0o644)
		if info, err := os.Stat(out); err == nil {
			mode |= info.Mode() & 0o111
		}
		err := errors.Join(c.owner.Give(out), os.Chmod(out, mode))
		if err == nil {
			err = os.Rename(out, target)
		}
		if err != nil {
			for _, before := range made[:i] {
				err = errors.Join(err, os.Remove(filepath.Join(c.folder, before.Name)))
			}
			return err
		}
	}
	return files.Sync(c.folder)
}
