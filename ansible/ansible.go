// Package ansible applies the layers of a build to an image's tree with
// ansible-playbook, over the chroot connection. It owns the playbooks, the
// inventory, the variables file and the stream of events; it mounts nothing.
package ansible

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/apenella/go-ansible/v2/pkg/execute"
	"github.com/apenella/go-ansible/v2/pkg/playbook"
	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Run is one run of the playbook, over entries of one layer of a build.
type Run struct {
	Root      string            // the tree, ready to run programs in whenever Begin has returned
	Chroot    string            // what runs programs in it as chroot(8) does
	Guest     string            // socket of the agent of a guest that runs the tree's programs instead; "" for none
	Local     bool              // entries write files of this machine, and do nothing else; there is no tree
	Scratch   string            // folder for inventory, variables and Ansible's own files
	Playbooks fs.FS             // holds the plugins, and the tasks that they do not do
	Project   Project           // of the user; its roles and playbooks follow the entries
	Machine   map[string]any    // facts of the machine that is being built, without ansible_
	Epoch     time.Time         // what facts tell of the time
	Secrets   map[string]string // variables that are never rendered
	Vault     string            // password of what is encrypted with ansible-vault; "" for none
	Entries   []Entry           // what is applied, in order
	Variables map[string]any    // of the play: a role's vars beat them, they beat its defaults
	Command   Commander         // makes the process of ansible-playbook
	Env       []string          // KEY=VALUE, the environment of ansible-playbook
	Log       io.Writer         // gets everything that Ansible prints
	OnEvent   func(Event)       // is told what happens, as it happens
	Diff      bool              // have what changes in files told, but for what no_log hides
	// Begin is called before each entry, by its number, while nothing else happens; nil
	// for an entry that need not wait.
	Begin func(ctx context.Context, entry int) error
}

// Commander makes a process that is killed with all that it has started when ctx
// ends.
type Commander func(ctx context.Context, name string, args ...string) *exec.Cmd

const (
	playbooksFolder = "playbooks"
	playFile        = "layer.yml"      // in playbooksFolder, as
	variablesFile   = "variables.json" // are the play's variables
	inventoryFile   = "inventory.yml"
	secretsFile     = "secrets.yml"
	vaultFile       = "vault"
	configFile      = "ansible.cfg"
	callback        = "ansible.posix.jsonl" // prints one JSON document per event
	chrootPlugin    = "community.general.chroot"
	localPlugin     = "ansible.builtin.local"
	guestPlugin     = "vmctl_guest" // of ours: talks to the agent of a guest
	pluginAction    = "vmctl"       // of ours: applies a part of an entry in one call
	shellPlugin     = "vmctl"       // of ours: has stand-ins found first
	pluginGates     = "vmctl_gates" // of ours: waits before each entry
	host            = "image"
)

// Apply runs the playbook. A task that fails is a *fail.Error that names the
// entry's file and line, with the task's own message and output.
func (r Run) Apply(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(r.Scratch, playbooksFolder))
	defer os.Remove(filepath.Join(r.Scratch, inventoryFile))
	defer os.Remove(filepath.Join(r.Scratch, secretsFile))
	defer os.Remove(filepath.Join(r.Scratch, vaultFile))

	inner, cancel := context.WithCancel(ctx)
	opened := make(chan error, 1)
	events := newStream(r.Log, r.OnEvent)
	events.projects, events.guest = []string{r.Project.Folder, r.Project.Installed}, r.Guest != ""
	for _, entry := range r.Entries {
		events.origins = append(events.origins, entry.Origin)
	}
	go func() {
		err := r.openGates(inner, events.begin)
		if err != nil {
			cancel()
		}
		opened <- err
	}()
	runner := &processes{start: r.Command, env: r.environment(), dir: r.Scratch}
	executor := execute.NewDefaultExecute(
		execute.WithCmd(r.command()),
		execute.WithExecutable(runner),
		execute.WithOutput(events),
		execute.WithWrite(io.Discard),
		execute.WithWriteError(io.Discard),
	)
	execution := executor.Execute(inner)
	cancel() // no entry begins any more
	if err := <-opened; err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case runner.last != nil && runner.last.failed() == nil: // a failure was rescued, where there was one
		return execution
	case errors.Is(runner.last.failed(), exec.ErrNotFound):
		return &fail.Error{Kind: fail.Host, Hint: "run 'vmctl doctor --install-missing'", Err: runner.last.failed()}
	case runner.last.failed() != nil:
		return events.whyFailed(runner.last.failed())
	}
	return execution
}

