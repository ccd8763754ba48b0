package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Flatten writes the disk of a machine that does not run, with what lies below it, as a raw
// disk with holes.
func (m Machine) Flatten(ctx context.Context, h Host, out string) error {
	image, err := m.openImage()
	if err != nil {
		return err
	}
	defer image.Close()
	disk, err := os.Open(filepath.Join(m.dir, diskName))
	if err != nil {
		return err
	}
	defer disk.Close()
	command, err := vm.Flatten(image, m.Image.Format, disk, out)
	if err != nil {
		return &fail.Error{Kind: fail.Build, Op: m.Name, Err: err}
	}
	return h.Run(ctx, command)
}

// PublicKey is that of the key which the machine was told of, as authorized_keys has it.
func (m Machine) PublicKey() (string, error) {
	key, err := os.ReadFile(filepath.Join(m.dir, keyName+".pub"))
	return string(key), err
}

// AwaitOff waits until the guest has switched itself off.
func (m Machine) AwaitOff(ctx context.Context, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := m.awaitEnd(limited); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fail.New(fail.Build, m.Name, "", "it has not switched itself off within %s", limit)
	} else if err != nil {
		return err
	}
	return nil
}
