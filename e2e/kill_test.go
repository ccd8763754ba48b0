//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// rootTarball is a small Debian with a kernel, made once.
var rootTarball = sync.OnceValues(func() (string, error) {
	path := filepath.Join(shared, "root.tar")
	out, err := exec.Command("mmdebstrap", "--variant=minbase", "--mode=root",
		"--include=linux-image-cloud-amd64,systemd-sysv,udev,zstd,python3,python3-apt,e2fsprogs,grub-pc", "trixie", path).CombinedOutput()
	if err != nil {
		_, _ = os.Stderr.Write(out)
	}
	return path, err
})

// smallBuild is a folder with a build that is quick to get through.
func smallBuild(t *testing.T) string {
	t.Helper()
	tarball, err := rootTarball()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "install.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tarball, filepath.Join(folder, "install.d/root.tar")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "install.d/small.yml"), "source: {tarball: {path: root.tar}}\ndisk: {layout: bios, size: 1G}\n")
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands:\n  - run: sleep 2\n  - run: touch /done\n")
	return folder
}

// building is a build that runs.
type building struct {
	t      *testing.T
	folder string
	cmd    *exec.Cmd
	lines  chan string
	stderr *bytes.Buffer
}

func start(t *testing.T, folder string, args ...string) *building {
	t.Helper()
	b := &building{t: t, folder: folder, cmd: command(folder, append([]string{"build", "small", "--cache", filepath.Join(folder, "cache")}, args...)...), lines: make(chan string, 1000), stderr: &bytes.Buffer{}}
	pipe, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.cmd.Process.Kill() }) // where a test ends before its build
	go func() {
		scanner := bufio.NewScanner(pipe)
		for scanner.Scan() {
			b.lines <- scanner.Text()
		}
		close(b.lines)
	}()
	return b
}

// after waits until the stage is done.
func (b *building) after(stage string) {
	b.t.Helper()
	timeout := time.After(8 * time.Minute)
	for {
		select {
		case line, ok := <-b.lines:
			b.stderr.WriteString(line + "\n")
			if (strings.HasPrefix(line, "done") || strings.HasPrefix(line, "cached")) && strings.HasSuffix(line, stage) {
				return
			}
			if !ok {
				b.t.Fatalf("the build ended before the end of %s\n%s", stage, b.stderr)
			}
		case <-timeout:
			b.t.Fatalf("%s did not end\n%s", stage, b.stderr)
		}
	}
}

// code waits for the end and returns the exit code, -1 for a signal.
func (b *building) code() int {
	for line := range b.lines {
		b.stderr.WriteString(line + "\n")
	}
	_ = b.cmd.Wait()
	return b.cmd.ProcessState.ExitCode()
}

// traces is what of a build is alive on this machine: processes, loop devices
// and mounts that have to do with the folder. In the jail the folder has another
// name; what is mounted there tells.
func traces(folder string) (processes, loops, mounts []string) {
	links, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range links {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		root, _ := os.Readlink(filepath.Join(dir, "root"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		mounted, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if strings.Contains(text, folder) || strings.Contains(string(mounted), folder) || strings.HasPrefix(root, folder) || strings.HasPrefix(cwd, folder) {
			processes = append(processes, filepath.Base(dir)+" "+text)
		}
	}
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range backing {
		if content, _ := os.ReadFile(path); strings.Contains(string(content), folder) || strings.HasSuffix(strings.TrimSpace(string(content)), "/disk.raw") {
			times, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "../diskseq")) // how often one was attached
			loops = append(loops, strings.Split(path, "/")[3]+" "+strings.TrimSpace(string(times)))
		}
	}
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, folder) {
			mounts = append(mounts, line)
		}
	}
	return processes, loops, mounts
}

// nothingLeft gives the kernel a moment to take everything down. Of a loop device nobody
// knows to which build it belongs; one that was there all the time is left.
func nothingLeft(t *testing.T, folder string) {
	t.Helper()
	processes, loops, mounts := traces(folder)
	for range 50 {
		if len(processes)+len(loops)+len(mounts) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
		var now []string
		processes, now, mounts = traces(folder)
		loops = slices.DeleteFunc(loops, func(loop string) bool { return !slices.Contains(now, loop) })
	}
	t.Errorf("left: processes %q, loop devices %v, mounts %q", processes, loops, mounts)
}

// pids is the processes whose command line holds every word.
func pids(words ...string) []int {
	var found []int
	links, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range links {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(cmdline), word) }) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			found = append(found, pid)
		}
	}
	return found
}

// stagesToKill is in the order of the build: what comes before a stage is in the store
// when it is killed.
var stagesToKill = []struct {
	name, after string
	wait        time.Duration
}{
	{"Source", "Inputs", 500 * time.Millisecond},
	{"Layer", "Source", 1500 * time.Millisecond},
	{"Boot loader", "Layer small", time.Second},
	{"Seal", "Boot loader", 100 * time.Millisecond},
	{"Disk", "Seal", 300 * time.Millisecond},
	{"Check", "Disk", 100 * time.Millisecond},
	{"Convert", "Check", 100 * time.Millisecond},
	{"Boot test", "Convert", 2 * time.Second},
}

