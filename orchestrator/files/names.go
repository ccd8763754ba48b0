package files

import (
	"fmt"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/text"
)

const longestName = 200 // bytes; file systems have 255, and a part has a longer name

// CheckFileName is what is wrong with a file's name that somebody else chose, nil
// where it may be used in a folder, be shown, and be written in a command: a title of
// a registry, an output of a build, a line of SHA256SUMS.
func CheckFileName(name string) error {
	problem := ""
	switch {
	case name == "":
		problem = "is empty"
	case len(name) > longestName:
		name, problem = strings.ToValidUTF8(name[:longestName], ""), "is too long"
	case strings.ContainsAny(name, `/\`):
		problem = "holds a slash"
	case name[0] == '.' || name[0] == '-' || name[0] == ' ':
		problem = "begins with a dot, a dash or a space"
	case text.Line(name) != name:
		problem = "holds characters that cannot be seen"
	default:
		return nil
	}
	return fmt.Errorf("%q is no file name: it %s", name, problem)
}
