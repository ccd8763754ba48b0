package spec

import (
	"fmt"
	"regexp"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

var namePattern = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*$`)

const nameRule = "use lower-case letters, digits, and dots or hyphens between them, 63 characters at most"

// isName says whether a build can have the name. Every such name is a host
// name too.
func isName(name string) bool { return namePattern.MatchString(name) && len(name) <= 63 }

// CheckName says why a build cannot have the name.
func CheckName(name string) error {
	if !isName(name) {
		return fail.New(fail.Usage, "", nameRule, "%q is no name for a build", name)
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
