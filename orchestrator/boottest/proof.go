package boottest

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/btw-img/btw-img/orchestrator/vm"
)

// proved is how the disk has come up on such a machine before, where that is proof enough
// for this test. Its traces are put where this boot's would be.
func (o Options) proved(ctx context.Context, setup vm.Setup) (Result, bool, error) {
	if o.Proofs == nil {
		return Result{}, false, nil
	}
	result, traces := o.Proofs.Find(ctx, setup.Machine())
	if result == nil || !o.accepts(*result) {
		return Result{}, false, nil
	}
	return *result, true, errors.Join(writeNew(setup.Console, traces.Console), traces.Screens.write(setup.Console, bootName(setup.Firmware, setup.CD)))
}

// accepts says whether an earlier boot would pass this test, which may be stricter.
func (o Options) accepts(r Result) bool {
	return r.Passed && r.Seconds <= o.Timeout.Seconds() && (r.Report != nil || o.Systemd < SystemdForReport)
}

// prove remembers a boot that has passed. One that is not remembered costs time alone.
func (o Options) prove(ctx context.Context, setup vm.Setup, r Result, screens Screens) {
	if o.Proofs == nil {
		return
	}
	console, err := os.ReadFile(setup.Console)
	if err == nil {
		err = o.Proofs.Keep(ctx, setup.Machine(), r, Traces{console, screens})
	}
	if err != nil && ctx.Err() == nil {
		o.Task("note", r.Name()+": the next build boots it again: "+err.Error())
	}
}

// writeNew writes a file in place of what was there, and follows no link.
func writeNew(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}
