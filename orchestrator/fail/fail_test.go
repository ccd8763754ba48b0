package fail_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/go-multierror"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestExitCodeSeesThroughWrapping(t *testing.T) {
	boot := fail.New(fail.Boot, "boot test", "look at the console", "kernel panic")
	for name, tc := range map[string]struct {
		err  error
		want int
	}{
		"nil":          {nil, 0},
		"plain":        {errors.New("x"), 1},
		"usage":        {fail.New(fail.Usage, "", "", "x"), 2},
		"host":         {fail.New(fail.Host, "", "", "x"), 3},
		"build":        {fail.New(fail.Build, "", "", "x"), 4},
		"boot":         {boot, 5},
		"registry":     {fail.New(fail.Registry, "", "", "x"), 6},
		"fmt":          {fmt.Errorf("outer: %w", boot), 5},
		"rewrapped":    {fail.Wrap(fail.Build, "build debian", boot), 5},
		"multierror":   {multierror.Append(nil, errors.New("first"), boot), 5},
		"cancelled":    {fmt.Errorf("run: %w", context.Canceled), 130},
		"wrap of none": {fail.Wrap(fail.Build, "op", nil), 0},
	} {
		if got := fail.ExitCode(tc.err); got != tc.want {
			t.Errorf("%s: exit code %d, want %d", name, got, tc.want)
		}
	}
}

func TestHintAndTailComeFromTheInnermostThatHasOne(t *testing.T) {
	inner := &fail.Error{Kind: fail.Build, Hint: "free some space", Tail: "no space left", Err: errors.New("exit 1")}
	err := fail.Wrap(fail.Build, "build debian", fmt.Errorf("source: %w", inner))
	if got := fail.Hint(err); got != "free some space" {
		t.Errorf("hint %q", got)
	}
	if got := fail.Tail(err); got != "no space left" {
		t.Errorf("tail %q", got)
	}
	if got := err.Error(); got != "build debian: source: exit 1" {
		t.Errorf("text %q", got)
	}
}