func (r Run) command() *playbook.AnsiblePlaybookCmd {
	return playbook.NewAnsiblePlaybookCmd(
		playbook.WithPlaybooks(r.playbooks()...),
		playbook.WithPlaybookOptions(&playbook.AnsiblePlaybookOptions{
			Tags:          strings.Join(r.Project.Tags, ","),
			Diff:          r.Diff,
			SkipTags:      strings.Join(r.Project.SkipTags, ","),
			Inventory:     filepath.Join(r.Scratch, inventoryFile),
			ExtraVarsFile: []string{"@" + filepath.Join(r.Scratch, secretsFile)},
		}),
	)
}

// prepare writes playbooks, inventory and variables into the scratch folder.
func (r Run) prepare() error {
	if err := os.MkdirAll(r.Scratch, 0o700); err != nil {
		return err
	}
	playbooks := filepath.Join(r.Scratch, playbooksFolder)
	if err := os.RemoveAll(playbooks); err != nil {
		return err
	}
	if err := os.CopyFS(playbooks, r.Playbooks); err != nil {
		return err
	}
	inventory, err := r.inventory()
	if err != nil {
		return err
	}
	variables, err := withVault(r.Variables)
	if err != nil {
		return fmt.Errorf("write the variables for Ansible: %w", err)
	}
	if err := r.makeGates(); err != nil {
		return fmt.Errorf("make the gates before the entries: %w", err)
	}
	play, err := r.play()
	if err != nil {
		return fmt.Errorf("write the entries for Ansible: %w", err)
	}
	return errors.Join(
		r.prepareProject(), r.prepareFacts(), r.prepareSecrets(), r.prepareVault(),
		os.WriteFile(filepath.Join(r.Scratch, configFile), []byte("[defaults]\n"), 0o600),
		os.WriteFile(filepath.Join(r.Scratch, inventoryFile), inventory, 0o600),
		os.WriteFile(filepath.Join(playbooks, variablesFile), variables, 0o600),
		os.WriteFile(filepath.Join(playbooks, playFile), play, 0o600),
	)
}

// connection is Ansible's plugin that reaches the image.
func (r Run) connection() string {
	switch {
	case r.Guest != "":
		return guestPlugin
	case r.Local:
		return localPlugin
	}
	return chrootPlugin
}

// inventory is the inventory whose one host is the image. Playbooks of the user's get the
// variables from it. Who becomes somebody else does so with su, which every Debian has.
func (r Run) inventory() ([]byte, error) {
	image := maps.Clone(r.Variables)
	if image == nil {
		image = map[string]any{}
	}
	maps.Copy(image, map[string]any{
		"ansible_connection":         r.connection(),
		"ansible_host":               cmp.Or(r.Guest, r.Root),
		"ansible_user":               "root",
		"ansible_become_method":      "su",
		"ansible_su_flags":           "-s /bin/sh", // for accounts that nobody logs in to
		"ansible_python_interpreter": "/usr/bin/python3",
	})
	if r.Guest == "" {
		image["ansible_shell_type"] = shellPlugin
	}
	content := map[string]any{"all": map[string]any{"hosts": map[string]any{host: image}}}
	if encrypted, err := withVault(content); err != nil || hasVault(encrypted) {
		return encrypted, err
	}
	return yaml.Dump(content)
}

// environment makes Ansible independent of the user's own configuration.
func (r Run) environment() []string {
	env := slices.Concat(r.Env, r.projectEnvironment())
	if r.Guest == "" {
		env = append(env, "SYSTEMD_OFFLINE=1")
	}
	if r.Vault != "" {
		env = append(env, "ANSIBLE_VAULT_PASSWORD_FILE="+filepath.Join(r.Scratch, vaultFile))
	}
	return append(env,
		"ANSIBLE_CHROOT_EXE="+r.Chroot,
		"ANSIBLE_CONFIG="+filepath.Join(r.Scratch, configFile),
		"ANSIBLE_HOME="+filepath.Join(r.Scratch, "home"),
		"ANSIBLE_LOCAL_TEMP="+filepath.Join(r.Scratch, "tmp"),
		"ANSIBLE_REMOTE_TEMP=/run/.ansible",
		"ANSIBLE_STDOUT_CALLBACK="+callback,
		"ANSIBLE_CALLBACKS_ENABLED="+pluginGates,
		"VMCTL_GATES="+r.gates(),
		"VMCTL_CONNECTION="+r.connection(),
		"ANSIBLE_PIPELINING=1",
		"ANSIBLE_NOCOLOR=1",
		"ANSIBLE_RETRY_FILES_ENABLED=0",
		"ANSIBLE_DEPRECATION_WARNINGS=0",
		"PYTHONDONTWRITEBYTECODE=1", // beside the plugins of the user, too
	)
}
