package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/machine"
)

type launchOptions struct {
	defs     *definitions
	folder   string
	name     string
	memory   string
	size     string
	cpus     int
	firmware string
	ports    []string
	share    string
	network  string
	accel    string
	timeout  time.Duration
	noWait   bool
	pull     pullFlags
}

func newLaunch(defs *definitions) *cobra.Command {
	o := launchOptions{defs: defs}
	cmd := &cobra.Command{
		Use:   "launch NAME|IMAGE|REF",
		Short: "Start a test machine from a build, an image or a published one",
		Long: `Start a machine in the background and wait until it is up: until its ssh server
answers or, where the image has none, its console shows a prompt. The image is not
changed. What is published is pulled and verified first.

A key is made for the machine, and the image is told of it by systemd credentials
(systemd 252 or newer) or cloud-init, so that 'vmctl ssh' works as root; the serial
console, which only you reach, has root logged in (systemd 256 or newer). The machine
is yours alone and needs no root. conf.d/NAME.conf, which a build writes and you edit,
says what it has; flags say otherwise. From its network, the machine reaches what you
reach, also this host as 10.0.2.2.
` + registryHelp + exitCodes,
		Example: `  vmctl launch debian
  vmctl launch debian --name web --memory 2G --port 8080:80 --share site
  vmctl launch registry.example/lab/debian:13 --firmware uefi --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return runLaunch(cmd, o, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.name, "name", "", "name of the machine (default: that of what it is launched from)")
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder with the builds, where a NAME is given")
	flags.StringVar(&o.memory, "memory", "", "memory of the machine (default 1G)")
	flags.StringVar(&o.size, "size", "", "size of the machine's disk (default: that of the image)")
	flags.IntVar(&o.cpus, "cpus", 0, "processors under KVM; emulation has one (default 2)")
	flags.StringSliceVar(&o.ports, "port", nil, "HOST:GUEST, a TCP port of 127.0.0.1 that leads to one of the machine's")
	flags.StringVar(&o.firmware, "firmware", "", "firmware: "+strings.Join(choices["firmware"], ", ")+" (default: the first that the build asks for)")
	flags.StringVar(&o.share, "share", "", "folder that the machine has at "+machine.SharedAt)
	flags.StringVar(&o.network, "network", "", "user, or none for no more than the ports (default user)")
	acceleratorFlag(cmd, &o.accel)
	waitFlags(cmd, &o.timeout, &o.noWait)
	o.pull.add(cmd)
	return cmd
}

func acceleratorFlag(cmd *cobra.Command, accel *string) {
	cmd.Flags().StringVar(accel, "accel", "auto", "accelerator: auto, kvm or tcg")
}

func waitFlags(cmd *cobra.Command, timeout *time.Duration, noWait *bool) {
	cmd.Flags().DurationVar(timeout, "timeout", 10*time.Minute, "how long the machine may take to be up")
	cmd.Flags().BoolVar(noWait, "no-wait", false, "do not wait until it is up")
}

// origin is what a machine is launched from.
type origin struct {
	path   string // of the image; "" where it is to be pulled
	format string // that it is said to have
	ref    string
	build  orchestrator.Built // empty where it is none
	conf   machine.Conf
}

func runLaunch(cmd *cobra.Command, o launchOptions, target string) error {
	from, err := findOrigin(o.defs, buildsFlag(cmd, "output"), target)
	if err != nil {
		return err
	}
	record := machine.Record{Name: o.name, Source: target, Build: from.build.Name, Guest: guestOf(from.build), Accel: o.accel, Settings: from.conf.Settings}
	if err := o.over(&record.Settings); err != nil {
		return err
	}
	record.Name = cmp.Or(record.Name, from.build.Name, machine.NameFor(target))
	needs := orchestrator.Needs{
		Test: true, Login: true,
		Firmware: []string{record.Firmware}, Memory: definition.Size(record.Memory),
	}
	if err := orchestrator.Refusal(orchestrator.Preflight(needs)); err != nil {
		return err
	}
	m, run, err := launch(cmd, o, from, record)
	if err != nil {
		return err
	}
	tellOfGuest(cmd.ErrOrStderr(), m)
	err = awaitMachine(cmd, m, run, o.timeout, o.noWait)
	if err != nil {
		err = errors.Join(&fail.Error{Kind: fail.Boot, Err: err, Hint: "the machine is removed: 'vmctl test' says more of an image, and --no-wait leaves the machine as it is"}, m.Remove())
		return err
	}
	return showMachine(cmd, m)
}

// showMachine is the result of what starts a machine.
func showMachine(cmd *cobra.Command, m machine.Machine) error {
	if !asJSON(cmd, m.Status()) {
		fmt.Fprintln(cmd.OutOrStdout(), m.Name)
	}
	return nil
}

// launch makes the machine and starts it. What fails leaves nothing.
func launch(cmd *cobra.Command, o launchOptions, from origin, record machine.Record) (m machine.Machine, run machine.Run, err error) {
	folder, err := machine.UsersFolder()
	if err != nil {
		return m, run, err
	}
	making, err := folder.Prepare(record.Name)
	if err != nil {
		return m, run, err
	}
	defer func() { err = errors.Join(err, making.Close()) }()
	if from.path == "" {
		if from.path, err = o.pull.verified(cmd, from.ref, making.Folder()); err != nil {
			return m, run, err
		}
	}
	file, format, err := image.Open(from.path, from.format)
	if err != nil {
		return m, run, err
	}
	defer file.Close()
	record.Image = machine.Image{Path: from.path, Format: format}
	host, err := machine.FindHost(cmd.Context(), o.accel)
	if err != nil {
		return m, run, err
	}
	if m, err = making.Create(cmd.Context(), host, file, record); err != nil {
		return m, run, err
	}
	if run, err = making.Begin(cmd.Context(), host, m); err != nil {
		return m, run, errors.Join(err, m.Remove())
	}
	return m, run, nil
}

// over is the settings with what the flags say.
func (o launchOptions) over(s *machine.Settings) error {
	if o.memory != "" {
		var err error
		if s.Memory, err = machine.ParseMemory(o.memory); err != nil {
			return err
		}
	}
	if o.size != "" {
		var err error
		if s.Size, err = machine.ParseDiskSize(o.size); err != nil {
			return err
		}
	}
	s.CPUs, s.Firmware, s.Network = cmp.Or(o.cpus, s.CPUs), cmp.Or(o.firmware, s.Firmware), cmp.Or(o.network, s.Network)
	if len(o.ports) > 0 {
		s.Ports = nil
	}
	for _, text := range o.ports {
		port, err := machine.ParsePort(text)
		if err != nil {
			return err
		}
		s.Ports = append(s.Ports, port)
	}
	if s.Share = cmp.Or(o.share, s.Share); s.Share == "" {
		return nil
	}
	if err := existingFolder(s.Share); err != nil {
		return fail.Wrap(fail.Usage, "shared folder", err)
	}
	var err error
	s.Share, err = filepath.Abs(s.Share)
	return err
}

// guestOf is what is known of a build's guest.
func guestOf(b orchestrator.Built) machine.Guest {
	if b.Name == "" {
		return machine.Guest{}
	}
	return machine.Guest{Known: true, Systemd: b.Systemd(), CloudInit: b.Has("cloud-init"), Seeded: len(b.Definition.SeedParts()) > 0, SSH: b.Has("openssh-server")}
}

// buildsFolder is the folder with the builds.
type buildsFolder struct {
	path   string
	chosen bool // by who calls, and no default
}

// buildsFlag is the folder that the flag of that name says.
func buildsFlag(cmd *cobra.Command, name string) buildsFolder {
	flag := cmd.Flag(name)
	return buildsFolder{flag.Value.String(), flag.Changed}
}

// findOrigin is what the target names: an image file, a build, or what is published. The disk that
// a build's file in conf.d names counts before that in the folder with the builds, unless somebody chose
// the folder, or a build wrote the file and that disk is gone.
func findOrigin(defs *definitions, builds buildsFolder, target string) (origin, error) {
	from := origin{conf: machine.Conf{Settings: machine.Defaults()}}
	if isReference(target) {
		from.ref = target
		return from, nil
	}
	info, err := os.Stat(target)
	if strings.ContainsRune(target, '/') || err == nil && info.Mode().IsRegular() {
		from.path, from.build, err = findImage(target, builds.path)
		from.asBuilt()
		return from, err
	}
	if err := definition.CheckName(target); err != nil {
		return from, &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a build, an image file, or a reference such as HOST/REPOSITORY:TAG"}
	}
	from.path, from.build, err = findImage(target, builds.path)
	from.asBuilt()
	from.conf.Disk = from.path
	if reading := from.conf.ReadConf(defs.dir, target); reading != nil {
		return from, reading
	}
	_, there := os.Stat(from.conf.Disk)
	stale := from.conf.Unedited && err == nil && errors.Is(there, fs.ErrNotExist)
	if builds.chosen || stale || from.conf.Disk == "" || from.conf.Disk == from.path {
		return from, err
	}
	from.path, from.build, err = findImage(from.conf.Disk, builds.path)
	if err != nil {
		err = &fail.Error{Kind: fail.Usage, Op: machine.ConfPath(defs.dir, target), Err: err, Hint: "mend its disk, run 'vmctl build " + target + "', or name the folder with the builds"}
	}
	from.format = from.build.Format(filepath.Base(from.path))
	return from, err
}

// asBuilt is the settings that the build's boot test had.
func (f *origin) asBuilt() {
	if f.build.Name != "" {
		f.conf.Settings, f.format = launchSettings(f.build.Definition), f.build.Format(filepath.Base(f.path))
	}
}

func launchSettings(d definition.Definition) machine.Settings {
	s := machine.Defaults()
	s.Memory, s.CPUs = cmp.Or(int64(d.Test.Memory), s.Memory), cmp.Or(d.Test.CPUs, s.CPUs)
	if len(d.Firmware) > 0 {
		s.Firmware = d.Firmware[0]
	}
	return s
}

// writeConf writes what 'vmctl launch' reads of a build, if that has an image of its disk.
func writeConf(definitions, folder string, m orchestrator.Manifest) error {
	bootable, ok := m.Bootable()
	if !ok {
		return nil
	}
	c := machine.Conf{Disk: filepath.Join(folder, m.Name, bootable.Name), Settings: launchSettings(m.Definition)}
	return c.WriteConf(definitions, m.Name, files.Caller())
}

// tellOfGuest says what an image is known not to understand.
func tellOfGuest(stderr io.Writer, m machine.Machine) {
	if !m.Guest.Open() {
		fmt.Fprintln(stderr, "nobody can log in by ssh: the image lacks openssh-server, or both systemd 252 and cloud-init")
	}
	if m.Share != "" && !m.Guest.Shares() {
		fmt.Fprintf(stderr, "the image does not mount the shared folder by itself: 'mount -t 9p -o trans=virtio share %s'\n", machine.SharedAt)
	}
}

// awaitMachine waits until the machine is up and says how that shows.
func awaitMachine(cmd *cobra.Command, m machine.Machine, run machine.Run, timeout time.Duration, noWait bool) error {
	stderr := cmd.ErrOrStderr()
	if noWait {
		return nil
	}
	fmt.Fprintf(stderr, "%s is starting (%s, %s)\n", m.Name, m.Firmware, run.Accel)
	how, err := m.Wait(cmd.Context(), run, timeout)
	if err != nil {
		return err
	}
	verb := "ssh"
	if how == machine.UpByPrompt {
		verb = "console"
	}
	fmt.Fprintf(stderr, "%s is up after %.1f s: %s; use 'vmctl %s %s'\n", m.Name, time.Since(run.Started).Seconds(), how, verb, m.Name)
	return nil
}

// openMachine is the user's machine of that name.
func openMachine(name string) (machine.Machine, error) {
	folder, err := machine.UsersFolder()
	if err != nil {
		return machine.Machine{}, err
	}
	return folder.Open(name)
}

// machineHost is what a machine can be started on again.
func machineHost(ctx context.Context, m machine.Machine) (machine.Host, error) {
	needs := orchestrator.Needs{Test: true, Login: true, Firmware: []string{m.Firmware}, Memory: definition.Size(m.Memory)}
	if err := orchestrator.Refusal(orchestrator.Preflight(needs)); err != nil {
		return machine.Host{}, err
	}
	return machine.FindHost(ctx, m.Accel)
}
