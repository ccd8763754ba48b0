package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/budget"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

type testOptions struct {
	target   string
	folder   string
	cd       bool
	firmware []string
	accel    string
	memory   string
	cpus     int
	timeout  time.Duration
	logs     string
}

func newTest() *cobra.Command {
	var o testOptions
	cmd := &cobra.Command{
		Use:   "test IMAGE|NAME",
		Short: "Boot a disk image and say whether it comes up",
		Long: `Boot a disk image, of any origin, on each firmware, and say whether it comes up.
A live system (format iso) starts from a CD with --cd, or where the build has no image of its
disk; an ISO file of no build is a USB stick without it. The image is not changed. One
that depends on other files is refused. QEMU is confined; it does not run as root. A
guest whose systemd is 256 or newer reports on itself; for an older one the login prompt
on the serial console counts.

` + exitCodes,
		Example: `  vmctl test debian
  vmctl test images/debian/debian-13-amd64.qcow2 --firmware bios,uefi --json
  vmctl test disk.vmdk --accel tcg --memory 2G --timeout 20m --logs consoles`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.target = args[0]
			return runTest(cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder with the builds, where a NAME is given")
	flags.BoolVar(&o.cd, "cd", false, "boot a CD: that of the build, or an image of one")
	flags.StringSliceVar(&o.firmware, "firmware", nil, "firmware to boot on: "+strings.Join(choices["firmware"], ", ")+" (default: what the build asks for, else all)")
	flags.StringVar(&o.accel, "accel", "auto", "accelerator: auto, kvm or tcg")
	flags.StringVar(&o.memory, "memory", "1G", "memory of the guest")
	flags.IntVar(&o.cpus, "cpus", 2, "processors of the guest under KVM; emulation has one")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long the guest may take")
	flags.StringVar(&o.logs, "logs", "", "folder that gets the consoles as boot-FIRMWARE.log or boot-cd-FIRMWARE.log, and what the screens showed (default: a temporary one)")
	return cmd
}

func runTest(cmd *cobra.Command, o testOptions) error {
	memory, err := definition.ParseSize(o.memory)
	if err != nil {
		return err
	}
	path, build, err := findMedium(o.target, o.folder, o.cd)
	if err != nil {
		return err
	}
	o.cd = o.cd || format.Named(build.Format(filepath.Base(path))).CD
	if len(o.firmware) == 0 {
		o.firmware = choices["firmware"]
		if build.Name != "" {
			o.firmware = build.Definition.Firmware
		}
	}
	needs := orchestrator.Needs{Test: true, Firmware: o.firmware, Memory: memory}
	if err := orchestrator.Refusal(orchestrator.Preflight(needs)); err != nil {
		return err
	}
	accel, err := vm.ChooseAccelerator(cmd.Context(), o.accel)
	if err != nil {
		return err
	}
	shared, closeBudget, err := budgetOfTest()
	if err != nil {
		return err
	}
	defer closeBudget()
	closeLogs, err := openLogs(&o)
	if err != nil {
		return err
	}
	results, err := bootImage(cmd.Context(), cmd.ErrOrStderr(), o, accel, path, int64(memory), build, shared)
	err = closeLogs(err)
	if asJSON(cmd, results) {
		return err
	}
	for _, r := range results {
		verdict := "passed"
		if !r.Passed {
			verdict = "failed"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", r.Name(), verdict)
	}
	return err
}

// budgetOfTest is what the guests of a test share with those of builds, where this user has
// a store; else with one another alone.
func budgetOfTest() (shared *budget.Budget, done func(), err error) {
	cache := cacheOptions{folder: defaultCache()}
	if _, err := os.Stat(cache.folder); err == nil {
		if shared, err := cache.budget(); err == nil {
			return shared, func() {}, nil
		}
	}
	folder, err := os.MkdirTemp(host.Temp(), "vmctl-budget-")
	return budget.In(folder), func() { os.RemoveAll(folder) }, err
}

// openLogs makes the folder for the consoles. One that nobody named stays only
// where a console tells why the boot failed.
func openLogs(o *testOptions) (closeLogs func(error) error, err error) {
	temporary := o.logs == ""
	if temporary {
		o.logs, err = os.MkdirTemp(host.Temp(), "vmctl-test-")
	} else {
		err = files.Prepare(o.logs, files.Caller())
	}
	return func(err error) error {
		if fail.ExitCode(err) == fail.Boot.ExitCode() {
			return &fail.Error{Kind: fail.Boot, Err: err, Hint: "the consoles are in " + o.logs}
		}
		if temporary {
			err = joined([]error{err, os.RemoveAll(o.logs)})
		}
		return err
	}, err
}

func bootImage(ctx context.Context, stderr io.Writer, o testOptions, accel vm.Accelerator, path string, memory int64, build orchestrator.Built, shared *budget.Budget) ([]boottest.Result, error) {
	show := newProgress(stderr, false)
	defer show.close()
	tell := func(kind, status, text string) {
		show.event("", orchestrator.Event{Kind: kind, Stage: "Boot test", Status: status, Text: text})
	}
	is := build.Format(filepath.Base(path))
	if format.Named(is).CD {
		is = diskformat.Raw
	}
	return orchestrator.BootTest(ctx, &host.Local{}, path, is, boottest.Options{
		CD: o.cd, Firmware: o.firmware, Accel: accel, Memory: memory, CPUs: o.cpus,
		Timeout: o.timeout, Systemd: build.Systemd(), Logs: o.logs, Budget: shared,
		Task: func(status, text string) { tell(orchestrator.TaskSeen, status, text) },
	})
}

// findMedium is what findImage finds, or a CD of a build: the file that is named, or the first
// one, where that is wanted or the build has no image of its disk.
func findMedium(target, output string, cd bool) (path string, build orchestrator.Built, err error) {
	if info, err := os.Stat(target); err == nil && info.Mode().IsRegular() {
		build, err := orchestrator.ReadBuilt(filepath.Dir(target))
		if err == nil && format.Named(build.Format(filepath.Base(target))).CD {
			return target, build, nil
		}
		return findImage(target, output)
	}
	folder, build, err := findBuild(target, output)
	if err != nil {
		return "", build, err
	}
	_, disk := build.Bootable()
	if i := slices.IndexFunc(build.Outputs, isCD); i >= 0 && (cd || !disk) {
		return filepath.Join(folder, build.Outputs[i].Name), build, nil
	}
	return findImage(target, output)
}

func isCD(file image.File) bool { return format.Named(file.Format).CD }

// findImage is the image of a disk that the target names: a path of it or of a build's folder,
// or a build in the output folder. What is known of the build comes with it.
func findImage(target, output string) (path string, build orchestrator.Built, err error) {
	if info, err := os.Stat(target); err == nil && info.Mode().IsRegular() {
		build, _ := orchestrator.ReadBuilt(filepath.Dir(target))
		said := build.Format(filepath.Base(target))
		if known := format.Named(said); said == "" || known.Name != "" && !known.Disk {
			build = orchestrator.Built{}
		}
		return target, build, nil
	}
	folder, build, err := findBuild(target, output)
	if err != nil {
		return "", build, err
	}
	bootable, ok := build.Bootable()
	if !ok {
		hint := "build it with --format " + diskformat.Default + " too"
		if i := slices.IndexFunc(build.Outputs, isCD); i >= 0 {
			hint += ", or name its CD, " + filepath.Join(folder, build.Outputs[i].Name)
		}
		return "", build, fail.New(fail.Usage, "", hint, "%s was built without an image of its disk", target)
	}
	return filepath.Join(folder, bootable.Name), build, nil
}

// findBuild is the build that the target names: the path of its folder, or its name in the
// output folder.
func findBuild(target, output string) (folder string, build orchestrator.Built, err error) {
	if folder = target; !isBuild(target) {
		if strings.ContainsRune(target, '/') {
			if err := absent(target); err != nil {
				return "", build, err
			}
		}
		if folder, err = orchestrator.ResultsFolder(output, target); err != nil {
			return "", build, &fail.Error{Kind: fail.Usage, Err: err, Hint: "name an image file, a build, or the folder that one has left"}
		}
	}
	if build, err = orchestrator.ReadBuilt(folder); err != nil {
		return "", build, fail.New(fail.Usage, "", "name an image file, or run 'vmctl build "+target+"' first", "%s is neither an image nor a build in %s", target, output)
	}
	return folder, build, nil
}

// isBuild says whether a path is that of a folder that a build has left. A name alone is
// that of a build.
func isBuild(path string) bool {
	_, err := os.Stat(filepath.Join(path, orchestrator.ManifestName))
	return err == nil && strings.ContainsRune(path, '/')
}
