package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

//go:embed kvmprobe.bin
var kvmProbe []byte

const (
	kvmDevice   = "/dev/kvm"
	probeLimit  = 10 * time.Second
	probeStatus = 0x10<<1 | 1 // what isa-debug-exit makes of the byte 0x10
)

// Accelerator is the accelerator to use where the user wants want (AccelAuto,
// AccelKVM or AccelTCG), and why. A /dev/kvm that opens is not trusted: a boot
// sector that enters long mode must run on it first, which takes well under a
// second where KVM works or fails at once, and ten at most.
func Accelerator(ctx context.Context, want string) (accel, reason string, err error) {
	switch want {
	case AccelTCG:
		return AccelTCG, "as asked", nil
	case AccelAuto, AccelKVM:
	default:
		return "", "", fail.New(fail.Usage, "--accel", "known: auto, kvm, tcg", "unknown accelerator %q", want)
	}
	problem := probeKVM(ctx)
	switch {
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	case problem == nil:
		return AccelKVM, "it runs 64-bit guests", nil
	case want == AccelKVM:
		return "", "", &fail.Error{Kind: fail.Host, Op: "--accel kvm", Err: problem, Hint: "use --accel auto, which falls back to TCG"}
	}
	return AccelTCG, problem.Error(), nil
}

// probeKVM is why KVM cannot run a 64-bit guest here, or nil.
func probeKVM(ctx context.Context) error {
	device, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("KVM cannot be used: %w", err)
	}
	device.Close()
	dir, err := os.MkdirTemp("", "vmctl-kvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "probe")
	if err := os.WriteFile(disk, kvmProbe, 0o600); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	path := host.Find(QEMU)
	if path == "" {
		return fmt.Errorf("%s is not installed", QEMU)
	}
	cmd := host.Tied(limited, path, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-m", "32", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive", "if=ide,format=raw,file="+escape(disk))
	err = host.RunTied(cmd)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == probeStatus {
		return nil
	}
	if limited.Err() != nil {
		return errors.New("/dev/kvm opens, but a guest on it does not run")
	}
	return errors.New("/dev/kvm opens, but cannot run a 64-bit guest")
}
