package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/product"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/text"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Ways into a machine that is provisioned.
const (
	viaSSH     = "ssh"
	viaConsole = "console"
)

type provisionOptions struct {
	via       string
	folder    string
	name      string
	memory    string
	cpus      int
	firmware  []string
	network   string
	accel     string
	timeout   time.Duration
	noTest    bool
	overwrite bool
}

func newProvision(defs *definitions) *cobra.Command {
	var o provisionOptions
	cmd := &cobra.Command{
		Use:   "provision NAME|IMAGE SCRIPT|PLAYBOOK",
		Short: "Make another image of one, by a script or playbook that runs in its machine",
		Long: `Start a copy of an image as a machine, run a script or a playbook of Ansible (.yml, .yaml) in
it as root, seal it as builds are sealed, switch it off, and write its disk as a new
image, which is booted on each firmware. The original is not changed. A key is handed
in and taken out again, as 'launch' does it; no root is needed. What fails leaves
nothing: a script that does ends vmctl with exit code 4 and its last lines.

--via console types at the serial console, where systemd 256 or newer has root logged
in: for images without an ssh server or network. Playbooks need ssh, and python3 in
the image. Unlike a build, the result depends on the day, and is no input of another one.

` + exitCodes,
		Example: `  vmctl provision debian setup.sh
  vmctl provision disk.qcow2 site.yml --name shop -o images
  vmctl provision debian setup.sh --via console --network none --no-test`,
		RunE: func(cmd *cobra.Command, args []string) error { return runProvision(cmd, defs, o, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.via, "via", viaSSH, "way in: ssh or console")
	flags.StringVarP(&o.folder, "output", "o", ".", "folder that gets the image")
	flags.StringVar(&o.name, "name", "", "name of the image, without suffix (default: that of the original with -provisioned)")
	flags.String("images", defaultFolder, "folder with the builds, where a NAME is given")
	flags.StringVar(&o.memory, "memory", "", "memory of the machine (default 1G)")
	flags.IntVar(&o.cpus, "cpus", 0, "processors under KVM; emulation has one (default 2)")
	flags.StringSliceVar(&o.firmware, "firmware", nil, "firmware to boot on, the first for the script: "+strings.Join(choices["firmware"], ", ")+" (default: what the build asks for, else all)")
	flags.StringVar(&o.network, "network", "", "user, or none (default user)")
	acceleratorFlag(cmd, &o.accel)
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long the machine may take to be up, and each boot of the test")
	flags.BoolVar(&o.noTest, "no-test", false, "do not boot the result")
	flags.BoolVar(&o.overwrite, "overwrite", false, "replace a file of the same name")
	return cmd
}

// provisioned is an image that was made by provisioning another one.
type provisioned struct {
	image.File
	Path  string            `json:"path"`
	Boots []boottest.Result `json:"boots,omitempty"`
}

// provisioning is one run of the verb.
type provisioning struct {
	provisionOptions
	cmd      *cobra.Command
	from     origin
	base     string // of the new image's name
	format   string // of the new image
	work     string // script or playbook
	playbook bool
	settings machine.Settings
}

func runProvision(cmd *cobra.Command, defs *definitions, o provisionOptions, target, work string) error {
	p := provisioning{provisionOptions: o, cmd: cmd, work: work, playbook: slices.Contains([]string{".yml", ".yaml"}, filepath.Ext(work))}
	if err := p.prepare(defs, target); err != nil {
		return err
	}
	needs := orchestrator.Needs{Test: true, Login: true, Playbook: p.playbook, Firmware: p.firmware, Memory: definition.Size(p.settings.Memory)}
	if err := orchestrator.Refusal(orchestrator.Preflight(needs)); err != nil {
		return err
	}
	result, err := p.make()
	if err != nil {
		return fail.Wrap(fail.Build, "provision "+target, err)
	}
	if !asJSON(cmd, result) {
		fmt.Fprintln(cmd.OutOrStdout(), result.Path)
	}
	return nil
}

// prepare finds the image, and refuses what can be refused before anything starts.
func (p *provisioning) prepare(defs *definitions, target string) (err error) {
	if err := file(p.work); err != nil {
		return err
	}
	if p.playbook && p.via == viaConsole {
		return misused(p.cmd, "leave --via out", "a playbook needs ssh")
	}
	if p.from, err = findOrigin(defs, buildsFlag(p.cmd, "images"), target); err != nil {
		return err
	}
	if p.from.path == "" {
		return fail.New(fail.Usage, "", "pull it first: 'vmctl pull "+target+"'", "%s is no image here", target)
	}
	p.settings = p.from.conf.Settings
	p.settings.Ports, p.settings.Share = nil, ""
	if p.memory != "" {
		if p.settings.Memory, err = machine.ParseMemory(p.memory); err != nil {
			return err
		}
	}
	if len(p.firmware) == 0 {
		if p.firmware = choices["firmware"]; p.from.build.Name != "" {
			p.firmware = p.from.build.Definition.Firmware
		}
	}
	p.settings.CPUs, p.settings.Network, p.settings.Firmware, p.settings.Size = cmp.Or(p.cpus, p.settings.CPUs), cmp.Or(p.network, p.settings.Network), p.firmware[0], 0
	if p.via == viaSSH && !guestOf(p.from.build).Open() {
		return fail.New(fail.Usage, target, "give --via console", "nobody can log in by ssh: it lacks openssh-server, or both systemd 252 and cloud-init")
	}
	p.base = cmp.Or(p.name, strings.TrimSuffix(filepath.Base(p.from.path), filepath.Ext(p.from.path))+"-provisioned")
	if err := files.CheckFileName(p.base); err != nil {
		return &fail.Error{Kind: fail.Usage, Err: err, Hint: "give a --name"}
	}
	return files.Prepare(p.folder, files.Caller())
}

// make makes the image. It appears whole or not at all, and so the machine is gone in any case.
func (p *provisioning) make() (result provisioned, err error) {
	ctx := p.cmd.Context()
	original, is, err := image.Open(p.from.path, p.from.format)
	if err != nil {
		return result, err
	}
	defer original.Close()
	if p.format = is; !diskformat.Named(is).Written {
		p.format = diskformat.Default
	}
	deliver := conversion{h: &host.Local{}, folder: p.folder, overwrite: p.overwrite, owner: files.Caller()}
	if err := deliver.mayWrite(p.base + "." + format.Named(p.format).Suffix); err != nil {
		return result, err
	}
	folder, err := os.MkdirTemp(p.folder, ".vmctl-provision-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	of := subjectOf(p.from.build, p.base)
	of.Disk = filepath.Join(folder, ".disk")
	if err := p.disk(ctx, original, is, of.Disk); err != nil {
		return result, err
	}
	if of.SHA256, of.Size, err = image.Digest(ctx, of.Disk); err != nil {
		return result, err
	}
	made, err := product.Make(ctx, deliver.h, p.format, of, folder)
	if err != nil {
		return result, err
	}
	if err := os.Remove(of.Disk); err != nil {
		return result, err
	}
	if !p.noTest {
		if result.Boots, err = p.test(ctx, filepath.Join(folder, made[0].Name)); err != nil {
			return result, err
		}
	}
	result.File, result.Path = made[0], filepath.Join(p.folder, made[0].Name)
	return result, deliver.deliver(folder, made)
}

// disk writes the disk of a machine in which the work was done.
func (p *provisioning) disk(ctx context.Context, original *os.File, is, out string) (err error) {
	users, err := machine.UsersFolder()
	if err != nil {
		return err
	}
	h, err := machine.FindHost(ctx, p.accel)
	if err != nil {
		return err
	}
	record := machine.Record{
		Name: "provision-" + strings.ToLower(rand.Text()[:12]), Source: p.from.path, Build: p.from.build.Name, Passing: true,
		Guest: guestOf(p.from.build), Accel: p.accel, Settings: p.settings, Image: machine.Image{Path: p.from.path, Format: is},
	}
	making, err := users.Prepare(record.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, making.Close()) }()
	m, err := making.Create(ctx, h, original, record)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Remove()) }()
	run, err := making.Begin(ctx, h, m)
	if err != nil {
		return err
	}
	p.tell("starting the machine (%s, %s)", m.Firmware, run.Accel)
	if err := p.provision(ctx, m, run); err != nil {
		return err
	}
	if err := m.AwaitOff(ctx, offLimit); err != nil {
		return &fail.Error{Kind: fail.Build, Op: "switch the machine off", Err: err, Tail: m.LastOfConsole()}
	}
	p.tell("writing the image")
	return m.Flatten(ctx, h, out)
}

