package boottest

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// symptom is a text on the console that tells how a boot failed.
type symptom struct {
	pattern *regexp.Regexp
	what    string // may use the pattern's first group as %s
}

// symptoms are in the order of their weight: a panic in the initramfs is a
// panic.
var symptoms = []symptom{
	{regexp.MustCompile(`Kernel panic - not syncing: ([^\n]*)`), "kernel panic: %s"},
	{regexp.MustCompile(`ALERT!  (\S+) does not exist`), "missing root: the initramfs does not find %s"},
	{regexp.MustCompile(`(?m)^\(initramfs\) `), "the boot stopped in the initramfs' shell"},
	{regexp.MustCompile(`(?:You are in|Entering) (emergency|rescue) mode`), "%s shell: the boot stopped in it"},
	{regexp.MustCompile(`(?m)^\s*grub rescue>`), "GRUB does not find its files (grub rescue)"},
	{regexp.MustCompile(`(?m)^\s*grub> *$`), "GRUB stopped at its prompt: there is no grub.cfg"},
	{regexp.MustCompile(`error: ([^\n]*(?:bad shim signature|shim_lock|verification failed)[^\n]*)`), "Secure Boot refuses what GRUB loads: %s"},
	{regexp.MustCompile(`(?:Access Denied|Security Violation|Verification failed: \(0x1A\))`), "Secure Boot refuses the boot loader"},
	{regexp.MustCompile(`(?:No bootable device|Boot failed: not a bootable disk|No bootable option or device was found|UEFI Interactive Shell)`), "the firmware finds nothing to boot"},
}

var (
	escapes     = regexp.MustCompile(`\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|[=>c78])|[\r\x00]`)
	loginPrompt = regexp.MustCompile(`(?m)^\S+ login: *$`)
	loading     = regexp.MustCompile("executed automatically|Booting `|Loading Linux") // GRUB's menu is drawn, or there is none
	kernel      = regexp.MustCompile(`(?m)^\[ +\d+\.\d+\] `)
	userspace   = regexp.MustCompile(`(?:Welcome to .*!|systemd\[1\]: |Reached target |Started .*\.)`)
)

// symptomIn is what the text tells of how a boot failed, or nil.
func symptomIn(text string) error {
	for _, s := range symptoms {
		if match := s.pattern.FindStringSubmatch(text); match != nil {
			if strings.Contains(s.what, "%s") {
				return fmt.Errorf(s.what, strings.TrimSpace(match[1]))
			}
			return errors.New(s.what)
		}
	}
	return nil
}

// rootsPrompt is that of a console on which root is logged in.
var rootsPrompt = regexp.MustCompile(`(?m)^\S*root@\S+# *$`)

// Signs is what the end of a console tells of a boot: whether somebody can log in there,
// or is logged in as root, and how it failed.
func Signs(console []byte) (prompt bool, problem error) {
	text := plain(console)
	return loginPrompt.MatchString(text) || rootsPrompt.MatchString(text), symptomIn(text)
}

// LongestSilence is how long a guest may say nothing before its userspace begins, whatever it
// runs on.
const LongestSilence = silenceTCG

// Begun says whether the userspace of a guest has begun, as its console tells.
func Begun(console []byte) bool { return userspace.MatchString(plain(console)) }

// Plain is the text of a console without terminal escapes.
func Plain(console []byte) string { return plain(console) }

// LastLines is the last n lines of a console, without terminal escapes.
func LastLines(console []byte, n int) string { return lastLines(console, n) }

// plain is the console's text without terminal escapes.
func plain(console []byte) string { return escapes.ReplaceAllString(string(console), "") }

// observation is all that is known of a guest at one moment.
type observation struct {
	firmware string
	console  string // plain; the end of it
	booted   bool   // userspace has been seen
	seabios  string // what the BIOS says of itself
	report   string // text of the second serial port
	resets   int    // by the guest, since it started
	gone     bool   // QEMU has ended
	exit     error  // how
	broken   bool   // KVM has had an internal error
	flood    error  // a port has had too much
	silent   time.Duration
	elapsed  time.Duration
	login    time.Duration // since the login prompt was seen; 0 before
}

// limits is how long a guest may take for what.
type limits struct {
	total   time.Duration
	silence time.Duration // without a byte on the console, before userspace
	// grace is how long after the login prompt a report may come. It is 0
	// where none can come, and negative where one must.
	grace time.Duration
}

const allowedResets = 2 // shim's fallback resets once, firmware may too

// verdict is what a guest has come to.
type verdict struct {
	done   bool
	how    string // what proved the boot
	after  time.Duration
	report *Report
	err    error
}

func failed(format string, args ...any) verdict {
	return verdict{done: true, err: fmt.Errorf(format, args...)}
}

// judge decides from an observation alone, so that every case is tested
// without a guest.
func judge(o observation, l limits) verdict {
	if report, complete := parseReport(o.report); complete {
		return verdict{done: true, how: "report", report: &report, err: judgeReport(report, o.firmware)}
	}
	if err := symptomIn(o.seabios + o.console); err != nil {
		return verdict{done: true, err: err}
	}
	switch {
	case o.broken:
		return verdict{done: true, err: vm.ErrHypervisor}
	case o.flood != nil:
		return verdict{done: true, err: o.flood}
	case o.resets > allowedResets:
		return failed("reboot loop: the guest has reset %d times", o.resets)
	case o.gone && o.exit != nil:
		return failed("QEMU ended: %w", o.exit)
	case o.gone:
		return failed("the guest switched itself off before it was up")
	case o.login > 0 && l.grace >= 0 && o.login >= l.grace:
		return verdict{done: true, how: "login prompt"}
	case o.elapsed >= l.total && o.console == "":
		return failed("silence: nothing on the serial console for %s (a kernel without console=ttyS0 boots unseen)", l.total)
	case o.elapsed >= l.total && o.login > 0:
		return failed("the guest shows a login prompt but its boot did not end within %s: some unit is still starting", l.total)
	case o.elapsed >= l.total:
		return failed("the guest was not up within %s", l.total)
	case o.silent >= l.silence && o.console == "":
		return failed("silence: nothing on the serial console for %s (a kernel without console=ttyS0 boots unseen)", l.silence)
	case o.silent >= l.silence && !o.booted:
		return failed("silence: the console stopped for %s", l.silence)
	}
	return verdict{}
}

func judgeReport(r Report, firmware string) error {
	switch {
	case len(r.Failed) > 0:
		return fmt.Errorf("failed units: %s", strings.Join(r.Failed, ", "))
	case r.State != "running":
		return fmt.Errorf("systemd says that the system is %s", r.State)
	case firmware == arch.BIOS && r.Firmware != "bios":
		return fmt.Errorf("the guest booted by %s, not by BIOS", r.Firmware)
	case firmware != arch.BIOS && r.Firmware != "uefi":
		return fmt.Errorf("the guest booted by %s, not by UEFI", r.Firmware)
	case firmware == arch.SecureBoot && r.SecureBoot != "enabled":
		return fmt.Errorf("in the guest, Secure Boot is %s", r.SecureBoot)
	}
	return nil
}
