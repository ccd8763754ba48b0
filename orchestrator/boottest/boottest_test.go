package boottest

import (
	"strings"
	"testing"
	"time"
)

const complete = reportBegin + "\nstate=running\nfailed=\nsystemd=257\nfirmware=uefi\nsecureboot=enabled\nfinished_us=12500000\n" + reportEnd + "\n"

func TestJudge(t *testing.T) {
	l := limits{total: time.Minute, silence: 20 * time.Second, grace: -1}
	for name, tc := range map[string]struct {
		o      observation
		grace  time.Duration
		done   bool
		how    string
		reason string
	}{
		"early":                  {o: observation{console: "GRUB loading"}},
		"report":                 {o: observation{firmware: "secureboot", report: complete}, done: true, how: "report"},
		"half a report":          {o: observation{report: strings.TrimSuffix(complete, reportEnd+"\n")}},
		"report over serial":     {o: observation{firmware: "uefi", report: "noise\r\n" + strings.ReplaceAll(complete, "\n", "\r\n")}, done: true, how: "report"},
		"failed unit":            {o: observation{firmware: "uefi", report: strings.Replace(complete, "failed=", "failed=a.service b.mount ", 1)}, done: true, reason: "failed units: a.service, b.mount"},
		"degraded":               {o: observation{firmware: "uefi", report: strings.Replace(complete, "running", "degraded", 1)}, done: true, reason: "degraded"},
		"wrong firmware":         {o: observation{firmware: "bios", report: complete}, done: true, reason: "not by BIOS"},
		"Secure Boot off":        {o: observation{firmware: "secureboot", report: strings.Replace(complete, "enabled", "disabled", 1)}, done: true, reason: "Secure Boot is disabled"},
		"panic":                  {o: observation{console: "[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n"}, done: true, reason: "kernel panic: VFS: Unable to mount root fs"},
		"missing root":           {o: observation{console: "ALERT!  UUID=12-34 does not exist.  Dropping to a shell!\n(initramfs) "}, done: true, reason: "missing root: the initramfs does not find UUID=12-34"},
		"initramfs shell":        {o: observation{console: "\n(initramfs) "}, done: true, reason: "initramfs' shell"},
		"emergency":              {o: observation{console: "You are in emergency mode. After logging in"}, done: true, reason: "emergency shell"},
		"grub rescue":            {o: observation{console: "error: no such device\ngrub rescue> "}, done: true, reason: "grub rescue"},
		"grub prompt":            {o: observation{console: "\ngrub> "}, done: true, reason: "no grub.cfg"},
		"no boot device":         {o: observation{console: "Boot failed: not a bootable disk"}, done: true, reason: "nothing to boot"},
		"no boot device, BIOS":   {o: observation{seabios: "Boot failed: not a bootable disk\n"}, done: true, reason: "nothing to boot"},
		"unsigned loader":        {o: observation{console: `BdsDxe: failed to load Boot0001: Access Denied`}, done: true, reason: "Secure Boot refuses the boot loader"},
		"unsigned kernel":        {o: observation{console: "error: bad shim signature.\n"}, done: true, reason: "Secure Boot refuses what GRUB loads: bad shim signature."},
		"reboot loop":            {o: observation{resets: 3, console: "Loading"}, done: true, reason: "reboot loop"},
		"one reset":              {o: observation{resets: 1, console: "Loading"}},
		"endless output":         {o: observation{flood: TooMuch(mostOutput + 1), console: "xxx"}, done: true, reason: "more than 64 MiB"},
		"KVM gives up":           {o: observation{broken: true, console: "Loading"}, done: true, reason: "KVM cannot run"},
		"switched off":           {o: observation{gone: true}, done: true, reason: "switched itself off"},
		"silence from the start": {o: observation{silent: 21 * time.Second}, done: true, reason: "silence: nothing on the serial console"},
		"silence later":          {o: observation{silent: 21 * time.Second, console: "Loading"}, done: true, reason: "silence: the console stopped"},
		"slow unit":              {o: observation{silent: 30 * time.Second, console: "x", booted: true}},
		"time is up":             {o: observation{elapsed: 61 * time.Second, booted: true, console: "x"}, done: true, reason: "not up within 1m0s"},
		"time is up at login":    {o: observation{elapsed: 61 * time.Second, login: time.Second, booted: true, console: "x"}, done: true, reason: "some unit is still starting"},
		"login is not enough":    {o: observation{login: 30 * time.Second, booted: true}},
		"login, old systemd":     {o: observation{login: 1}, grace: 0, done: true, how: "login prompt"},
		"login, unknown guest":   {o: observation{login: 30 * time.Second, booted: true}, grace: time.Minute},
		"login, long ago":        {o: observation{login: 61 * time.Second, booted: true}, grace: time.Minute, done: true, how: "login prompt"},
	} {
		t.Run(name, func(t *testing.T) {
			l := l
			if strings.HasPrefix(name, "login, ") {
				l.grace, l.total = tc.grace, time.Hour
			}
			v := judge(tc.o, l)
			reason := ""
			if v.err != nil {
				reason = v.err.Error()
			}
			if v.done != tc.done || (tc.how != "" && v.how != tc.how) || (tc.reason == "") != (reason == "") || !strings.Contains(reason, tc.reason) {
				t.Errorf("done %v, how %q, reason %q", v.done, v.how, reason)
			}
		})
	}
}

func TestPlainFindsPromptsBehindEscapes(t *testing.T) {
	console := plain([]byte("\x1b[0m\x1b[2J\r\nDebian GNU/Linux 13 web ttyS0\r\n\r\n\x1b[1mweb login:\x1b[0m "))
	if !loginPrompt.MatchString(console) {
		t.Errorf("no login prompt in %q", console)
	}
	if loginPrompt.MatchString("last login: yesterday\n") {
		t.Error("takes a message for a prompt")
	}
}

func TestReportUnitsSurviveSystemdsQuoting(t *testing.T) {
	units := reportUnits()
	if len(units) != 2 || !units[1].DropIn {
		t.Fatalf("%+v", units)
	}
	line := ""
	for l := range strings.Lines(units[0].Content) {
		if strings.HasPrefix(l, "ExecStart=") {
			line = strings.TrimSpace(strings.TrimPrefix(l, "ExecStart=/bin/sh -c "))
		}
	}
	// What systemd.service(5) and systemd.syntax(7) do to a quoted argument.
	inner := strings.TrimSuffix(strings.TrimPrefix(line, `"`), `"`)
	got := strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n", "%%", "%", "$$", "$").Replace(inner)
	if got != reportScript {
		t.Errorf("systemd would run\n%s", got)
	}
}

func FuzzJudge(f *testing.F) {
	f.Add("console", complete)
	f.Fuzz(func(t *testing.T, console, report string) {
		v := judge(observation{firmware: "bios", console: plain([]byte(console)), report: report}, limits{total: time.Minute, silence: time.Minute, grace: -1})
		if v.how == "report" && v.report == nil {
			t.Error("a report without a report")
		}
	})
}
