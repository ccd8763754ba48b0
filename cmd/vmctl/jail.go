package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/ansible"
	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// jailVerb is how vmctl calls itself for the work that needs root.
const jailVerb = "build-in-jail"

func runJail() int {
	err := orchestrator.RunInJail(provisioner{})
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
	build := map[string]any{"name": d.Name, "hostname": d.Hostname, "architecture": orchestrator.Architecture, "layer": p.Layer.Name}
	if b := d.Source.Bootstrap; b != nil {
		build["suite"] = b.Suite
	}
	variables["build"] = build
	err = ansible.Run{
		Root: p.Root, Scratch: p.Scratch, Playbooks: playbooks, Roles: p.Roles,
		Layer: p.Layer, Variables: variables, Command: host.Grouped, Env: p.Env, Log: p.Log,
		OnEvent: func(e ansible.Event) { p.Task(e.Status, e.Origin+" "+e.Task) },
	}.Apply(ctx)
	return fail.Wrap(fail.Build, "build "+d.Name, err)
}