func TestAKilledBuildLeavesNothing(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	for _, stage := range stagesToKill {
		t.Run(stage.name, func(t *testing.T) {
			b := start(t, folder)
			b.after(stage.after)
			time.Sleep(stage.wait)
			if processes, _, _ := traces(folder); len(processes) == 0 {
				t.Fatal("nothing is running that could be left")
			}
			if err := b.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			b.code()
			nothingLeft(t, folder)
		})
	}
	t.Run("next", func(t *testing.T) {
		good(t, folder, "build", "small", "--no-test", "--cache", filepath.Join(folder, "cache"))
		if left, _ := filepath.Glob(filepath.Join(folder, "images/.small.work")); len(left) > 0 {
			t.Errorf("the next build left %v", left)
		}
		good(t, folder, "cache", "verify", "--cache", filepath.Join(folder, "cache"))
		good(t, folder, "cache", "gc", "--cache", filepath.Join(folder, "cache"))
		if left, _ := filepath.Glob(filepath.Join(folder, "cache/work/*")); len(left) > 0 {
			t.Errorf("the store holds %v", left)
		}
		nothingLeft(t, folder)
	})
}

// TestAKilledInitramfsLeavesNothing has a source that is bootstrapped: those alone have that stage.
func TestAKilledInitramfsLeavesNothing(t *testing.T) {
	debian(t)
	folder := t.TempDir()
	write(t, filepath.Join(folder, "install.d/small.yml"), "extends: debian\n")
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands: [{run: echo loop >>/etc/initramfs-tools/modules}]\n")
	b := start(t, folder, "--cache", os.Getenv("VMCTL_CACHE"))
	b.after("Layer small")
	time.Sleep(3 * time.Second)
	if len(pids("mkinitramfs")) == 0 {
		t.Fatal("no initramfs is being made")
	}
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.code()
	nothingLeft(t, folder)
	for i := 0; len(pids("mkinitramfs")) > 0; i++ { // which names no folder of the build
		if i == 50 {
			t.Fatalf("left: %v", pids("mkinitramfs"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	if r := good(t, folder, "build", "small", "--no-test", "--format", "raw"); r.stages()["Layer small"] != "cached" || r.stages()["Initramfs"] != "done" {
		t.Error(r.stderr)
	}
	good(t, folder, "cache", "verify")
}

// TestAKilledHelperFailsTheBuild kills processes that the build depends on.
func TestAKilledHelperFailsTheBuild(t *testing.T) {
	folder := smallBuild(t)
	for _, tc := range []struct {
		name, after string
		wait        time.Duration
		words       []string
		code        int
	}{
		{"jail", "Inputs", 500 * time.Millisecond, []string{"build-in-jail"}, 4},
		{"ansible", "Source", 1500 * time.Millisecond, []string{"ansible-playbook"}, 4},
		{"qemu", "Convert", 2 * time.Second, []string{"qemu-system-x86_64", "chardev=monitor"}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, folder)
			b.after(tc.after)
			time.Sleep(tc.wait)
			victims := slices.DeleteFunc(pids(tc.words...), func(pid int) bool { return !descends(pid, b.cmd.Process.Pid) })
			if len(victims) == 0 {
				t.Fatalf("no process has %q on its command line", tc.words)
			}
			for _, pid := range victims {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			if code := b.code(); code != tc.code {
				t.Errorf("exit code %d, want %d\n%s", code, tc.code, b.stderr)
			}
			nothingLeft(t, folder)
			if left, _ := filepath.Glob(filepath.Join(folder, "images/small")); len(left) > 0 {
				t.Error("an image is left as good")
			}
		})
	}
}

func TestInterrupts(t *testing.T) {
	folder := smallBuild(t)
	for _, stage := range stagesToKill {
		t.Run(stage.name, func(t *testing.T) {
			b := start(t, folder)
			b.after(stage.after)
			time.Sleep(stage.wait)
			interrupted := time.Now()
			if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			code := b.code()
			took := time.Since(interrupted)
			t.Logf("ended %.1f s after the interrupt", took.Seconds())
			if code != 130 || took > 10*time.Second {
				t.Errorf("exit code %d after %s\n%s", code, took, b.stderr)
			}
			nothingLeft(t, folder)
			if left, _ := filepath.Glob(filepath.Join(folder, "images/.small.work")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
	t.Run("twice", func(t *testing.T) {
		b := start(t, folder)
		b.after("Inputs")
		for range 2 {
			_ = b.cmd.Process.Signal(os.Interrupt)
			time.Sleep(50 * time.Millisecond)
		}
		second := time.Now()
		if code := b.code(); code != 130 || time.Since(second) > time.Second {
			t.Errorf("exit code %d after %s", code, time.Since(second))
		}
		nothingLeft(t, folder)
	})
}

func TestASecondBuildIsToldThatTheFolderIsLocked(t *testing.T) {
	folder := smallBuild(t)
	write(t, filepath.Join(folder, "images/small.failed/build.log"), "of an older build")
	b := start(t, folder, "--no-test")
	b.after("Inputs")
	r := run(t, folder, "build", "small", "--no-test")
	if r.code != 3 || !strings.Contains(r.stderr, "is locked") || strings.Contains(r.stderr, "build.log") || r.took > 5*time.Second {
		t.Errorf("exit code %d after %s\n%s", r.code, r.took, r.stderr)
	}
	if code := b.code(); code != 0 {
		t.Errorf("the first build: exit code %d\n%s", code, b.stderr)
	}
}
