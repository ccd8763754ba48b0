// Package scope releases what was acquired, in reverse order, whatever happens
// on the way.
package scope

import (
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// Stack holds releases. The zero value is ready to use. It is not safe for
// concurrent use.
type Stack struct {
	releases []release
}

type release struct {
	what string
	do   func() error
}

// Push adds a release; what names the thing in errors, as in "unmount /boot".
func (s *Stack) Push(what string, do func() error) {
	s.releases = append(s.releases, release{what, do})
}

// Close runs every release, last pushed first, goes on after failures and
// returns them all. A second Close does nothing.
func (s *Stack) Close() error {
	releases := s.releases
	s.releases = nil
	var problems *multierror.Error
	for _, r := range slices.Backward(releases) {
		if err := r.do(); err != nil {
			problems = multierror.Append(problems, fmt.Errorf("%s: %w", r.what, err))
		}
	}
	return problems.ErrorOrNil()
}

// CloseInto closes the stack and joins what fails to *err; for use in defer.
func (s *Stack) CloseInto(err *error) {
	closing := s.Close()
	switch {
	case closing == nil:
	case *err == nil:
		*err = closing
	default:
		*err = multierror.Append(*err, closing)
	}
}
