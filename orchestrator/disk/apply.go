package disk

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Create makes file a sparse disk image with the plan's partition table.
func Create(ctx context.Context, h host.Host, plan Plan, file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(plan.Size), f.Close()); err != nil {
		return noSpace(err)
	}
	table := host.Cmd("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", file)
	table.Stdin = plan.Script()
	return h.Run(ctx, table)
}

func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: hintSpace}
	}
	return err
}

const hintSpace = "free space in the output folder, or choose another with -o"