// offLimit is how long a sealed machine may take to switch itself off.
const offLimit = 3 * time.Minute

func (p *provisioning) tell(format string, args ...any) {
	fmt.Fprintf(p.cmd.ErrOrStderr(), format+"\n", args...)
}

// provision does the work in the machine, and seals it.
func (p *provisioning) provision(ctx context.Context, m machine.Machine, run machine.Run) error {
	key, err := m.PublicKey()
	if err != nil {
		return err
	}
	words := strings.Fields(key)
	if len(words) < 2 {
		return fmt.Errorf("the key of %s is none", m.Name)
	}
	into, done, err := p.enter(ctx, m, run)
	if err != nil {
		return err
	}
	defer done()
	said := &guestLines{out: io.Discard}
	if err := said.failed("wait until the machine has started", into(ctx, []byte(started), said)); err != nil {
		return err
	}
	p.tell("%s is up after %.1f s; running %s", m.Name, time.Since(run.Started).Seconds(), filepath.Base(p.work))
	said = &guestLines{out: p.cmd.ErrOrStderr()}
	if err := p.apply(ctx, m, into, said); err != nil {
		return err
	}
	p.tell("sealing it")
	said = &guestLines{out: io.Discard}
	return said.failed("seal the machine", into(ctx, []byte("#!/bin/sh\n"+seal.Script(words[1])+switchOff), said))
}

