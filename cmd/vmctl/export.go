package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/export"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
)

type exportOptions struct {
	defs   *definitions
	folder string
	name   string
	sshKey string
}

func newExport(defs *definitions) *cobra.Command {
	o := exportOptions{defs: defs}
	cmd := &cobra.Command{
		Use:   "export KIND NAME|IMAGE",
		Short: "Describe a machine for libvirt, Terraform, Proxmox and others",
		Long: `Write a folder with what another program needs to run a machine from an image: a
description, and the disk in the format that the program wants. KIND is

` + exportHelp() + `
The machine has the memory, processors and firmware of conf.d/NAME.conf, else those of the
build's boot test. Two commands that use it are printed. The folder must not be there yet.

` + exitCodes,
		Example: `  vmctl export libvirt debian --ssh-key ~/.ssh/id_ed25519.pub
  vmctl export terraform debian -o site
  vmctl export proxmox images/debian/debian-13-amd64.qcow2 --name web`,
		RunE: func(cmd *cobra.Command, args []string) error { return runExport(cmd, o, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", "", "folder to make (default: NAME-KIND)")
	flags.String("images", defaultFolder, "folder with the builds, where a NAME is given")
	flags.StringVar(&o.name, "name", "", "name of the machine (default: that of its image)")
	flags.StringVar(&o.sshKey, "ssh-key", "", "file with a public key that root may log in with, by systemd credentials")
	return cmd
}

func exportHelp() string {
	var b strings.Builder
	for _, k := range export.Kinds {
		fmt.Fprintf(&b, "  %-15s  %s\n", k.Name, k.About)
	}
	return b.String()
}

// exported is the result of an export.
type exported struct {
	Folder   string   `json:"folder"`
	Files    []string `json:"files"`
	Commands []string `json:"commands"` // to use it, in the folder
}

func runExport(cmd *cobra.Command, o exportOptions, name, target string) error {
	kind := export.Named(name)
	if kind.Name == "" {
		return fail.New(fail.Usage, "", cmp.Or(didYouMean(name, "", export.Names()), "known: "+strings.Join(export.Names(), ", ")), "nothing can be exported for %q", name)
	}
	if err := orchestrator.Refusal(orchestrator.Preflight(orchestrator.Needs{Formats: []string{kind.Format}})); err != nil {
		return err
	}
	from, err := findOrigin(o.defs, buildsFlag(cmd, "images"), target)
	if err != nil {
		return err
	}
	if from.ref != "" {
		return fail.New(fail.Usage, target, "pull it first, with 'vmctl pull'", "it is no file and no build")
	}
	m, err := o.machine(kind, from)
	if err != nil {
		return err
	}
	if o.folder == "" {
		o.folder = m.Name + "-" + kind.Name
	}
	if m.Folder, err = filepath.Abs(o.folder); err != nil {
		return err
	}
	result, err := o.write(cmd, kind, m, from)
	if err != nil {
		return fail.Wrap(fail.Build, "export "+target, err)
	}
	if asJSON(cmd, result) {
		return nil
	}
	for _, file := range result.Files {
		fmt.Fprintln(cmd.OutOrStdout(), file)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "in %s:\n", result.Folder)
	for _, command := range result.Commands {
		fmt.Fprintln(cmd.ErrOrStderr(), "  "+command)
	}
	return nil
}

// machine is what is described, less its disk.
func (o exportOptions) machine(kind export.Kind, from origin) (export.Machine, error) {
	base := strings.TrimSuffix(filepath.Base(from.path), filepath.Ext(from.path))
	m := export.Machine{
		Name: cmp.Or(o.name, from.build.Name, base), Memory: from.conf.Memory, CPUs: from.conf.CPUs, Firmware: from.conf.Firmware,
		Description: cmp.Or(from.build.Definition.Description, base),
	}
	if err := files.CheckFileName(m.Name); err != nil {
		return m, &fail.Error{Kind: fail.Usage, Err: err, Hint: "give another name with --name"}
	}
	if can := from.build.Definition.Firmware; kind.UEFI && m.Firmware == arch.BIOS {
		m.Firmware = arch.UEFI
		if len(can) > 0 && !slices.Contains(can, arch.UEFI) && !slices.Contains(can, arch.SecureBoot) {
			return m, fail.New(fail.Usage, m.Name, "build it with 'layout: hybrid'", "%s starts machines with UEFI alone, and it boots on %s", kind.Name, strings.Join(can, ", "))
		}
	}
	if o.sshKey == "" {
		return m, nil
	}
	if !kind.Keyed {
		return m, fail.New(fail.Usage, "", "leave --ssh-key away", "%s hands no key in", kind.Name)
	}
	content, err := os.ReadFile(o.sshKey)
	if err != nil {
		return m, &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a file with a public key"}
	}
	m.Key = strings.TrimSpace(string(content))
	if _, _, _, rest, err := ssh.ParseAuthorizedKey(content); err != nil || len(bytes.TrimSpace(rest)) > 0 || strings.Contains(m.Key, "\n") {
		return m, fail.New(fail.Usage, o.sshKey, "name the file that ends in .pub", "it does not hold one public key")
	}
	return m, nil
}

// write makes the folder, which appears whole or not at all.
func (o exportOptions) write(cmd *cobra.Command, kind export.Kind, m export.Machine, from origin) (result exported, err error) {
	if _, err := os.Lstat(m.Folder); !errors.Is(err, fs.ErrNotExist) {
		return result, fail.New(fail.Usage, o.folder, "remove it, or choose another folder with -o", "it is there already")
	}
	owner := files.Caller()
	above := filepath.Dir(m.Folder)
	if err := files.Prepare(above, owner); err != nil {
		return result, err
	}
	file, is, err := image.Open(from.path, from.format)
	if err != nil {
		return result, err
	}
	defer file.Close()
	work, err := os.MkdirTemp(above, ".vmctl-export-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	c := conversion{h: &host.Local{}, file: file, is: is, folder: work, owner: owner}
	made, err := c.write(cmd.Context(), kind.Format, subjectOf(from.build, m.Name))
	if err != nil {
		return result, err
	}
	m.File = made[0].Name
	content, err := kind.Describe(m)
	if err != nil {
		return result, err
	}
	description := filepath.Join(work, kind.FileName(m.Name))
	err = errors.Join(os.WriteFile(description, content, 0o644), owner.Give(description), os.Chmod(work, 0o755), owner.Give(work))
	if err != nil {
		return result, err
	}
	if err := os.Rename(work, m.Folder); err != nil {
		return result, err
	}
	return exported{
		Folder: o.folder, Commands: kind.Commands(m.Name),
		Files: []string{filepath.Join(o.folder, kind.FileName(m.Name)), filepath.Join(o.folder, m.File)},
	}, files.Sync(above)
}
