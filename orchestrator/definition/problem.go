package definition

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Problem is one mistake in a definition.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // 1 for the first; 0 where there is no line
	What string `json:"what"`
	Mend string `json:"mend,omitempty"`
	// Warning says that it is no mistake, but may not be what is wanted.
	Warning bool `json:"warning,omitempty"`
}

func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Mend == "" {
		return place + ": " + p.What
	}
	return place + ": " + p.What + ": " + p.Mend
}

// Problems is every mistake found, in the order of files, lines and texts.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// err is ps as an error with the exit code of wrong definitions, or nil.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	sorted := slices.Clone(ps)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.What, b.What))
	})
	return &fail.Error{Kind: fail.Usage, Err: slices.Compact(sorted)}
}
