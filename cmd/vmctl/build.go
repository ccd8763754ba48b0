package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/budget"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// defaultFolder gets the results of builds.
const defaultFolder = "images"

type buildOptions struct {
	defs           definitions
	names          []string
	all            bool
	folder         string
	formats        []string
	noTest         bool
	verbose        bool
	diff           bool
	retest         bool
	dryRun         bool
	settings       []string
	jobs           int
	accel          string
	cache          cacheOptions
	noCache        bool
	how            orchestrator.How
	on             string
	onError        string
	noLock         bool
	allowLocalhost bool
	vault          orchestrator.PasswordSource
	snapshot       []string
	toolsName      string
	tools          *orchestrator.Plan // nil for this machine's own programs
	temporary      string             // folder with copies of embedded files; "" for none yet
}

const hintTemp = "name another folder for temporary files in TMPDIR"

// What --on-error does with the tree of a stage that fails.
const (
	onErrorCleanup = "cleanup"
	onErrorShell   = "shell"
)

func newBuild(defs *definitions) *cobra.Command {
	var o buildOptions
	var network string
	cmd := &cobra.Command{
		Use:   "build NAME…",
		Short: "Build images and prove that they boot",
		Long: `Build images and prove that they boot. The results of each build are in a folder
of its name below the output folder; it appears whole or not at all.

` + exitCodes,
		Example: `  vmctl build debian
  vmctl build --all --jobs 2 --format raw,qcow2
  vmctl build webserver --dry-run --set disk.size=4G`,
		Args: o.check,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.defs, o.names = *defs, args
			o.how.Since = time.Now()
			o.how.Alone = network == machine.NetworkIsolated
			if o.noCache {
				o.how.Fresh = orchestrator.Everything
			}
			return runBuild(cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.all, "all", false, "build everything that 'vmctl list' shows")
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder that gets a folder per build")
	flags.StringSliceVar(&o.formats, "format", nil, "image formats to write instead of the definition's: "+strings.Join(choices["format"], ", "))
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show what each task prints")
	flags.BoolVar(&o.diff, "diff", false, "show and log what the entries that are applied change in files, but for what no_log hides")
	flags.BoolVar(&o.noTest, "no-test", false, "do not boot the image; build.json says so")
	flags.BoolVar(&o.retest, "retest", false, "boot the image although its disk has come up on the same QEMU and firmware before")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print the whole plan and touch nothing")
	flags.StringVar(&o.onError, "on-error", onErrorCleanup, "what to do where a stage fails that makes the tree: cleanup, or shell to open one in it as it is, on this terminal, before the build ends")
	flags.IntVar(&o.jobs, "jobs", 1, "builds that run at the same time")
	flags.StringVar(&o.accel, "accel", "auto", "accelerator of the boot test, and of guests of entries: auto, kvm or tcg")
	flags.StringVar(&o.on, "on", "", "'"+definition.OnBoot+"' applies the entries of each build's own files in a guest, as if they said 'on: boot': for a try")
	setFlag(cmd, &o.settings)
	o.cache.flags(cmd)
	flags.BoolVar(&o.noCache, "no-cache", false, "make everything anew; later builds use that")
	flags.StringVar(&o.how.Fresh, "refresh", "", "make the layer of this build anew, and those after it")
	flags.BoolVar(&o.how.Offline, "offline", false, "use no network and take the archives for what they were; layers and packages that are not in the store then fail")
	flags.StringVar(&network, "network", machine.NetworkOpen, "network of what the layers run: "+machine.NetworkOpen+" for this machine's, or "+machine.NetworkIsolated+"; the source has it")
	flags.BoolVar(&o.allowLocalhost, "allow-localhost", false, "let Ansible's tasks act on the machine that builds, by delegate_to: localhost and the like")
	vaultFlag(cmd, &o.vault)
	flags.BoolVar(&o.noLock, "no-lock", false, "install what the archives have, whatever locks/NAME.json says")
	snapshotFlag(cmd, &o.snapshot)
	toolsFlag(cmd, &o.toolsName)
	return cmd
}

// vaultFlag names where the password of ansible-vault comes from.
func vaultFlag(cmd *cobra.Command, vault *orchestrator.PasswordSource) {
	cmd.Flags().StringVar(&vault.File, "vault-password-file", os.Getenv("VMCTL_VAULT_PASSWORD_FILE"), "file with the password of ansible-vault, or program that prints it; also $VMCTL_VAULT_PASSWORD_FILE")
}

// check wants names or --all, and one way to make things anew.
func (o *buildOptions) check(cmd *cobra.Command, args []string) error {
	switch {
	case o.noTest && o.retest:
		return misused(cmd, "leave one of them out", "--no-test and --retest exclude each other")
	case o.noCache && o.how.Fresh != "":
		return misused(cmd, "--no-cache makes every layer anew", "--no-cache and --refresh exclude each other")
	case !o.all:
		return arguments(cmd, args)
	case len(args) > 0:
		return misused(cmd, "give names or --all", "--all and names exclude each other")
	}
	return nil
}

// terminal is what shells in failed builds use, nil for no shells.
func (o *buildOptions) terminal(cmd *cobra.Command) (orchestrator.Terminal, error) {
	switch {
	case o.onError != onErrorShell:
		return nil, nil
	case !isTerminal(os.Stdin) || !isTerminal(os.Stderr):
		return nil, misused(cmd, "leave --on-error out", "--on-error=shell needs a terminal for standard input and error")
	case o.jobs > 1:
		return nil, misused(cmd, "leave --jobs out", "--on-error=shell needs the terminal for one build at a time")
	}
	return lentTerminal{os.Stdin, os.Stderr}, nil
}

func runBuild(cmd *cobra.Command, o buildOptions) error {
	terminal, err := o.terminal(cmd)
	if err != nil {
		return err
	}
	plans, err := planBuilds(&o)
	defer o.cleanup()
	if err != nil {
		return err
	}
	if err := checkHow(o, plans); err != nil {
		return err
	}
	if !o.dryRun { // which needs nothing
		if err := o.chooseTools(cmd, plans); err != nil {
			return err
		}
	}
	accel, err := accelerator(cmd.Context(), o)
	if err != nil {
		return err
	}
	if o.dryRun {
		return describe(cmd, o, plans, accel)
	}
	manifests, err := buildAll(cmd, o, plans, accel, terminal)
	if asJSON(cmd, manifests) {
		return err
	}
	for _, m := range manifests {
		for _, output := range m.Outputs {
			fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(o.folder, m.Name, output.Name))
		}
	}
	return err
}

