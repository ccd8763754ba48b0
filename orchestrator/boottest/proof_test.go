package boottest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/vm"
)

// known is proofs that tell one result of every machine.
type known struct {
	result *Result
	kept   []string
}

func (k *known) Find(context.Context, vm.Machine) (*Result, Traces) {
	return k.result, Traces{[]byte("earlier"), Screens{LastScreen: []byte("a picture")}}
}

func (k *known) Keep(_ context.Context, _ vm.Machine, _ Result, left Traces) error {
	k.kept = append(k.kept, string(left.Console))
	return nil
}

func TestAnEarlierBootCountsWhereItWouldPass(t *testing.T) {
	for name, tc := range map[string]struct {
		result  *Result
		systemd int
		counts  bool
	}{
		"report":          {&Result{Passed: true, Seconds: 30, Report: &Report{}}, 257, true},
		"login prompt":    {&Result{Passed: true, Seconds: 30}, 252, true},
		"unknown guest":   {&Result{Passed: true, Seconds: 30}, 0, true},
		"no report":       {&Result{Passed: true, Seconds: 30}, 257, false},
		"longer than may": {&Result{Passed: true, Seconds: 61, Report: &Report{}}, 257, false},
		"failed":          {&Result{Seconds: 30, Report: &Report{}}, 257, false},
		"none":            {nil, 257, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			console := filepath.Join(dir, "boot.log")
			if err := os.Symlink(filepath.Join(dir, "elsewhere"), console); err != nil {
				t.Fatal(err)
			}
			o := Options{Timeout: time.Minute, Systemd: tc.systemd, Proofs: &known{result: tc.result}}
			_, counts, err := o.proved(t.Context(), vm.Setup{Console: console, Firmware: "bios"})
			if counts != tc.counts || err != nil {
				t.Errorf("it counts: %t, %v", counts, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "elsewhere")); err == nil {
				t.Error("the console went through a link")
			}
			if content, _ := os.ReadFile(console); counts && string(content) != "earlier" {
				t.Errorf("the console is %q", content)
			}
			if content, _ := os.ReadFile(filepath.Join(dir, "boot-bios-screen.png")); counts && string(content) != "a picture" {
				t.Errorf("the screen is %q", content)
			}
		})
	}
}

func TestWithoutProofsNothingIsKnown(t *testing.T) {
	if _, found, err := (Options{}).proved(t.Context(), vm.Setup{}); found || err != nil {
		t.Error(found, err)
	}
}
