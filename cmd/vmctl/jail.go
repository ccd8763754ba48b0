package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/ansible"
	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// jailVerb is how vmctl calls itself for the work of a jail.
const jailVerb = "build-in-jail"

func runJail() int {
	err := orchestrator.RunInJail(provisioner{}, runVerb)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmctl:", err)
	}
	return fail.ExitCode(err)
}

// runMethod fetches files for apt in a jail.
func runMethod(folder, scheme string) int {
	err := aptmethod.Serve(context.Background(), folder, scheme, os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmctl:", err)
	}
	return fail.ExitCode(err)
}

// provisioner applies layers with Ansible.
type provisioner struct{}

func (provisioner) Provision(ctx context.Context, p orchestrator.Provision) error {
	playbooks, err := fs.Sub(btwimg.Files, "ansible/playbooks")
	if err != nil {
		return err
	}
	d := p.Definition
	variables := maps.Clone(d.Vars)
	if variables == nil {
		variables = map[string]any{}
	}
	build := map[string]any{"name": d.Name, "hostname": d.Hostname, "architecture": arch.Target.Debian, "layer": p.Layer.Name}
	switch s := d.Source; {
	case s.Bootstrap != nil:
		build["suite"] = s.Bootstrap.Suite
	case s.CloudImage != nil && s.CloudImage.Suite != "":
		build["suite"] = s.CloudImage.Suite
	case s.Installer != nil && s.Installer.Suite != "":
		build["suite"] = s.Installer.Suite
	}
	maps.Copy(build, p.Build)
	variables["build"] = build
	entries, err := entriesOf(p.Layer)
	if err != nil {
		return err
	}
	for i := range entries {
		entries[i].Facts = p.Facts[i]
	}
	err = ansible.Run{
		Root: p.Root, Chroot: p.Chroot, Guest: p.Guest, Local: p.Local, Scratch: p.Scratch, Playbooks: playbooks, Project: projectOf(p), Machine: p.Machine, Secrets: p.Secrets, Vault: p.Vault, Epoch: p.Epoch,
		Entries: entries, Variables: variables, Command: host.Grouped, Env: p.Env, Log: p.Log,
		OnEvent: func(e ansible.Event) { p.Task(e.Status, e.Origin+" "+e.Task, e.Output, e.Diff) },
		Diff:    p.Diff, Begin: p.Begin,
	}.Apply(ctx)
	return fail.Wrap(fail.Build, "build "+d.Name, err)
}

func (provisioner) Install(ctx context.Context, i orchestrator.Installation) error {
	g := ansible.Galaxy{
		Roles: i.Roles, Collections: i.Collections, Scratch: i.Scratch, Offline: i.Offline, Command: host.Grouped, Env: host.CleanEnv(), Log: i.Log,
	}
	for _, r := range i.Requirements {
		one := ansible.Requirement{
			Collection: r.Kind == definition.RequiredCollection, Name: r.Name, Source: r.Source, SCM: r.SCM, Version: r.Version, Type: r.Type, Server: r.Server, Origin: r.Origin, Shown: r.String(),
		}
		if r.SCM != "" || r.Git() {
			one.Local = r.Local()
		}
		g.Requirements = append(g.Requirements, one)
	}
	return g.Install(ctx)
}

// projectOf is what an entry applies of the user's own Ansible. An entry with roles or
// playbooks has a run to itself.
func projectOf(p orchestrator.Provision) ansible.Project {
	project := ansible.Project{Folder: p.Project, Installed: p.Installed, AllowLocalhost: p.AllowLocalhost}
	for _, entry := range p.Layer.Install {
		if len(entry.Roles) > 0 {
			project.Roles, project.Tags = playRoles(entry.Roles), entry.Roles[0].Tags
		}
		if len(entry.OnlyTags) > 0 {
			project.Tags = entry.OnlyTags
		}
		project.SkipTags = entry.SkipTags
		project.Playbooks, project.NoLog = entry.Playbooks, entry.NoLog
	}
	return project
}

// playRoles is roles in the form that a play has for them.
func playRoles(roles []definition.Role) []any {
	var all []any
	for _, role := range roles {
		one := map[string]any{"role": role.Name}
		if len(role.Vars) > 0 {
			one["vars"] = role.Vars
		}
		all = append(all, one)
	}
	return all
}

// entriesOf is the entries of a layer, as Ansible applies them. Where they come from may be
// the name of any folder, and must not be rendered.
func entriesOf(layer definition.Layer) (entries []ansible.Entry, err error) {
	add := func(entry ansible.Entry, parts any) {
		content, problem := json.Marshal(parts)
		err = errors.Join(err, problem, json.Unmarshal(content, &entry.Parts))
		delete(entry.Parts, "origin")
		for _, key := range []string{"on", "only_tags", "skip_tags"} { // where and which, not what
			delete(entry.Parts, key)
		}
		entries = append(entries, entry)
	}
	for _, e := range layer.Install {
		add(ansible.Entry{Origin: e.Origin, Name: cmp.Or(e.Name, "Install"), NoLog: e.NoLog}, e)
	}
	for _, e := range layer.Commands {
		add(ansible.Entry{Origin: e.Origin, Name: cmp.Or(e.Name, "Command"), NoLog: e.NoLog}, e)
	}
	return entries, err
}
