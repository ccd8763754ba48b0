package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/spec"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

type testOptions struct {
	target   string
	folder   string
	firmware []string
	accel    string
	memory   string
	cpus     int
	timeout  time.Duration
	logs     string
	json     bool
}

func newTest(defs *definitions) *cobra.Command {
	var o testOptions
	cmd := &cobra.Command{
		Use:   "test IMAGE|NAME",
		Short: "Boot a disk image and say whether it comes up",
		Long: `Boot a disk image, of any origin, on each firmware, and say whether it comes up.
The image is not changed. A guest whose systemd is 256 or newer reports on
itself; for an older one the login prompt on the serial console counts.

` + exitCodes,
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: defs.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.target = args[0]
			return runTest(cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", "images", "folder with the builds, where a NAME is given")
	flags.StringSliceVar(&o.firmware, "firmware", nil, "firmware to boot on: bios, uefi, secureboot (default: what the build asks for, else all)")
	flags.StringVar(&o.accel, "accel", "auto", "accelerator: auto, kvm or tcg")
	flags.StringVar(&o.memory, "memory", "1G", "memory of the guest")
	flags.IntVar(&o.cpus, "cpus", 2, "processors of the guest under KVM; emulation has one")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long the guest may take")
	flags.StringVar(&o.logs, "logs", "", "folder that gets the consoles as boot-FIRMWARE.log (default: a temporary one)")
	flags.BoolVar(&o.json, "json", false, "print the results as JSON")
	return cmd
}

func runTest(cmd *cobra.Command, o testOptions) error {
	memory, err := spec.ParseSize(o.memory)
	if err != nil || memory < 64*spec.MiB || o.cpus < 1 || o.timeout <= 0 {
		return fail.New(fail.Usage, "", "give --memory 64M or more, --cpus 1 or more, and a positive --timeout", "this is no machine to boot on")
	}
	image, build, err := findImage(o)
	if err != nil {
		return err
	}
	all := []string{spec.FirmwareBIOS, spec.FirmwareUEFI, spec.FirmwareSecureBoot}
	if len(o.firmware) == 0 {
		o.firmware = all
		if build.Name != "" {
			o.firmware = build.Definition.Firmware
		}
	}
	for _, firmware := range o.firmware {
		if !slices.Contains(all, firmware) {
			return fail.New(fail.Usage, "--firmware", "known: bios, uefi, secureboot", "unknown firmware %q", firmware)
		}
	}
	if err := orchestrator.Refusal(orchestrator.Preflight(orchestrator.Needs{Test: true, Firmware: o.firmware})); err != nil {
		return err
	}
	accel, err := vm.ChooseAccelerator(cmd.Context(), o.accel)
	if err != nil {
		return err
	}
	if o.logs == "" {
		if o.logs, err = os.MkdirTemp("", "vmctl-test-"); err != nil {
			return err
		}
		defer fmt.Fprintln(cmd.ErrOrStderr(), "consoles:", o.logs)
	} else if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return err
	}
	results, err := bootImage(cmd.Context(), cmd.ErrOrStderr(), o, accel, image, int64(memory), build.Systemd())
	if o.json {
		return errors.Join(err, printJSON(cmd.OutOrStdout(), results))
	}
	for _, r := range results {
		if r.Firmware == "" {
			continue
		}
		verdict := "passed"
		if !r.Passed {
			verdict = "failed"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", r.Firmware, verdict)
	}
	return err
}

func bootImage(ctx context.Context, stderr io.Writer, o testOptions, accel vm.Accelerator, path string, memory int64, systemd int) ([]vm.Result, error) {
	h := &host.Local{}
	info, err := orchestrator.InspectImage(ctx, h, path)
	if err != nil {
		return nil, err
	}
	show := newProgress(stderr, false)
	defer show.close()
	tell := func(kind, status, text string) {
		show.event("", orchestrator.Event{Kind: kind, Stage: "Boot test", Status: status, Text: text})
	}
	return orchestrator.BootTest(ctx, h, orchestrator.BootOptions{
		Image: path, Format: info.Format, Firmware: o.firmware, Accel: accel, Memory: memory, CPUs: o.cpus,
		Timeout: o.timeout, Systemd: systemd, Logs: o.logs,
		Task: func(status, text string) { tell(orchestrator.TaskSeen, status, text) },
	})
}

// findImage is the image file that the target names: a path, or a build in the
// output folder. What is known of the build comes with it.
func findImage(o testOptions) (path string, build orchestrator.Built, err error) {
	if info, err := os.Stat(o.target); err == nil && info.Mode().IsRegular() {
		build, _ := orchestrator.ReadBuilt(filepath.Dir(o.target))
		if !build.Has(filepath.Base(o.target)) {
			build = orchestrator.Built{}
		}
		return o.target, build, nil
	}
	folder := filepath.Join(o.folder, o.target)
	build, err = orchestrator.ReadBuilt(folder)
	if err != nil || len(build.Outputs) == 0 {
		return "", build, fail.New(fail.Usage, "", "name an image file, or run 'vmctl build "+o.target+"' first", "%s is neither an image nor a build in %s", o.target, o.folder)
	}
	return filepath.Join(folder, build.Outputs[0].Name), build, nil
}
