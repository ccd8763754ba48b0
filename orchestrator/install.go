package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/guest"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/installer"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// An installer runs in a guest that begins with its kernel and an empty disk, and is told what
// to do by answers over HTTP. What it does is seen on its serial console. When it is off, the
// files on its disk are the tree.

// answersMark stands for the address of the answers until whoever serves them knows it.
const answersMark = "http://answers.vmctl.invalid/answers"

// installing is an installer while it runs.
type installing struct {
	*workshop
	of      definition.Installer
	answers []byte // nil for none
	cmdline string
}

// install gives the tree at root what an installer makes of an empty disk.
func (w *workshop) install(ctx context.Context, root string, i definition.Installer) (err error) {
	if w.offline {
		return fail.New(fail.Build, i.Origin, hintOnline, "an installer needs the network")
	}
	r := &installing{workshop: w, of: i}
	defer func() { err = errors.Join(fail.Wrap(fail.Build, i.Origin, err), w.removeGuestFiles()) }()
	if err := cmp.Or(r.fetchParts(ctx), r.render(ctx)); err != nil {
		return err
	}
	if err := r.toItsEnd(ctx); err != nil {
		return err
	}
	disk, err := os.Open(r.file(guestDisk))
	if err != nil {
		return err
	}
	defer disk.Close()
	system, err := w.unpackRaw(ctx, root, disk)
	if err == nil && i.KeepDisk {
		err = w.keepDisk(system, int64(i.Disk))
	}
	if err != nil {
		return &fail.Error{Kind: fail.Build, Op: "the disk that the installer has left", Err: asBuild(err), Tail: r.lastSaid(), Hint: "its console is in build.log"}
	}
	return nil
}

func (r *installing) file(name string) string { return filepath.Join(r.work, name) }

// fetchParts puts what the guest begins with into the folder of work.
func (r *installing) fetchParts(ctx context.Context) (err error) {
	if r.of.Suite != "" {
		return r.fetchDebians(ctx)
	}
	release, err := r.store.HoldDownloads()
	if err != nil {
		return err
	}
	defer func() { err = scope.Join(err, release()) }()
	downloaded := map[string]string{}
	if downloads := r.of.Downloads(); len(downloads) > 0 {
		names, err := r.supply()
		if err != nil {
			return err
		}
		for i, name := range names {
			downloaded[downloads[i]] = filepath.Join(r.store.DownloadsFolder(), name)
		}
	}
	for name, target := range map[string]string{"kernel": guestKernel, "initrd": guestInitramfs, "iso": guestCD} {
		file := r.of.Files()[name]
		if file == nil {
			continue
		}
		if err := guest.Copy(ctx, r.host, cmp.Or(downloaded[name], file.File), r.file(target)); err != nil {
			return err
		}
	}
	return nil
}

// fetchDebians takes kernel and initrd of Debian's installer from the archive.
func (r *installing) fetchDebians(ctx context.Context) (err error) {
	release, scratch := debian.ReleaseNumber(r.of.Suite), filepath.Join(r.work, "netboot")
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	files := map[string]string{
		installer.KernelPath(release, arch.Target.Debian): r.file(guestKernel),
		installer.InitrdPath(release, arch.Target.Debian): r.file(guestInitramfs),
	}
	archive := definition.Bootstrap{Suite: r.of.Suite, Mirror: r.of.Mirror, Keyring: r.of.Keyring}
	return r.fetch(ctx, sourceTitle, sourceScope, func(f *fetching) (err error) {
		o := source.Options{Scratch: filepath.Join(r.work, "tmp"), APTConfig: f.config()}
		r.archives, err = source.FetchFiles(ctx, r.host, archive, installer.Package(release, arch.Target.Debian), files, scratch, o)
		return err
	})
}

// commandLine is the kernel's, a template.
func commandLine(i definition.Installer) string {
	if i.Suite == "" {
		return cmp.Or(i.Append, installer.DefaultAppend)
	}
	return strings.TrimSpace(installer.Append + " " + i.Append)
}

// asked says whether there are answers.
func asked(i definition.Installer) bool { return i.Answers != "" || i.Suite != "" }

