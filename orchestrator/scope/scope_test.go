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

func TestSeveralErrorsAreTextOnALineEach(t *testing.T) {
	busy, gone := errors.New("busy"), errors.New("gone")
	for want, errs := range map[string][]error{
		"busy":             {nil, busy, nil},
		"busy\ngone":       {busy, gone},
		"busy\ngone\nbusy": {scope.Join(busy, gone), busy},
	} {
		if got := scope.Join(errs...).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := scope.Join(nil, nil); err != nil {
		t.Errorf("none: %v", err)
	}
	var stack scope.Stack
	stack.Push("unmount /boot", func() error { return busy })
	err := gone
	stack.CloseInto(&err)
	if got := err.Error(); got != "gone\nunmount /boot: busy" {
		t.Errorf("closed into: %q", got)
	}
}
