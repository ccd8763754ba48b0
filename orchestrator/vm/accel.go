package vm

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

//go:embed kvmprobe.bin
var kvmProbe []byte

const (
	kvmDevice   = "/dev/kvm"
	probeLimit  = 10 * time.Second
	probeStatus = 0x10<<1 | 1 // what isa-debug-exit makes of the byte 0x10

	// From linux/kvm.h: KVM_CHECK_EXTENSION asks for a capability by number.
	kvmCheckExtension = 0xae03
	kvmCapSMM         = 117
)

// ErrHypervisor is a guest that KVM could not run. The image is not to blame.
var ErrHypervisor = errors.New("the host's KVM cannot run this guest")

// Accelerator is what this host's guests run on. The zero value emulates.
type Accelerator struct {
	Reason   string // why it was chosen, for people
	kvm      bool
	smm      bool // KVM has System Management Mode
	fallback bool // emulate what KVM cannot run
}

// For is the accelerator (AccelKVM or AccelTCG) for a guest of the firmware.
func (a Accelerator) For(firmware string) string {
	if !a.kvm || arch.Target.FirmwareNamed(firmware).SMM && !a.smm && a.fallback {
		return AccelTCG
	}
	return AccelKVM
}

// After is the accelerator for another try of a guest that failed so, or false
// where there is none.
func (a Accelerator) After(failure error) (Accelerator, bool) {
	if !a.kvm || !a.fallback || !errors.Is(failure, ErrHypervisor) {
		return a, false
	}
	return Accelerator{Reason: ErrHypervisor.Error()}, true
}

func (a Accelerator) String() string {
	if a.kvm {
		return AccelKVM
	}
	return AccelTCG
}

// ChooseAccelerator is the accelerator to use where the user wants want
// (AccelAuto, AccelKVM or AccelTCG). A /dev/kvm that opens is not trusted: a boot
// sector that does what firmware and kernels do must run on it first, which takes
// well under a second where KVM works, and ten at most.
func ChooseAccelerator(ctx context.Context, want string) (Accelerator, error) {
	switch want {
	case AccelTCG:
		return Accelerator{Reason: "as asked"}, nil
	case AccelAuto, AccelKVM:
	default:
		return Accelerator{}, fail.New(fail.Usage, "--accel", "known: auto, kvm, tcg", "unknown accelerator %q", want)
	}
	smm, problem := probeKVM(ctx)
	switch {
	case ctx.Err() != nil:
		return Accelerator{}, ctx.Err()
	case problem == nil:
		return Accelerator{Reason: "it runs 64-bit guests", kvm: true, smm: smm, fallback: want == AccelAuto}, nil
	case want == AccelKVM:
		return Accelerator{}, &fail.Error{Kind: fail.Host, Op: "--accel kvm", Err: problem, Hint: "use --accel auto, which falls back to TCG"}
	}
	return Accelerator{Reason: problem.Error()}, nil
}

// probeKVM is why KVM cannot run a 64-bit guest here, or nil, and whether it has
// System Management Mode.
func probeKVM(ctx context.Context) (smm bool, problem error) {
	device, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("KVM cannot be used: %w", err)
	}
	supported, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), kvmCheckExtension, kvmCapSMM)
	device.Close()
	dir, err := os.MkdirTemp(host.Temp(), "vmctl-kvm-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "probe")
	if err := os.WriteFile(disk, kvmProbe, 0o600); err != nil {
		return false, err
	}
	path := host.Find(arch.Target.QEMU.Binary)
	if path == "" {
		return false, fmt.Errorf("%s is not installed", arch.Target.QEMU.Binary)
	}
	return errno == 0 && supported > 0, runProbe(ctx, path, disk)
}

func runProbe(ctx context.Context, qemu, disk string) error {
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := host.Tied(limited, qemu, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-m", "32", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive", "if=ide,format=raw,file="+escape(disk))
	said := &complaints{onInternalError: cancel}
	cmd.Stderr = said
	err := host.RunTied(cmd)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == probeStatus {
		return nil
	}
	if errors.Is(limited.Err(), context.DeadlineExceeded) {
		return errors.New("/dev/kvm opens, but a guest on it does not run")
	}
	return errors.New("/dev/kvm opens, but cannot run a 64-bit guest")
}

// complaints is what QEMU writes to its standard error. After an internal error
// of KVM it would stand still without ending.
type complaints struct {
	mu              sync.Mutex
	text            bytes.Buffer
	internalError   bool
	onInternalError func() // may be nil
}

// kvmGaveUp is what QEMU says before a guest stands still for the hypervisor's sake
// (accel/kvm/kvm-all.c and target/i386/kvm/kvm.c of QEMU).
var kvmGaveUp = regexp.MustCompile(`KVM internal error|KVM: entry failed|kvm run failed`)

const mostComplaints = 64 << 10 // bytes; the first ones tell

// Write implements io.Writer.
func (c *complaints) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.Write(p[:min(len(p), mostComplaints-c.text.Len())])
	if !c.internalError && kvmGaveUp.Match(c.text.Bytes()) {
		c.internalError = true
		if c.onInternalError != nil {
			c.onInternalError()
		}
	}
	return len(p), nil
}

func (c *complaints) broken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.internalError
}

// String is the first line, since register dumps follow.
func (c *complaints) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(c.text.Bytes()), []byte("\n"))
	return string(line)
}

// explain adds to how QEMU ended what it said.
func (c *complaints) explain(err error) error {
	if text := c.String(); err != nil && text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
