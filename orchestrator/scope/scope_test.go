package scope_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/scope"
)

func TestCloseRunsEverythingInReverseAndJoinsErrors(t *testing.T) {
	var ran []string
	var stack scope.Stack
	busy, gone := errors.New("busy"), errors.New("gone")
	push := func(name string, err error) {
		stack.Push("release "+name, func() error { ran = append(ran, name); return err })
	}
	push("loop", nil)
	push("root", busy)
	push("boot", gone)

	cause := errors.New("cause")
	err := cause
	stack.CloseInto(&err)

	if want := []string{"boot", "root", "loop"}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
	for _, want := range []error{cause, busy, gone} {
		if !errors.Is(err, want) {
			t.Errorf("%v lost %v", err, want)
		}
	}
	if err := stack.Close(); err != nil || len(ran) != 3 {
		t.Errorf("second Close ran again: %v %v", err, ran)
	}
}