// checkHow refuses to make anew what is not there, for that would be passed over in
// silence.
func checkHow(o buildOptions, plans []orchestrator.Plan) error {
	if o.noCache || o.how.Fresh == "" {
		return nil
	}
	var layers []string
	for _, plan := range plans {
		for _, layer := range plan.Definition.Layers {
			if layer.Name == o.how.Fresh {
				return nil
			}
			if !slices.Contains(layers, layer.Name) {
				layers = append(layers, layer.Name)
			}
		}
	}
	hint := cmp.Or(didYouMean(o.how.Fresh, "", layers), "the layers are "+strings.Join(layers, ", ")+"; --no-cache makes the source anew, too")
	return fail.New(fail.Usage, "--refresh", hint, "%q is no layer of what is built", o.how.Fresh)
}

// refusal is why this host cannot make the builds, or nil.
func refusal(ctx context.Context, o buildOptions, plans []orchestrator.Plan) error {
	held := definition.Size(budget.In(filepath.Join(o.cache.folder, budget.FolderName)).Held(ctx))
	var checks []orchestrator.Check
	if o.tools != nil {
		checks = orchestrator.Preflight(orchestrator.NeedsOfTools(o.tools.Definition, o.folder))
	}
	for _, plan := range plans {
		needs := orchestrator.NeedsOf(plan.Definition, !o.noTest, o.folder)
		needs.Held, needs.Tools = held, o.tools != nil
		checks = append(checks, orchestrator.Preflight(needs)...)
	}
	return orchestrator.Refusal(uniqueChecks(checks))
}

