package ansible

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Galaxy installs roles and collections with ansible-galaxy. It writes into its own folders
// alone, and reads no settings of the user's.
type Galaxy struct {
	Requirements []Requirement
	Roles        string // folder that gets roles
	Collections  string // folder that gets ansible_collections
	Scratch      string // folder for Ansible's own files
	Offline      bool   // ask no server
	Command      Commander
	Env          []string // KEY=VALUE, the environment of ansible-galaxy
	Log          io.Writer
}

// Requirement is a role or collection in the words of ansible-galaxy.
type Requirement struct {
	Collection bool
	Name       string // "" for what tells its own
	Source     string
	SCM        string
	Version    string
	Type       string // of a collection
	Server     string
	Local      string // path of a repository of git, whoever owns it; "" for others
	Origin     string // file:line
	Shown      string // what people call it
}

// Install installs all of them. The error names the one that failed, by its file and line.
func (g Galaxy) Install(ctx context.Context) error {
	for _, folder := range []string{g.home(), g.temporary()} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	// A repository of somebody else's is read because the project names it.
	var settings strings.Builder
	for _, r := range g.Requirements {
		if r.Local != "" {
			fmt.Fprintf(&settings, "[safe]\n\tdirectory = \"%s\"\n", gitQuoted.Replace(r.Local))
		}
	}
	err := errors.Join(
		os.WriteFile(g.gitSettings(), []byte(settings.String()), 0o600),
		os.WriteFile(filepath.Join(g.Scratch, configFile), []byte("[defaults]\n"), 0o600),
	)
	if err != nil {
		return err
	}
	offline := []string{}
	if g.Offline {
		offline = append(offline, "--offline")
	}
	return errors.Join(
		g.run(ctx, false, "role", "install", "--roles-path", g.Roles, "--role-file"),
		g.run(ctx, true, slices.Concat([]string{"collection", "install"}, offline, []string{"--collections-path", g.Collections, "--requirements-file"})...),
	)
}

// gitQuoted is a text between quotes in git's settings (git-config(1)).
var gitQuoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`)

func (g Galaxy) home() string        { return filepath.Join(g.Scratch, "home") }
func (g Galaxy) temporary() string   { return filepath.Join(g.Scratch, "tmp") }
func (g Galaxy) gitSettings() string { return filepath.Join(g.Scratch, "gitconfig") }

// run installs those of a kind; the arguments end before the name of the file that lists them.
func (g Galaxy) run(ctx context.Context, collections bool, arguments ...string) error {
	key := map[bool]string{false: "roles", true: "collections"}[collections]
	var of []Requirement
	var list []map[string]string
	for _, r := range g.Requirements {
		if r.Collection == collections {
			of, list = append(of, r), append(list, r.item())
		}
	}
	if len(of) == 0 {
		return nil
	}
	file := filepath.Join(g.Scratch, key+".yml")
	if err := writeJSON(file, map[string]any{key: list}); err != nil {
		return err
	}
	var printed strings.Builder
	cmd := g.Command(ctx, "ansible-galaxy", append(arguments, file)...)
	cmd.Env, cmd.Dir = g.environment(), g.Scratch
	cmd.Stdout = io.MultiWriter(g.Log, &printed)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	switch {
	case err == nil || ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return &fail.Error{Kind: fail.Host, Hint: "run 'vmctl doctor --install-missing'", Err: err}
	}
	return failedInstall(of, printed.String(), err)
}

// item is a requirement as a file of requirements has it.
func (r Requirement) item() map[string]string {
	item := map[string]string{"name": r.Name, "version": r.Version}
	switch {
	case r.Collection && r.Source != "":
		item["name"], item["type"] = r.Source, r.Type
	case r.Collection:
		item["type"], item["source"] = r.Type, r.Server
	default:
		item["src"], item["scm"] = r.Source, r.SCM
		if r.Source == "" {
			item["src"] = r.Name
		}
	}
	for key, value := range item {
		if value == "" {
			delete(item, key)
		}
	}
	return item
}

// environment has nothing of the user's: neither ~/.ansible nor settings, and no git that asks.
func (g Galaxy) environment() []string {
	return append(slices.Clone(g.Env),
		"HOME="+g.home(), "TMPDIR="+g.temporary(),
		"ANSIBLE_CONFIG="+filepath.Join(g.Scratch, configFile), "ANSIBLE_HOME="+filepath.Join(g.home(), ".ansible"),
		"ANSIBLE_LOCAL_TEMP="+g.temporary(), "ANSIBLE_GALAXY_CACHE_DIR="+filepath.Join(g.Scratch, "cache"),
		"ANSIBLE_ROLES_PATH="+g.Roles, "ANSIBLE_COLLECTIONS_PATH="+g.Collections,
		"ANSIBLE_NOCOLOR=1", "PYTHONDONTWRITEBYTECODE=1",
		"GIT_CONFIG_GLOBAL="+g.gitSettings(), "GIT_TERMINAL_PROMPT=0", "GIT_SSH_COMMAND=ssh -o BatchMode=yes",
	)
}

// whyNot is what comes before the reason in what ansible-galaxy prints, and advice that nobody
// can follow here.
var (
	whyNot  = []string{"NOT installed successfully: ", "ERROR! ", "[ERROR]: "}
	advised = []string{"ERROR! - you can use --ignore-errors", "[ERROR]: - you can use --ignore-errors", "[ERROR]: you can use --ignore-errors"}
)

// failedInstall names the requirement of which ansible-galaxy spoke last, where that shows.
func failedInstall(of []Requirement, printed string, err error) error {
	said := strings.Join(strings.Fields(printed), " ")
	for _, advice := range advised {
		said, _, _ = strings.Cut(said, advice)
	}
	why := err.Error()
	for _, mark := range whyNot {
		if at := strings.LastIndex(said, mark); at >= 0 {
			why = strings.TrimSpace(said[at+len(mark):])
			break
		}
	}
	// Lines are broken anywhere.
	dense := strings.Join(strings.Fields(printed), "")
	op, last := "", -1
	for _, r := range of {
		for _, name := range []string{r.Source, r.Name} {
			if at := strings.LastIndex(dense, strings.Join(strings.Fields(name), "")); name != "" && at > last {
				op, last = r.Origin+": "+r.Shown, at
			}
		}
	}
	if op == "" || len(of) == 1 {
		op = of[0].Origin + ": " + of[0].Shown
		if len(of) > 1 {
			file, _, _ := strings.Cut(of[0].Origin, ":")
			op = file
		}
	}
	failure := &fail.Error{Kind: fail.Build, Op: op, Tail: lastLines(printed, keptLines), Err: errors.New(why)}
	if noKey.MatchString(said) {
		failure.Hint = "ssh finds no keys and known hosts of a user where requirements are installed: give an https address, with a token in it if need be, or a folder or an archive"
	}
	return failure
}

// noKey is what ssh says, by git, that has neither the user's keys nor known_hosts.
var noKey = regexp.MustCompile(`Host key verification failed|Permission denied \([a-z,-]*publickey`)
