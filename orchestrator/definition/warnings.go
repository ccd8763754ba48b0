package definition

import (
	"fmt"
	"strconv"
	"strings"
)

// embeddedPrefix begins the names of files that are in the binary.
const embeddedPrefix = "(embedded) "

// Embedded says whether the problem is one of a build that is shipped.
func (p Problem) Embedded() bool { return strings.HasPrefix(p.File, embeddedPrefix) }

// Warnings is what of a definition without mistakes may not be what is wanted.
func (d Definition) Warnings() Problems {
	var warnings Problems
	for _, layer := range d.Layers {
		for _, entry := range layer.Install {
			for _, user := range entry.Users {
				if user.EmptyPassword {
					warnings = append(warnings, warning(entry.Origin, fmt.Sprintf("users: %s has no password: whoever is at the console may log in", user.Name)))
				}
			}
		}
	}
	return warnings
}

// warning is of an entry with that origin, FILE:LINE.
func warning(origin, what string) Problem {
	w := ProblemAt(origin, what, "")
	w.Warning = true
	return w
}

// ProblemAt is a mistake at an origin, FILE:LINE.
func ProblemAt(origin, what, mend string) Problem {
	p := Problem{File: origin, What: what, Mend: mend}
	if colon := strings.LastIndexByte(origin, ':'); colon >= 0 {
		if line, err := strconv.Atoi(origin[colon+1:]); err == nil {
			p.File, p.Line = origin[:colon], line
		}
	}
	return p
}
