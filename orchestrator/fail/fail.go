// Package fail defines the error that vmctl shows to people: what was being
// done, why it failed, what to do about it, and which exit code follows.
package fail

import (
	"context"
	"errors"
	"fmt"
)

// Kind says whose fault a failure is; each kind has one exit code.
type Kind int

// The kinds, each with the exit code that Kind.ExitCode gives for it.
const (
	Other       Kind = iota // 1: anything else
	Usage                   // 2: wrong usage or definition
	Host                    // 3: this host cannot do it (preflight)
	Build                   // 4: the build failed
	Boot                    // 5: the boot test failed
	Registry                // 6: a registry failed
	Interrupted             // 130: the user interrupted
)

// ExitCode is the process exit code of the kind.
func (k Kind) ExitCode() int {
	switch k {
	case Usage, Host, Build, Boot, Registry:
		return int(k) + 1
	case Interrupted:
		return 130
	default:
		return 1
	}
}

// Error is a failure with its context. Err is the cause and is what
// errors.Is and errors.As see.
type Error struct {
	Kind Kind
	Op   string // what was being done to which thing; may be empty
	Hint string // what the user can do about it; may be empty
	Tail string // last lines of the tool that failed; may be empty
	Err  error
}

func (e *Error) Error() string {
	if e.Op == "" {
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// New makes an Error from a formatted cause.
func New(kind Kind, op, hint, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// Wrap gives err a kind and an operation. An Error further down keeps its own
// kind, since the place nearest to the cause knows best. Wrap of nil is nil.
func Wrap(kind Kind, op string, err error) error {
	if err == nil {
		return nil
	}
	if inner, ok := errors.AsType[*Error](err); ok {
		kind = inner.Kind
	}
	return &Error{Kind: kind, Op: op, Err: err}
}

// ExitCode is the exit code for err: 0 for nil, 130 for a cancelled context.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind.ExitCode()
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted.ExitCode()
	}
	return Other.ExitCode()
}

// Hint is the first hint found in err's chain, or "".
func Hint(err error) string {
	return first(err, func(e *Error) string { return e.Hint })
}

// Tail is the first tool output found in err's chain, or "".
func Tail(err error) string {
	return first(err, func(e *Error) string { return e.Tail })
}

func first(err error, field func(*Error) string) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if text := field(e); text != "" {
			return text
		}
		err = e.Err
	}
	return ""
}
