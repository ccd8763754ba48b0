package vm

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

func TestAnUnknownAcceleratorIsWrongUsage(t *testing.T) {
	if _, err := ChooseAccelerator(t.Context(), "hyperv"); fail.ExitCode(err) != 2 || !strings.Contains(fail.Hint(err), "auto, kvm, tcg") {
		t.Errorf("%v", err)
	}
}

func TestTheAcceleratorOfEachFirmware(t *testing.T) {
	for name, tc := range map[string]struct {
		accel            Accelerator
		bios, secureboot string
	}{
		"none":                      {Accelerator{}, AccelTCG, AccelTCG},
		"KVM":                       {Accelerator{kvm: true, smm: true, fallback: true}, AccelKVM, AccelKVM},
		"KVM without SMM":           {Accelerator{kvm: true, fallback: true}, AccelKVM, AccelTCG},
		"KVM without SMM, as asked": {Accelerator{kvm: true}, AccelKVM, AccelKVM},
	} {
		if bios, secure := tc.accel.For("bios"), tc.accel.For("secureboot"); bios != tc.bios || secure != tc.secureboot {
			t.Errorf("%s: bios on %s, secureboot on %s", name, bios, secure)
		}
	}
}

func TestWhatKVMCannotRunIsEmulatedOnce(t *testing.T) {
	failure := &fail.Error{Kind: fail.Boot, Err: fmt.Errorf("boot: %w", ErrHypervisor)}
	auto := Accelerator{kvm: true, smm: true, fallback: true}
	next, again := auto.After(failure)
	if !again || next.For("bios") != AccelTCG {
		t.Errorf("next is %s, %v", next, again)
	}
	if _, again := next.After(failure); again {
		t.Error("emulation is tried twice")
	}
	if _, again := auto.After(errors.New("kernel panic")); again {
		t.Error("an image that fails is tried twice")
	}
	if _, again := (Accelerator{kvm: true}).After(failure); again {
		t.Error("what the user asked for is overridden")
	}
}

func TestKVMThatTakesRootIsUsedOnlyWhereAskedFor(t *testing.T) {
	user := &syscall.Credential{Uid: nobody, Gid: nobody}
	for name, tc := range map[string]struct {
		accel Accelerator
		c     Confinement
		want  string
	}{
		"auto, root alone may":  {Accelerator{kvm: true, fallback: true}, Confinement{user: user}, AccelTCG},
		"asked for":             {Accelerator{kvm: true}, Confinement{user: user}, AccelKVM},
		"auto, the group may":   {Accelerator{kvm: true, fallback: true}, Confinement{user: user, kvm: user}, AccelKVM},
		"auto, an ordinary one": {Accelerator{kvm: true, fallback: true}, Confinement{}, AccelKVM},
	} {
		if got := tc.accel.Confined(tc.c).For("bios"); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestComplaintsAreKeptInBounds(t *testing.T) {
	told := 0
	c := &complaints{onInternalError: func() { told++ }}
	fmt.Fprint(c, "KVM internal err")
	fmt.Fprint(c, "or. Suberror: 1\n", strings.Repeat("RAX=0\n", mostComplaints))
	fmt.Fprint(c, "more\n")
	if told != 1 || !c.broken() || c.String() != "KVM internal error. Suberror: 1" || c.text.Len() > mostComplaints {
		t.Errorf("told %d times, %q, %d bytes", told, c, c.text.Len())
	}
}