// accelerator is what the boot tests run on, nil where there are none. It is
// chosen before anything is built.
func accelerator(ctx context.Context, o buildOptions) (*vm.Accelerator, error) {
	if o.noTest {
		return nil, nil
	}
	accel, err := vm.ChooseAccelerator(ctx, o.accel)
	return &accel, err
}

// planned is a build that --dry-run tells of.
type planned struct {
	orchestrator.Plan
	Steps orchestrator.Description `json:"steps"`
}

func describe(cmd *cobra.Command, o buildOptions, plans []orchestrator.Plan, accel *vm.Accelerator) error {
	described := make([]planned, len(plans))
	for i, plan := range plans {
		plan, err := plan.Unidentified()
		if err != nil {
			return err
		}
		described[i] = planned{plan, plan.Describe(o.folder, accel)}
	}
	if asJSON(cmd, described) {
		return nil
	}
	for _, p := range described {
		fmt.Fprint(cmd.OutOrStdout(), p.Steps)
	}
	return nil
}

func uniqueChecks(checks []orchestrator.Check) []orchestrator.Check {
	seen := map[orchestrator.Check]bool{}
	var unique []orchestrator.Check
	for _, c := range checks {
		if !seen[c] {
			unique = append(unique, c)
		}
		seen[c] = true
	}
	return unique
}

// cleanup removes copies of embedded files.
func (o *buildOptions) cleanup() {
	if o.temporary != "" {
		_ = os.RemoveAll(o.temporary)
	}
}

// extract makes a copy of an embedded file.
func (o *buildOptions) extract(name string, content []byte) (path string, err error) {
	if o.temporary == "" {
		if o.temporary, err = os.MkdirTemp(host.Temp(), "vmctl-files-"); err != nil {
			return "", &fail.Error{Kind: fail.Host, Err: err, Hint: hintTemp}
		}
	}
	path = filepath.Join(o.temporary, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
		return "", &fail.Error{Kind: fail.Host, Err: err, Hint: hintTemp}
	}
	return path, nil
}

// planBuilds loads every definition, reports all their mistakes together, and
// plans the builds. Whatever it returns, cleanup is to follow.
func planBuilds(o *buildOptions) (plans []orchestrator.Plan, err error) {
	library, err := o.defs.library()
	if err != nil {
		return nil, err
	}
	names := o.names
	if o.all {
		names = library.Names()
	}
	settings := o.settings
	if len(o.formats) > 0 {
		settings = append(settings, "outputs=["+strings.Join(o.formats, ",")+"]")
	}
	var failures []error
	for _, name := range names {
		plan, err := planBuild(library, o.defs.dir, name, settings, o.extract)
		if o.on == definition.OnBoot {
			plan.Definition.ApplyOnBoot()
		}
		if err == nil {
			err = plan.SplitOnBoot()
		}
		if err == nil && !o.noLock {
			plan.Lock, err = orchestrator.ReadLock(o.defs.dir, name)
		}
		plan.Snapshots, plan.AllowLocalhost = o.snapshot, o.allowLocalhost
		plans, failures = append(plans, plan), append(failures, err)
	}
	return plans, joined(toldOnce(failures))
}

// toldOnce is the failures without mistakes of definitions that are told before:
// builds share those of the build that they extend.
func toldOnce(failures []error) []error {
	var told definition.Problems
	var once []error
	for _, err := range failures {
		problems, ok := errors.AsType[definition.Problems](err)
		if !ok {
			once = append(once, err)
			continue
		}
		fresh := slices.DeleteFunc(slices.Clone(problems), func(p definition.Problem) bool { return slices.Contains(told, p) })
		if len(fresh) > 0 {
			told, once = append(told, fresh...), append(once, &fail.Error{Kind: fail.Usage, Err: fresh})
		}
	}
	return once
}

