package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// helper is a process that makes a layer, or mounts the one below where it has no
// script, or verifies a store.
type helper struct {
	Folder, Below, Key, Script string
	Verify                     bool
}

// command is a helper in a mount namespace of its own, which ends with it; in a user
// namespace where asked.
func (h helper) command(ctx context.Context, user bool) (*exec.Cmd, error) {
	told, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+string(told))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if user {
		all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1<<32 - 1}}
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings, cmd.SysProcAttr.GidMappingsEnableSetgroups = all, all, true
	}
	return cmd, nil
}

// runHelper runs a helper to its end, and returns what it prints: whether the layer is
// its own.
func runHelper(t *testing.T, h helper, user bool) string {
	t.Helper()
	cmd, err := h.command(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// help is the main function of a helper.
func help(told string) error {
	var h helper
	if err := json.Unmarshal([]byte(told), &h); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	s, err := store.Open(h.Folder)
	if err != nil {
		return err
	}
	if h.Verify {
		infos, err := s.Verify(context.Background())
		for _, info := range infos {
			if info.Problem != "" {
				err = errors.Join(err, errors.New(info.Problem))
			}
		}
		return err
	}
	var below []*store.Layer
	if h.Below != "" {
		base, err := s.Get(key(h.Below))
		if base == nil {
			return fmt.Errorf("no layer %s: %w", h.Below, err)
		}
		below = append(below, base)
	}
	return h.make(s, below)
}

func (h helper) make(s *store.Store, below []*store.Layer) error {
	at, err := os.MkdirTemp("", "vmctl-store-helper-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(at)
	if h.Script == "" {
		unmount, err := s.Mount(&host.Local{}, below, at)
		if err != nil {
			return err
		}
		return unmount()
	}
	w, err := s.Begin(context.Background(), &host.Local{}, below, at)
	if err != nil {
		return err
	}
	if _, err := runShell(w.Root(), h.Script); err != nil {
		return errors.Join(err, w.Discard())
	}
	layer, err := w.Commit(context.Background(), key(h.Key), store.About{Title: fmt.Sprint(os.Getpid())})
	if err != nil {
		return errors.Join(err, w.Discard())
	}
	fmt.Print(layer.About().Title == fmt.Sprint(os.Getpid()))
	return layer.Release()
}

// TestKilledProcessesLeaveNothingThatIsUsed kills a process that makes a layer, at
// moments spread over its life.
func TestKilledProcessesLeaveNothingThatIsUsed(t *testing.T) {
	needsRoot(t)
	t.Setenv("TMPDIR", t.TempDir())
	s := open(t, t.TempDir())
	base := layer(t, s, "base", "mkdir old; seq 50 | (cd old; split -l 1 -a 3)")
	h := helper{Folder: s.Folder(), Below: "base", Key: "top", Script: "rm -r old; for d in $(seq 5); do mkdir $d; (cd $d; seq 100 | split -l 1 -a 3); done"}

	before := time.Now()
	runHelper(t, h, false)
	whole := time.Since(before)
	before = time.Now()
	if err := s.Remove(key("top")); err != nil {
		t.Fatal(err)
	}
	const kills = 25
	step := (whole + time.Since(before)) / (kills - 4)
	committed := 0
	for i := range kills {
		killAfter(t, h, time.Duration(i)*step)
		other := open(t, s.Folder()) // what nobody else knows of
		top, err := other.Get(key("top"))
		if err != nil {
			t.Fatal(err)
		}
		if top != nil {
			committed++
			mounted(t, other, []*store.Layer{base, top}, func(at string) {
				if out := shell(t, at, "ls -d old || true; ls -d */* | wc -l"); !strings.HasSuffix(out, "\n500\n") {
					t.Errorf("killed after %v: half a layer: %s", time.Duration(i)*step, out)
				}
			})
			release(t, top.Release)
		}
		for _, info := range verify(t, other) {
			if info.Problem != "" {
				t.Errorf("killed after %v: %s", time.Duration(i)*step, info.Problem)
			}
		}
		collectAll(t, other)
		if top != nil {
			if err := other.Remove(key("top")); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d of %d came to a commit within %v", committed, kills, whole)
	if committed == kills {
		t.Error("no kill came in time")
	}
	if out := runHelper(t, h, false); out != "true" {
		t.Errorf("the next process did not make the layer: %s", out)
	}
}

// collectAll collects what killed processes left, as soon as the last one of them is gone.
func collectAll(t *testing.T, s *store.Store) {
	t.Helper()
	for range 100 {
		if _, removed, err := s.Collect(0); err != nil || len(removed) > 0 {
			t.Errorf("collected %v, %v", removed, err)
		}
		if left, err := os.ReadDir(filepath.Join(s.Folder(), "work")); err == nil && len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	empty(t, s)
}

func killAfter(t *testing.T, h helper, after time.Duration) {
	t.Helper()
	cmd, err := h.command(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
}

// TestAKilledRemovalIsFinishedByCollect kills processes that remove a layer.
func TestAKilledRemovalIsFinishedByCollect(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	release(t, layer(t, s, "a", "echo a > file").Release)
	// What a process leaves that is killed between the rename and the end of removing.
	shell(t, s.Folder(), "mv layers/* work/HALF; rm work/HALF/layer.json")
	shell(t, s.Folder(), "mkdir work/EMPTY") // and one that was killed before it had the lock
	get(t, s, "a", false)
	freed, removed, err := s.Collect(0)
	if err != nil || freed == 0 || len(removed) > 0 {
		t.Errorf("freed %d bytes, removed %v: %v", freed, removed, err)
	}
	empty(t, s)
}

func TestOfTwoProcessesThatCommitOneKeyTheFirstIsRight(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	base := layer(t, s, "base", "echo x > file")
	const processes = 6
	outputs := make([]string, processes)
	var all sync.WaitGroup
	for i := range processes {
		all.Go(func() {
			outputs[i] = runHelper(t, helper{Folder: s.Folder(), Below: "base", Key: "top", Script: fmt.Sprintf("echo %d > who; for i in $(seq 100); do echo %[1]d > file$i; done", i)}, false)
		})
	}
	all.Wait()
	if first := strings.Count(strings.Join(outputs, " "), "true"); first != 1 {
		t.Errorf("%d made the layer: %v", first, outputs)
	}
	mounted(t, s, []*store.Layer{base, get(t, s, "top", true)}, func(at string) {
		if out := shell(t, at, "cat file?* who | sort -u | wc -l"); out != "1\n" {
			t.Errorf("two are mixed: %q", out)
		}
	})
	empty(t, s)
}

// TestWorkAndCollectAtOnce lets processes make layers while others collect garbage.
func TestWorkAndCollectAtOnce(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	release(t, layer(t, s, "base", "echo x > file").Release)
	ctx, stop := context.WithCancel(t.Context())
	var collecting, making sync.WaitGroup
	for range 2 {
		collecting.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := open(t, s.Folder()).Collect(1 << 30); err != nil {
					t.Error(err)
				}
				if _, err := s.List(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 3 {
		making.Go(func() {
			at := filepath.Join(t.TempDir(), "at")
			for n := range 10 {
				if err := makeOne(s, at, fmt.Sprintf("%d-%d", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	making.Wait()
	stop()
	collecting.Wait()
	if infos, err := s.List(); err != nil || len(infos) != 31 {
		t.Errorf("%d layers: %v", len(infos), err)
	}
	empty(t, s)
}

func makeOne(s *store.Store, at, name string) error {
	base, err := s.Get(key("base"))
	if base == nil {
		return fmt.Errorf("no base: %w", err)
	}
	w, err := s.Begin(context.Background(), &host.Local{}, []*store.Layer{base}, at)
	if err = errors.Join(err, base.Release()); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.Root(), name), nil, 0o600); err != nil {
		return errors.Join(err, w.Discard())
	}
	layer, err := w.Commit(context.Background(), key(name), store.About{})
	if err != nil {
		return errors.Join(err, w.Discard())
	}
	return layer.Release()
}
