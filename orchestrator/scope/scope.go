// Package scope releases what was acquired, in reverse order, whatever happens
// on the way.
package scope

import (
	"fmt"
	"slices"
	"strings"

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
	var problems []error
	for _, r := range slices.Backward(releases) {
		if err := r.do(); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", r.what, err))
		}
	}
	return Join(problems...)
}

// CloseInto closes the stack and joins what fails to *err; for use in defer.
func (s *Stack) CloseInto(err *error) { *err = Join(*err, s.Close()) }

// Join is all errors as one that tells each on a line of its own. A single one
// stays as it is, and none at all is nil.
func Join(errs ...error) error {
	all := multierror.Append(&multierror.Error{ErrorFormat: lines}, errs...)
	if len(all.Errors) == 1 {
		return all.Errors[0]
	}
	return all.ErrorOrNil()
}

func lines(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}