// render renders answers and command line.
func (r *installing) render(ctx context.Context) (err error) {
	folder := r.scratch("answers")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	at := func(name string) string { return filepath.Join(folder, name) }
	entry := definition.InstallEntry{
		Name: "Answers", Origin: r.of.Origin,
		Files: []definition.File{{Path: at("cmdline"), Content: commandLine(r.of), Mode: "0600"}},
	}
	if asked(r.of) {
		template := r.of.Answers
		if template == "" {
			template = at("preseed.cfg.j2")
			if err := os.WriteFile(template, []byte(installer.Preseed), 0o600); err != nil {
				return err
			}
		}
		entry.Templates = []definition.File{{Path: at("answers"), Source: template, Mode: "0600"}}
	}
	_, names, err := r.plan.readOfInstaller(ctx)
	if err != nil {
		return err
	}
	used := map[string]string{}
	for _, name := range names {
		used[name] = r.secrets[name]
	}
	err = r.provisioner.Provision(ctx, Provision{
		Local: true, Secrets: used, Vault: r.secrets[vaultPassword], Scratch: r.scratch("ansible"), Definition: &r.plan.Definition,
		Layer: definition.Layer{Name: r.plan.Definition.Layers[0].Name, Install: []definition.InstallEntry{entry}},
		Build: map[string]any{"answers_url": answersMark, "mirror": cmp.Or(r.of.Mirror, mirrorOf(r.archives))},
		Facts: []bool{false}, Machine: r.plan.facts(0), Project: r.plan.Project, Installed: r.plan.Installed, Epoch: chosenEpoch(time.Now()), Env: host.CleanEnv(), Log: r.log,
		Task: func(string, string, string, string) {},
	})
	if err != nil {
		return err
	}
	cmdline, err := os.ReadFile(at("cmdline"))
	if err == nil && asked(r.of) {
		r.answers, err = os.ReadFile(at("answers"))
	}
	r.cmdline = strings.TrimSpace(string(cmdline))
	if err == nil {
		err = r.checkCommandLine(ctx)
	}
	return err
}

// mirrorOf is where an archive lies, "" for none.
func mirrorOf(archives []source.Release) string {
	if len(archives) == 0 {
		return ""
	}
	mirror, _, _ := strings.Cut(archives[0].URL, "/dists/")
	return mirror
}

// checkCommandLine refuses what would be seen by all users of the builder, or be cut.
func (r *installing) checkCommandLine(ctx context.Context) error {
	const longest = 2047 // bytes, of the kernel (COMMAND_LINE_SIZE)
	encrypted, err := r.plan.inventorySecrets(ctx, r.secrets[vaultPassword])
	if err != nil {
		return err
	}
	for _, v := range encrypted {
		if len(v.Text) >= shortestHidden && strings.Contains(r.cmdline, v.Text) {
			return fail.New(fail.Usage, "append", "put it into the answers", "the command line can be seen by all users of the builder, and holds what is encrypted in %s", v.Origin)
		}
	}
	for name, value := range r.secrets {
		if len(value) >= shortestHidden && strings.Contains(r.cmdline, value) {
			return fail.New(fail.Usage, "append", "put it into the answers", "the command line can be seen by all users of the builder, and holds the secret %s", name)
		}
	}
	switch {
	case strings.ContainsAny(r.cmdline, "\n\x00"):
		return fail.New(fail.Usage, "append", "", "the command line is more than a line")
	case len(r.cmdline) > longest:
		return fail.New(fail.Usage, "append", "", "the command line has %d bytes: no more than %d are taken", len(r.cmdline), longest)
	}
	return nil
}

// toItsEnd runs the installer until it is off, once more where that is the hypervisor's fault.
func (r *installing) toItsEnd(ctx context.Context) error {
	ctx, unwatch := r.watched(ctx)
	defer unwatch()
	for {
		if err := r.emptyDisk(); err != nil {
			return err
		}
		started := time.Now()
		order := guestOrder{Cmdline: r.cmdline, Online: true, Memory: int64(r.of.Memory), CD: r.of.ISO != nil, Title: sourceTitle, Answers: r.answers}
		if err := r.guests.Start(order); err != nil {
			return err
		}
		err := r.watch(ctx)
		end, ending := r.guests.End()
		fmt.Fprintf(r.log, "the installer's console:\n%s\n", installer.Clean(boottest.Plain(r.console())))
		switch _, sign := boottest.Signs(r.console()); {
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), ending)
		case end.Again:
			r.told("ok", "installer: started again: %s", end.Problem)
			continue
		case sign != nil:
			err = sign
		case err == nil && end.Problem != "":
			err = errors.New(end.Problem)
		}
		if err != nil {
			return errors.Join(&fail.Error{Kind: fail.Build, Op: "installer", Err: err, Tail: r.lastSaid(), Hint: "its console is in build.log"}, ending)
		}
		r.told("ok", "installer: off after %.0f s", time.Since(started).Seconds())
		return ending
	}
}

func (r *installing) emptyDisk() error {
	if err := os.Remove(r.file(guestDisk)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	disk, err := os.OpenFile(r.file(guestDisk), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(disk.Truncate(int64(r.of.Disk)), disk.Close())
}

func (r *installing) lastSaid() string {
	const lines = 20
	return boottest.LastLines([]byte(installer.Clean(boottest.Plain(r.console()))), lines)
}

// watch waits until the guest has ended, and ends sooner where the installer has failed.
func (r *installing) watch(ctx context.Context) error {
	port, err := net.Dial("unix", r.file(guestSocket))
	if err != nil {
		return err
	}
	defer port.Close()
	off := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, port) // which ends with QEMU
		close(off)
	}()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	state := installer.State{Limit: time.Duration(r.of.Timeout)}
	var told string
	changed, tellAgain := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-off:
			state.Off = true
		case <-ticker.C:
		}
		console := r.console()
		if said := installer.Said(installer.Clean(boottest.Plain(console))); said != state.Console {
			state.Console, changed = said, time.Now()
		}
		state.Silent = time.Since(changed)
		if _, sign := boottest.Signs(console); sign != nil && state.Silent >= installer.Grace {
			return sign
		}
		if err := installer.Judge(state); err != nil || state.Off {
			return err
		}
		const often = 30 * time.Second // what it does is told, where it does not say that in a form that is known
		step := installer.Step(state.Console)
		if step == "" && time.Since(tellAgain) > often {
			step = installer.Last(state.Console)
		}
		if step != "" && step != told {
			told, tellAgain = step, time.Now()
			r.told("ok", "installer: %s", step)
		}
	}
}

