package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Which programs make images.
const (
	toolsAuto   = "auto"
	toolsHost   = "host"
	toolsDebian = "debian-13"
)

// toolsBuild is the shipped build that a tools tree is made of.
const toolsBuild = "tools"

// toolsFlag says which programs make images.
func toolsFlag(cmd *cobra.Command, tools *string) {
	cmd.Flags().StringVar(tools, "tools", cmp.Or(os.Getenv("VMCTL_TOOLS"), toolsAuto),
		"programs that make images: "+toolsHost+" for this machine's, "+toolsDebian+" for a tree of Debian's that is made first and kept, a build or a container image that is such a tree, or "+toolsAuto+
			", which takes "+toolsDebian+" where this machine lacks some; also $VMCTL_TOOLS")
	_ = cmd.RegisterFlagCompletionFunc("tools", cobra.FixedCompletions([]string{toolsAuto, toolsHost, toolsDebian}, cobra.ShellCompDirectiveNoFileComp))
}

// toolsOf is the plan of the tools tree of that name, nil for this machine's own programs.
func (o *buildOptions) toolsOf(name string) (*orchestrator.Plan, error) {
	if name == toolsHost {
		return nil, nil
	}
	image := isImage(name)
	var settings []string
	build := name
	if image {
		settings = []string{fmt.Sprintf("source={oci: {image: %q}}", name)}
	}
	library, err := o.defs.library()
	if image || name == toolsDebian { // which nobody's own files change
		build = toolsBuild
		library, err = definition.NewLibrary(emptyFolder{}, "", btwimg.Files)
	}
	if err != nil {
		return nil, err
	}
	plan, err := planBuild(library, o.defs.dir, build, settings, o.extract)
	if err != nil {
		return nil, fail.Wrap(fail.Usage, "--tools "+name, err)
	}
	if image { // which has all that it needs
		plan.Definition.Layers = []definition.Layer{{Name: build}}
	}
	plan.Definition.Name = name // as it is recorded, and asked for again
	return &plan, nil
}

// isImage says whether tools are a container image's.
func isImage(name string) bool { return strings.ContainsAny(name, "/:") }

// emptyFolder has no files.
type emptyFolder struct{}

// Open implements fs.FS.
func (emptyFolder) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// chooseTools chooses the programs that make these builds. The error says what this machine
// lacks for that. A choice that nobody has made is told.
func (o *buildOptions) chooseTools(cmd *cobra.Command, plans []orchestrator.Plan) error {
	refusing := refusal(cmd.Context(), *o, plans)
	name := o.toolsName
	switch {
	case name == toolsHost, name == toolsAuto && refusing == nil:
		return refusing
	case name == toolsAuto:
		name = toolsDebian
	}
	tools, err := o.toolsOf(name)
	if err != nil && o.toolsName == toolsAuto {
		return refusing
	}
	if err != nil {
		return err
	}
	o.tools = tools
	err = refusal(cmd.Context(), *o, plans)
	if o.toolsName != toolsAuto || err == nil {
		if err == nil && o.toolsName == toolsAuto {
			fmt.Fprintf(cmd.ErrOrStderr(), "vmctl: this machine lacks programs for it, which come from the tools tree %s ('vmctl doctor' lists them)\n", name)
		}
		return err
	}
	o.tools = nil
	return refusing
}

// printTools says which versions of programs make images.
func printTools(cmd *cobra.Command, cache string) error {
	here, tree, err := orchestrator.ToolVersions(cmd.Context(), cache, toolsDebian)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "images are made by %s\n", cmp.Or(toolLine(here), "no program of this machine"))
	fmt.Fprintf(cmd.OutOrStdout(), "--tools %s has %s\n", toolsDebian, cmp.Or(toolLine(tree), "what Debian 13 has: it is made by the first build that uses it"))
	return nil
}

// toolNames is what doctor tells the versions of.
var toolNames = []string{"mmdebstrap", "ansible-core", "ansible", "e2fsprogs", "qemu-utils"}

// toolLine is those of the versions that people ask for.
func toolLine(versions map[string]string) string {
	var words []string
	for _, name := range toolNames {
		if version := versions[name]; version != "" {
			words = append(words, name+" "+version)
		}
	}
	return strings.Join(words, ", ")
}