func planBuild(library *definition.Library, dir, name string, settings []string, extract func(string, []byte) (string, error)) (orchestrator.Plan, error) {
	definition, err := library.Load(name, settings)
	if err != nil {
		return orchestrator.Plan{}, err
	}
	plan, err := orchestrator.NewPlan(*definition, nil)
	if err != nil {
		return plan, err
	}
	if plan.Project, err = filepath.Abs(dir); err != nil {
		return plan, err
	}
	plan.Assets = map[string]string{}
	for _, asset := range definition.Assets() {
		if plan.Assets[*asset], err = library.AssetPath(dir, *asset, extract); err != nil {
			return plan, err
		}
	}
	return plan, nil
}

// buildAll runs the builds, o.jobs at a time, and goes on after one that
// failed.
func buildAll(cmd *cobra.Command, o buildOptions, plans []orchestrator.Plan, accel *vm.Accelerator, terminal orchestrator.Terminal) ([]orchestrator.Manifest, error) {
	shared, err := o.cache.budget()
	if err != nil {
		return []orchestrator.Manifest{}, err
	}
	manifests := make([]*orchestrator.Manifest, len(plans))
	failures := make([]error, len(plans))
	free := make(chan struct{}, o.jobs)
	show := newProgress(cmd.ErrOrStderr(), len(plans) > 1)
	show.verbose = o.verbose
	defer show.close()
	var running sync.WaitGroup
	for i, plan := range plans {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			manifest, err := buildOne(cmd.Context(), o, plan, accel, terminal, shared, show)
			if err != nil {
				failures[i] = err
				return
			}
			manifests[i] = &manifest
		})
	}
	running.Wait()
	done := []orchestrator.Manifest{}
	for _, m := range manifests {
		if m != nil {
			done = append(done, *m)
		}
	}
	return done, joined(failures)
}

func buildOne(ctx context.Context, o buildOptions, plan orchestrator.Plan, accel *vm.Accelerator, terminal orchestrator.Terminal, shared *budget.Budget, show *progress) (orchestrator.Manifest, error) {
	if ctx.Err() != nil {
		return orchestrator.Manifest{}, ctx.Err()
	}
	name := plan.Definition.Name
	repository, revision := provenance(ctx, o.defs.dir)
	unchanged := false
	builder := orchestrator.Builder{
		Folder: o.folder, Store: o.cache.folder, JailVerb: jailVerb, Maker: btwimg.Maker(), Version: version(), Repository: repository, Revision: revision, Boot: accel, Accel: o.accel, Retest: o.retest, Diff: o.diff, Budget: shared, How: o.how, Vault: o.vault, Terminal: terminal, Images: containerImages{}, Tools: o.tools,
		Tell: func(e orchestrator.Event) {
			unchanged = unchanged || e.Kind == orchestrator.Unchanged
			show.event(name, e)
		},
	}
	if plan.Lock != nil && !o.noLock {
		show.note(name, "locked: "+orchestrator.LockPath(o.defs.dir, name))
	}
	manifest, log, err := builder.Build(ctx, plan)
	if err == nil && !unchanged {
		if trimming := o.cache.trimAfterBuild(ctx); trimming != nil {
			show.note(name, "the store is not cut down: "+trimming.Error())
		}
	}
	show.slowest(name)
	if err == nil && !unchanged {
		show.summary(name, manifest)
	}
	if log != "" {
		show.note(name, "log: "+log)
	}
	if err == nil {
		if writing := writeConf(o.defs.dir, o.folder, manifest); writing != nil {
			show.note(name, "what 'vmctl launch' reads is not written: "+writing.Error())
		}
	}
	return manifest, err
}
