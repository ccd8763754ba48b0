package spec

import (
	"fmt"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// CheckName says whether a build can have the name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) || len(name) > 63 {
		return fail.New(fail.Usage, "", "use lower-case letters, digits, and dots or hyphens between them, 63 at most", "%q is no name for a build", name)
	}
	return nil
}

// InstallScaffold is a valid install.d file to start from.
func InstallScaffold(name, extends string) string {
	return fmt.Sprintf(`description: %[1]s, based on %[2]s
extends: %[2]s

# What gets installed, in order. An entry may hold packages, repositories,
# debconf, files, templates, users, services and roles.
install:
  - name: Tools
    packages: [less]
`, name, extends)
}

// CommandsScaffold is a valid commands.d file to start from.
func CommandsScaffold() string {
	return `# What is run in the image after the installation, in order: run (a script for
# /bin/sh -e) or argv (a list); creates, chdir and environment are optional.
commands:
  - name: Say where the image comes from
    run: echo "built with vmctl" > /etc/motd
`
}
