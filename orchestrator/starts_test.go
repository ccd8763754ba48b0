package orchestrator

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWhatStartsAtBoot(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{
		"usr/lib/systemd/system/web.service", "usr/lib/systemd/system/worker@.service", "usr/lib/systemd/system/turn.timer", "usr/lib/systemd/system/masked.service",
		"usr/lib/systemd/system/idle.service", "usr/lib/systemd/system/repair.service", "etc/init.d/old", "etc/init.d/web",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"etc/systemd/system/multi-user.target.wants/web.service":        "/usr/lib/systemd/system/web.service",
		"etc/systemd/system/multi-user.target.wants/worker@one.service": "/usr/lib/systemd/system/worker@.service",
		"etc/systemd/system/multi-user.target.wants/gone.service":       "/usr/lib/systemd/system/gone.service",
		"etc/systemd/system/multi-user.target.wants/masked.service":     "/usr/lib/systemd/system/masked.service",
		"etc/systemd/system/masked.service":                             "/dev/null",
		"etc/systemd/system/timers.target.requires/turn.timer":          "/usr/lib/systemd/system/turn.timer",
		"etc/systemd/system/rescue.target.wants/repair.service":         "/usr/lib/systemd/system/repair.service",
		"etc/rc2.d/S01old":  "../init.d/old",
		"etc/rc3.d/S01web":  "../init.d/web",
		"etc/rc2.d/S01none": "../init.d/none",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	got, err := startsAtBoot(root)
	if want := []string{"old.service", "turn.timer", "web.service", "worker@one.service"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}
