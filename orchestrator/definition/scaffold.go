package definition

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

var namePattern = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*$`)

// What vmctl keeps in the output folder beside the folders of the builds. No
// build can have such a name, or it would replace what is there.
const (
	LayoutsFolder = "oci"     // an OCI layout per build
	FailedSuffix  = ".failed" // the logs of a build that failed, behind its name
)

// CheckName says why a build cannot have the name. Every name that it takes is
// a host name too, and one element of a path. Whoever makes a path of a name
// asks it, wherever the name comes from.
func CheckName(name string) error {
	switch {
	case !namePattern.MatchString(name) || len(name) > 63:
		return fail.New(fail.Usage, "", "use lower-case letters, digits, and dots or hyphens between them, 63 characters at most", "%q is no name for a build", name)
	case name == LayoutsFolder:
		return fail.New(fail.Usage, "", "choose another name", "%q is no name for a build: the output folder keeps OCI layouts in a folder of that name", name)
	case strings.HasSuffix(name, FailedSuffix):
		return fail.New(fail.Usage, "", "choose another name", "%q is no name for a build: the output folder keeps the logs of a failed build of %q in a folder of that name", name, strings.TrimSuffix(name, FailedSuffix))
	}
	return nil
}

// InstallScaffold is a valid install.d file to start from.
func InstallScaffold(name, extends string) string {
	return fmt.Sprintf(`description: %[1]s, based on %[2]s
extends: %[3]s

# What gets installed, in order. An entry may hold packages, repositories,
# debconf, files, templates, users, services, roles and playbooks. One with
# 'on: boot' is applied in a guest that starts from the tree so far: for what
# needs a running service, such as a database.
install:
  - name: Tools
    packages: [less]
`, name, extends, scalar(extends))
}

// scalar is a text as YAML, quoted where it looks like something else.
func scalar(s string) string {
	content, err := yaml.Marshal(s)
	if err != nil {
		return s
	}
	return strings.TrimSpace(string(content))
}

// CommandsScaffold is a valid commands.d file to start from.
func CommandsScaffold() string {
	return `# What is run in the image after the installation, in order: run (a script for
# /bin/sh -e) or argv (a list); creates, chdir, environment and on are optional.
commands:
  - name: Say where the image comes from
    run: echo "built with vmctl" > /etc/motd
`
}
