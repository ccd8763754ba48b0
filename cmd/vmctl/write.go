package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/flash"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

type writeOptions struct {
	folder string
	seed   string
	yes    bool
	pull   pullFlags
}

func newWrite() *cobra.Command {
	var o writeOptions
	cmd := &cobra.Command{
		Use:   "write NAME|IMAGE|REF DISK",
		Short: "Write an image onto a disk of this machine",
		Long: `Write the disk in an image onto a whole disk of this machine, such as a USB stick or the
disk of a server that was started from one, and read it back. What is published is pulled
and verified first. A disk of which anything is mounted or in use is refused, and so is one
whose sectors do not have 512 bytes; what is on it is shown, and you are asked, unless --yes
is given.

The copy of the partition table goes to the end of the disk; the root file system takes the
rest of it when the machine starts, where the build has not turned that off (disk.grow).
With --seed, a partition at the end of the disk tells cloud-init what this one machine is:
'vmctl seed' makes it. What fails or is interrupted, be it by a loss of power, leaves a disk
that nothing starts from.
` + registryHelp + exitCodes,
		Example: `  sudo vmctl write debian /dev/sdb
  sudo vmctl write registry.example/lab/debian:13 /dev/disk/by-id/ata-… --yes --seed web-1.iso`,
		RunE: func(cmd *cobra.Command, args []string) error { return runWrite(cmd, o, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder with the builds, where a NAME is given")
	flags.StringVar(&o.seed, "seed", "", "seed of cloud-init for this machine, as 'vmctl seed' writes it")
	flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	o.pull.add(cmd)
	return cmd
}

// wrote is the result of a disk that was written.
type wrote struct {
	*flash.Device
	Image   string  `json:"image"`
	Written int64   `json:"written"` // bytes
	Seconds float64 `json:"seconds"`
}

func runWrite(cmd *cobra.Command, o writeOptions, from, to string) (err error) {
	if err := orchestrator.Refusal(orchestrator.Preflight(orchestrator.Needs{Write: true})); err != nil {
		return err
	}
	h := &host.Local{}
	device, err := flash.Open(cmd.Context(), h, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	job := flash.Job{Tell: func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), step) }}
	if o.seed != "" {
		if job.Seed, err = files.OpenRegular(o.seed); err != nil {
			return &fail.Error{Kind: fail.Usage, Err: err, Hint: "make it with 'vmctl seed'"}
		}
		defer job.Seed.Close()
		if err := flash.CheckSeed(job.Seed); err != nil {
			return err
		}
	}
	path, said, remove, err := o.pull.find(cmd, from, o.folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if job.Image, job.Format, err = image.Open(path, said); err != nil {
		return err
	}
	defer job.Image.Close()
	if job.Size, err = sizeOf(cmd, job); err != nil {
		return err
	}
	if err := o.ask(cmd, device, from); err != nil {
		return err
	}
	started := time.Now()
	if err := device.Write(cmd.Context(), h, job); err != nil {
		return fail.Wrap(fail.Build, "write "+device.Path, err)
	}
	result := wrote{Device: device, Image: from, Written: job.Size, Seconds: time.Since(started).Seconds()}
	if !asJSON(cmd, result) {
		fmt.Fprintln(cmd.OutOrStdout(), device.Path)
	}
	return nil
}

// sizeOf has a QEMU that reaches nothing else tell the size of the disk in the image.
func sizeOf(cmd *cobra.Command, job flash.Job) (int64, error) {
	uid, gid := files.Caller().IDs()
	confinement, err := vm.Confine(cmd.Context(), uid, gid)
	if err != nil {
		return 0, err
	}
	size, err := confinement.Describe(cmd.Context(), job.Image, job.Format)
	return size, fail.Wrap(fail.Usage, filepath.Base(job.Image.Name()), err)
}

// ask shows what will be lost, and wants a yes.
func (o writeOptions) ask(cmd *cobra.Command, device *flash.Device, from string) error {
	stderr := cmd.ErrOrStderr()
	fmt.Fprintf(stderr, "%s will be written onto %s\n", from, device)
	for _, what := range device.Holds {
		fmt.Fprintln(stderr, "  erased:", what)
	}
	if o.yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return fail.New(fail.Usage, "", "give --yes", "nobody can be asked whether %s may be erased", device.Path)
	}
	fmt.Fprintf(stderr, "Type yes to erase %s: ", device.Path)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		return fail.New(fail.Usage, "", "", "%s is left as it is", device.Path)
	}
	return nil
}