// pinnedInstaller is what is downloaded of an installer. The definition has its digests.
func pinnedInstaller(i definition.Installer) *Pinned {
	var pinned Pinned
	for _, name := range i.Downloads() {
		pinned.Files = append(pinned.Files, PinnedFile{Name: name, Digest: "sha256:" + i.Files()[name].SHA256})
	}
	pinned.Digest = "sha256:" + digestOf(pinned.Files)
	return &pinned
}

// installerPart is the digest of all that an installer is made of, but for the archive.
func (p Plan) installerPart(ctx context.Context, maker string, tools map[string]string) (string, error) {
	i := p.Definition.Source.Installer
	digests := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(i.Files())) {
		switch file := i.Files()[name]; {
		case file == nil:
		case file.File == "":
			digests[name] = file.SHA256
		default:
			digest, _, err := image.Digest(ctx, p.assetPath(file.File))
			if err != nil {
				return "", err
			}
			if file.SHA256 != "" && file.SHA256 != digest {
				return "", fail.New(fail.Build, "source.installer."+name, "get the file again, or correct the digest", "its SHA-256 is %s, and %s is wanted", digest, file.SHA256)
			}
			digests[name] = digest
		}
	}
	if i.Keyring != "" {
		digest, _, err := image.Digest(ctx, p.assetPath(i.Keyring))
		if err != nil {
			return "", err
		}
		digests["keyring"] = digest
	}
	part, _, err := p.readOfInstaller(ctx)
	var makers map[string]string
	if i.Suite != "" { // whose kernel and initrd they get
		makers = of(tools, "mmdebstrap", "apt")
	}
	if i.KeepDisk { // what it then lacks follows from its disk
		part["keep_disk"] = []any{true, p.Definition.Disk.Grow}
	}
	return digestOf(maker, "installer", i.Suite, i.Mirror, digests, i.Disk, part, makers, source.Needed(p.sourceOptions(""))), err
}

// ofInstallers is what installers are told of the build that is the same for all that extend it.
var ofInstallers = regexp.MustCompile(`\bbuild\.(?:answers_url|mirror)\b`)

// readOfInstaller is what answers and command line are and read, as a part of a key, and the
// names of the secrets among that.
func (p Plan) readOfInstaller(ctx context.Context) (part map[string]any, secrets []string, err error) {
	i := p.Definition.Source.Installer
	read := reading{ctx: ctx, plan: p}
	layer := definition.Layer{Install: []definition.InstallEntry{{Files: []definition.File{{Content: commandLine(*i)}}}}}
	part = map[string]any{"append": commandLine(*i)}
	switch {
	case i.Answers != "":
		layer.Install[0].Templates = []definition.File{{Source: i.Answers}}
		if err := read.entry(&layer.Install[0]); err != nil {
			return nil, nil, err
		}
		part["answers"] = layer.Install[0].Templates[0].Source
	case asked(*i):
		part["answers"] = installer.Preseed
		read.text.WriteString(installer.Preseed)
	}
	if part["project"], err = read.inventoryVariables(&layer); err != nil {
		return nil, nil, err
	}
	part["vars"] = read.variables(layer, p.Definition.Vars)
	text := ofInstallers.ReplaceAllString(read.text.String(), "")
	read.text.Reset()
	read.text.WriteString(text)
	secrets, _, _, err = read.surroundings(0, part)
	return part, secrets, err
}

// describeInstaller is what an installer does, in words.
func describeInstaller(i definition.Installer) string {
	what, answers := "the installer "+i.Kernel.Shown(), i.Answers
	if i.Suite != "" {
		what, answers = installer.Package(debian.ReleaseNumber(i.Suite), arch.Target.Debian), cmp.Or(answers, "vmctl's own answers")
	}
	if i.ISO != nil {
		what += ", with " + i.ISO.Shown() + " in the CD drive,"
	}
	if answers != "" {
		answers = " with " + answers
	}
	kept := ""
	if i.KeepDisk {
		kept = ", and its partitions, which are known then"
	}
	return fmt.Sprintf("run %s%s in a guest, on an empty disk of %s, with the command line\n%s\nand take the files of its disk%s", what, answers, i.Disk, commandLine(i), kept)
}