// started is a program that ends once no service is being started any more: what makes keys, for
// one. That some have failed is not its business.
const started = "#!/bin/sh\ntimeout 300 systemctl is-system-running --wait || :\n"

// switchOff ends the machine without stopping its units, which would write anew what was
// removed; its file systems are unmounted. What has called it has ended by then.
const switchOff = "setsid sh -c 'sleep 3; systemctl --force poweroff || poweroff -f' </dev/null >/dev/null 2>&1 &\n"

// apply runs the script or the playbook.
func (p *provisioning) apply(ctx context.Context, m machine.Machine, into runner, said *guestLines) error {
	if p.playbook {
		return said.failed(filepath.Base(p.work), p.runPlaybook(ctx, m, said))
	}
	script, err := os.ReadFile(p.work)
	if err != nil {
		return fail.Wrap(fail.Usage, "read the script", err)
	}
	return said.failed(filepath.Base(p.work), into(ctx, script, said))
}

// runner runs a program as root in a machine, without input.
type runner func(ctx context.Context, program []byte, out io.Writer) error

// enter waits until the machine can be entered.
func (p *provisioning) enter(ctx context.Context, m machine.Machine, run machine.Run) (into runner, done func(), err error) {
	if p.via == viaConsole {
		if err := m.WaitPrompt(ctx, run, p.timeout); err != nil {
			return nil, nil, err
		}
		session, release, err := m.Session(ctx)
		return func(ctx context.Context, program []byte, out io.Writer) error {
			code, err := session.Run(ctx, program, out)
			if err == nil && code != 0 {
				err = fmt.Errorf("exit status %d", code)
			}
			return err
		}, release, err
	}
	if err := m.WaitSSH(ctx, run, p.timeout); err != nil {
		if ctx.Err() == nil {
			err = &fail.Error{Kind: fail.Boot, Err: err, Tail: fail.Tail(err), Hint: "for an image without an ssh server, give --via console"}
		}
		return nil, nil, err
	}
	options, err := m.SSHOptions("")
	return func(ctx context.Context, program []byte, out io.Writer) error {
		c := host.Cmd("ssh", append(slices.Clone(options), "-o", "BatchMode=yes", m.Name, "--", remotely)...)
		c.Input, c.Output = bytes.NewReader(program), out
		return (&host.Local{}).Run(ctx, c)
	}, func() {}, err
}

// remotely runs the program that comes by standard input.
const remotely = `umask 077; dir=$(mktemp -d /var/tmp/vmctl-XXXXXXXX) && cat >"$dir/script" && chmod 700 "$dir/script" && umask 022 && cd /root || exit 125
"$dir/script" </dev/null 2>&1; code=$?; rm -rf "$dir"; exit $code`

