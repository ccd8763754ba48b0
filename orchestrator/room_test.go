package orchestrator

import (
	"path/filepath"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/budget"
	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestABuildTakesRoomForItsDiskAndImages(t *testing.T) {
	folder := t.TempDir()
	b := Builder{Budget: budget.In(folder)}
	w := open(t, t.TempDir())
	defer func() { _ = w.close(nil) }()
	shares := func() int {
		names, _ := filepath.Glob(filepath.Join(folder, "[A-Z2-7]*"))
		return len(names)
	}
	r := b.room(plan(t, "debian"), w, &stages{ctx: t.Context(), tell: func(Event) {}})
	if err := r.reserve(t.Context(), 1<<60); fail.ExitCode(err) != 3 || shares() != 0 {
		t.Errorf("error %v, %d shares are taken", err, shares())
	}
	if err := r.reserve(t.Context(), 1); err != nil || shares() != 1 {
		t.Errorf("error %v, %d shares are taken", err, shares())
	}
	r.release()
	if shares() != 0 {
		t.Error("the share is not given back")
	}
}
