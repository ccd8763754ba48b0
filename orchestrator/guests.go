package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// guestRequest is what a jail asks of whoever runs its guest: to start one, or to end it.
type guestRequest struct {
	Start *guestOrder `json:"start,omitempty"`
}

type guestAnswer struct {
	End     guestEnd `json:"end"`
	Failure *failure `json:"failure,omitempty"`
}

// askedGuests asks the parent of a jail.
type askedGuests struct{ errands }

// Start implements guests.
func (a askedGuests) Start(o guestOrder) error {
	_, err := a.asks(guestRequest{&o})
	return err
}

// End implements guests.
func (a askedGuests) End() (guestEnd, error) { return a.asks(guestRequest{}) }

func (a askedGuests) asks(request guestRequest) (guestEnd, error) {
	var answer guestAnswer
	if err := a.jail.Ask(message{Guest: &request}, &answer); err != nil {
		return guestEnd{}, err
	}
	return answer.End, answer.Failure.err()
}

// keeper runs the guests of a build's jail, outside of it. They end with the build.
type keeper struct {
	builder Builder
	plan    Plan
	work    string // folder
	host    host.Host
	title   string // of the stage that the guest is of
	tell    func(title, status, format string, args ...any)
	accel   *vm.Accelerator // once it is chosen
	guest   *vm.Guest       // nil for none
	until   scope.Stack     // what is the guest's
}

func (b Builder) keeper(plan Plan, space *workspace, s *stages, h host.Host) *keeper {
	return &keeper{builder: b, plan: plan, work: space.work, host: h, tell: s.task}
}

func (k *keeper) task(status, format string, args ...any) { k.tell(k.title, status, format, args...) }

// answer does what is requested. It returns once the guest is started, or has ended.
func (k *keeper) answer(ctx context.Context, r guestRequest) guestAnswer {
	if r.Start == nil {
		end, err := k.end()
		return guestAnswer{end, newFailure(err)}
	}
	err := k.start(ctx, *r.Start)
	if err != nil {
		err = scope.Join(err, k.until.Close())
	}
	return guestAnswer{Failure: newFailure(err)}
}

// choose chooses what guests run on, once.
func (k *keeper) choose(ctx context.Context, c vm.Confinement) error {
	if k.accel != nil {
		return nil
	}
	accel := k.builder.Boot
	if accel == nil {
		chosen, err := vm.ChooseAccelerator(ctx, cmp.Or(k.builder.Accel, vm.AccelAuto))
		if err != nil {
			return err
		}
		accel = &chosen
	}
	confined := accel.Confined(c)
	k.accel = &confined
	return nil
}

func (k *keeper) start(ctx context.Context, o guestOrder) error {
	uid, gid := files.Caller().IDs()
	confinement, err := vm.Confine(ctx, uid, gid)
	if err == nil {
		err = k.choose(ctx, confinement)
	}
	if err == nil && o.Answers != nil {
		o.Cmdline, err = k.serve(ctx, confinement, o)
	}
	if err != nil {
		return err
	}
	k.title = cmp.Or(o.Title, layerTitle+k.plan.Definition.Name)
	setup, err := k.setup(o)
	if err != nil {
		return err
	}
	release, err := boottest.Admit(ctx, k.builder.Budget, setup, func() { k.task("started", "guest: waits for other guests to end") })
	if err != nil {
		return err
	}
	k.until.Push("give the guest's place back", func() error { release(); return nil })
	guest, err := confinement.Prepare(ctx, k.host, setup)
	if err != nil {
		return err
	}
	k.until.Push("end the guest", func() error { guest.Close(); return nil })
	k.guest = guest
	k.task("started", "guest: starts on %s", setup.Accel)
	return guest.Start(ctx)
}

// setup is the guest with the files that the jail has made.
func (k *keeper) setup(o guestOrder) (s vm.Setup, err error) {
	folder, err := os.OpenRoot(k.work) // no link of the jail's leads out of it
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	open := func(name string, flags int) *os.File {
		file, opening := folder.OpenFile(name, flags, 0)
		if opening != nil {
			err = errors.Join(err, opening)
			return nil
		}
		k.until.Push("close "+name, file.Close)
		return file
	}
	direct := &vm.Direct{
		Kernel: open(guestKernel, os.O_RDONLY), Initramfs: open(guestInitramfs, os.O_RDONLY), Disk: open(guestDisk, os.O_RDWR), Cmdline: o.Cmdline, Online: o.Online,
	}
	if err != nil {
		return s, err
	}
	if o.CD {
		if direct.CD = open(guestCD, os.O_RDONLY); err != nil {
			return s, err
		}
	}
	if err := folder.Remove(guestSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	at, err := os.Open(k.work)
	if err != nil {
		return s, err
	}
	defer at.Close()
	if direct.Agent, err = vm.Listen(at, guestSocket); err != nil {
		return s, fmt.Errorf("make the guest's socket: %w", err)
	}
	k.until.Push("close the guest's socket", direct.Agent.Close)
	test := k.plan.Definition.Test
	return vm.Setup{
		Firmware: arch.BIOS, Accel: k.accel.For(arch.BIOS), Memory: cmp.Or(o.Memory, int64(test.Memory)), CPUs: test.CPUs,
		Console: filepath.Join(k.work, guestConsole), Scratch: k.work, Direct: direct,
	}, nil
}

// endGrace is how long a QEMU whose guest is off may take to end, after it has closed the
// port.
const endGrace = time.Second

// end ends the guest, and says how it has ended where it has.
func (k *keeper) end() (end guestEnd, err error) {
	if k.guest == nil {
		return end, nil
	}
	if k.guest.Broken() {
		if next, again := k.accel.After(vm.ErrHypervisor); again {
			k.accel, end.Again = &next, true
		}
		end.Problem = vm.ErrHypervisor.Error()
	}
	select {
	case ended := <-k.guest.Ended():
		if ended != nil {
			end.Problem = fmt.Sprintf("QEMU ended: %v", k.guest.Complaint(ended))
		}
	case <-time.After(endGrace):
	}
	k.guest = nil
	return end, fail.Wrap(fail.Host, "end the guest", k.until.Close())
}
