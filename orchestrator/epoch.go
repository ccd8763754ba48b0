package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/source"
)

// epochVariable is the convention of reproducible-builds.org.
const epochVariable = "SOURCE_DATE_EPOCH"

// sourceFacts is what is remembered with the tree of a source.
type sourceFacts struct {
	Epoch    int64            `json:"epoch"` // of the archives, or of the newest file; seconds
	Archives []source.Release `json:"archives,omitempty"`
	Pinned   *Pinned          `json:"pinned,omitempty"`
	Disk     *keptDisk        `json:"disk,omitempty"` // of an installer whose disk is kept
}

// sourceEpoch is the date of what a source gave, which its tree at root tells.
func (w *workshop) sourceEpoch(root string) (epoch time.Time, err error) {
	if w.bootstrapped() {
		if epoch, err = source.Date(root); err != nil {
			return epoch, err
		}
	}
	if epoch.IsZero() {
		epoch, err = seal.Newest(root)
	}
	return epoch, err
}

// chosenEpoch is the caller's date, which is in all keys, or else the source's.
func chosenEpoch(ofSource time.Time) time.Time {
	if seconds, err := strconv.ParseInt(os.Getenv(epochVariable), 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC()
	}
	return ofSource.UTC()
}

// epoch is the time after which nothing in the tree was changed, as far as it tells: a
// fact of its source, and so the same whenever its layers were made.
func (t tree) epoch() (time.Time, error) {
	var facts sourceFacts
	if err := json.Unmarshal(t.layers[0].About().Data, &facts); err != nil {
		return time.Time{}, fmt.Errorf("the date of the source: %w", err)
	}
	return chosenEpoch(time.Unix(facts.Epoch, 0)), nil
}

// epochEnv tells tools the epoch. The last two are for e2fsprogs before 1.47.1 and
// for whoever reads local times.
func epochEnv(epoch time.Time) []string {
	seconds := strconv.FormatInt(epoch.Unix(), 10)
	return []string{epochVariable + "=" + seconds, "E2FSPROGS_FAKE_TIME=" + seconds, "TZ=UTC"}
}

// datedHost is a host whose tools take a given time for now, where they can.
type datedHost struct {
	host.Host
	env []string
}

func dated(h host.Host, epoch time.Time) host.Host { return datedHost{h, epochEnv(epoch)} }

func (h datedHost) Run(ctx context.Context, c host.Command) error {
	c.Env = slices.Concat(h.env, c.Env)
	return h.Host.Run(ctx, c)
}

func (h datedHost) Output(ctx context.Context, c host.Command) ([]byte, error) {
	c.Env = slices.Concat(h.env, c.Env)
	return h.Host.Output(ctx, c)
}

// contentSeed identifies a tree that is about to be made bootable, by what an image of
// it holds: what sealing removes goes first, since it may be secret, and short enough to be
// found by trying, where a published disk tells what comes of it.
func contentSeed(root, changed string, epoch time.Time) (string, error) {
	if err := cmp.Or(seal.Clean(root), seal.ClampChanged(root, changed, epoch)); err != nil {
		return "", err
	}
	return seal.Digest(root)
}