// runPlaybook has Ansible's own ssh log in as runner does.
func (p *provisioning) runPlaybook(ctx context.Context, m machine.Machine, out io.Writer) (err error) {
	options, err := m.SSHOptions("")
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp(host.Temp(), "vmctl-ansible-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	words := make([]string, len(options))
	for i, option := range options {
		words[i] = text.Word(option)
	}
	inventory, err := json.Marshal(map[string]any{"all": map[string]any{"hosts": map[string]any{"image": map[string]any{
		"ansible_connection": "ssh", "ansible_host": m.Name, "ansible_user": "root", "ansible_ssh_common_args": strings.Join(words, " "),
	}}}})
	if err != nil {
		return err
	}
	hosts := filepath.Join(folder, "hosts.json")
	if err := os.WriteFile(hosts, inventory, 0o600); err != nil {
		return err
	}
	c := host.Cmd("ansible-playbook", "--inventory", hosts, p.work)
	c.Env, c.Output = append(sharing(folder), "ANSIBLE_LOCAL_TEMP="+folder, "ANSIBLE_NOCOLOR=1", "ANSIBLE_SSH_RETRIES=2"), out
	if home, err := os.UserHomeDir(); err == nil { // which has the caller's roles and collections
		c.Env = append(c.Env, "HOME="+home)
	}
	return (&host.Local{}).Run(ctx, c)
}

// longestShared is how long the name of a folder may be in which Ansible's ssh keeps its sockets: an
// address has 107 bytes (unix(7)), of which 28 are a slash, Ansible's digest of the host and what ssh
// puts behind it while it connects.
const longestShared = 107 - 28

// sharing is the environment by which Ansible's tasks share one connection, whose socket is in the
// folder, or have one each where its name is too long.
func sharing(folder string) []string {
	if len(folder) > longestShared {
		return []string{"ANSIBLE_SSH_ARGS=-C"}
	}
	return []string{"ANSIBLE_SSH_CONTROL_PATH_DIR=" + folder}
}

// test boots the result as 'vmctl test' does.
func (p *provisioning) test(ctx context.Context, path string) ([]boottest.Result, error) {
	o := testOptions{firmware: p.firmware, cpus: p.settings.CPUs, timeout: p.timeout}
	accel, err := vm.ChooseAccelerator(ctx, p.accel)
	if err != nil {
		return nil, err
	}
	shared, closeBudget, err := budgetOfTest()
	if err != nil {
		return nil, err
	}
	defer closeBudget()
	closeLogs, err := openLogs(&o)
	if err != nil {
		return nil, err
	}
	results, err := bootImage(ctx, p.cmd.ErrOrStderr(), o, accel, path, p.settings.Memory, orchestrator.Built{}, shared)
	return results, closeLogs(err)
}

// guestLines shows what a guest says, line by line and cleaned, and keeps the last of it.
type guestLines struct {
	out  io.Writer
	last []string
	part []byte
}

const (
	keptLines   = 15
	longestSaid = 4 << 10 // bytes
)

// Write implements io.Writer.
func (g *guestLines) Write(p []byte) (int, error) {
	g.part = append(g.part, p...)
	for {
		end := bytes.IndexByte(g.part, '\n')
		if end < 0 && len(g.part) < longestSaid {
			return len(p), nil
		}
		if end < 0 || end > longestSaid {
			end = longestSaid - 1
		}
		g.line(string(g.part[:end+1]))
		g.part = g.part[end+1:]
	}
}

func (g *guestLines) line(line string) {
	line = text.Lines(strings.TrimRight(boottest.Plain([]byte(line)), "\r\n"))
	g.last = append(g.last, line)
	g.last = g.last[max(0, len(g.last)-keptLines):]
	fmt.Fprintln(g.out, "  | "+line)
}

// failed is the error of what has said this, with its last lines; nil for none.
func (g *guestLines) failed(what string, err error) error {
	if len(g.part) > 0 {
		g.line(string(g.part))
		g.part = nil
	}
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	said := fail.Tail(err)
	if len(g.last) > 0 {
		said = strings.Join(g.last, "\n")
	}
	return &fail.Error{Kind: fail.Build, Op: what, Err: err, Tail: said}
}
