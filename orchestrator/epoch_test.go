package orchestrator

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
)

type envHost struct {
	host.Host
	env [][]string
}

func (h *envHost) Run(_ context.Context, c host.Command) error {
	h.env = append(h.env, c.Env)
	return nil
}

func (h *envHost) Output(_ context.Context, c host.Command) ([]byte, error) {
	h.env = append(h.env, c.Env)
	return nil, nil
}

func TestToolsAreToldTheEpoch(t *testing.T) {
	real := &envHost{}
	h := dated(real, time.Unix(1_700_000_000, 0))
	command := host.Cmd("tool")
	command.Env = []string{"TZ=Europe/Berlin"}
	_ = h.Run(t.Context(), command)
	_, _ = h.Output(t.Context(), command)
	if len(real.env) != 2 {
		t.Fatalf("%d commands ran", len(real.env))
	}
	for _, env := range real.env {
		if !slices.Contains(env, "SOURCE_DATE_EPOCH=1700000000") || !slices.Contains(env, "E2FSPROGS_FAKE_TIME=1700000000") || env[len(env)-1] != "TZ=Europe/Berlin" {
			t.Errorf("environment %q", env)
		}
	}
}

func TestTheCallersEpochCountsMore(t *testing.T) {
	source := time.Unix(5, 0)
	t.Setenv(epochVariable, "")
	if got := chosenEpoch(source); !got.Equal(source) {
		t.Errorf("%v without a choice", got)
	}
	t.Setenv(epochVariable, "1700000000")
	if got := chosenEpoch(source); got.Unix() != 1_700_000_000 {
		t.Errorf("%v in spite of a choice", got)
	}
}

func TestIdentifiersFollowContentAndDisk(t *testing.T) {
	ids := func(seed, disk string) Plan {
		w := workshop{plan: plan(t, "debian"), parts: parts{Disk: disk}}
		if err := w.identify(seed); err != nil {
			t.Fatal(err)
		}
		return w.plan
	}
	a, again := ids("tree", "disk"), ids("tree", "disk")
	if a.Disk.ID != again.Disk.ID || a.FSTab != again.FSTab {
		t.Error("the same disk has two identities")
	}
	for _, other := range []Plan{ids("another tree", "disk"), ids("tree", "another disk")} {
		for i, part := range other.Disk.Partitions {
			if one := a.Disk.Partitions[i]; other.Disk.ID == a.Disk.ID || part.ID == one.ID || part.UUID == one.UUID && one.UUID != "" {
				t.Errorf("two disks share an identifier: %+v", part)
			}
		}
	}
}
