package budget

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

const gib = 1 << 30

func TestGuest(t *testing.T) {
	running := func(memory, available int64) share { return share{Guests: 1, Memory: memory, Available: available} }
	for name, tc := range map[string]struct {
		others    []share
		available int64
		fits      bool
	}{
		"alone":                              {nil, 4 * gib, true},
		"alone, with too little":             {nil, gib / 2, true}, // for it would wait forever
		"alone, where nobody knows":          {nil, 0, true},
		"besides one":                        {[]share{running(gib, 4*gib)}, 3 * gib, true},
		"besides one, where nobody knows":    {[]share{running(gib, 0)}, 0, false},
		"besides one that has no memory yet": {[]share{running(gib, 2*gib-1)}, 2*gib - 1, false},
		"besides one that has all of its":    {[]share{running(gib, 2*gib)}, gib, true},
		"besides others' programs":           {[]share{running(gib, 4*gib)}, gib - 1, false},
		"besides as many as may be":          {[]share{running(1, 4*gib), running(1, 4*gib)}, 4 * gib, false},
		"besides disks":                      {[]share{{Room: 1}, {Room: 1}, {Room: 1}}, gib / 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, fits := guest(tc.others, gib, 2, tc.available); fits != tc.fits {
				t.Errorf("it fits: %t", fits)
			}
		})
	}
}

func TestRoom(t *testing.T) {
	written := func(string) int64 { return 3 * gib }
	for name, tc := range map[string]struct {
		others  []share
		free    int64
		fits    bool
		problem string
	}{
		"alone":                           {nil, 6 * gib, true, ""},
		"alone, perhaps":                  {nil, 3 * gib, true, ""},
		"alone, too little":               {nil, 2*gib - 1, false, "takes about 2049 MiB, and 2047 MiB are free in images"},
		"besides one that has written":    {[]share{{Device: 1, Room: 3 * gib}}, 6 * gib, true, ""},
		"besides one that is to write":    {[]share{{Device: 1, Room: 4 * gib}}, 6 * gib, false, ""},
		"besides one elsewhere":           {[]share{{Device: 2, Room: 9 * gib}}, 6 * gib, true, ""},
		"besides one, too little for now": {[]share{{Device: 1, Room: 3 * gib}}, gib, false, ""},
		"besides guests":                  {[]share{{Guests: 1, Memory: gib}}, 6 * gib, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			fits, err := share{Device: 1, Room: 6 * gib, Folder: "images/.debian.work"}.room(tc.others, 2*gib+1, tc.free, written)
			if tc.problem == "" && err != nil || tc.problem != "" && (fail.ExitCode(err) != 3 || !strings.Contains(err.Error(), tc.problem)) {
				t.Errorf("error %v", err)
			}
			if fits != tc.fits {
				t.Errorf("it fits: %t", fits)
			}
		})
	}
}

// TestNoMoreThanMayRun lets many ask at the same time. Who runs gives nothing back before
// somebody has been told to wait.
func TestNoMoreThanMayRun(t *testing.T) {
	b := In(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waited, someWait := context.WithCancel(ctx)
	defer someWait()
	var running atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			release, err := b.Guest(ctx, 1, 2, someWait)
			if err != nil {
				t.Error(err)
				return
			}
			if n := running.Add(1); n > 2 {
				t.Errorf("%d run at the same time", n)
			}
			<-waited.Done()
			running.Add(-1)
			release()
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		t.Error("none has waited")
	}
	if left, _ := filepath.Glob(filepath.Join(b.folder, "*")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestWhoWaitsCanGoAway(t *testing.T) {
	b := In(t.TempDir())
	release, err := b.Guest(t.Context(), 1, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if held := b.Held(t.Context()); held != 1 {
		t.Errorf("%d bytes are held", held)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := b.Guest(ctx, 1, 1, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestTakenByAnotherProcess is what TestWhatAKilledProcessHadIsFree starts.
func TestTakenByAnotherProcess(t *testing.T) {
	folder := os.Getenv("TEST_BUDGET")
	if folder == "" {
		return
	}
	if _, err := In(folder).Guest(t.Context(), 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(folder), "taken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Hour) // where nothing can happen any more, Go ends a process
}

func TestWhatAKilledProcessHadIsFree(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "budget")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("/proc/self/exe", "-test.run=^TestTakenByAnotherProcess$")
	other.Env = append(os.Environ(), "TEST_BUDGET="+folder)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	taken := filepath.Join(filepath.Dir(folder), "taken")
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(taken); err == nil {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatal("the other process took nothing")
		}
	}
	waited := false
	release, err := In(folder).Guest(t.Context(), 1, 1, func() { waited = true; _ = other.Process.Kill() })
	if err != nil || !waited {
		t.Fatalf("waited: %t, %v", waited, err)
	}
	release()
}

func TestABudgetThatCannotBeWrittenIsTheHosts(t *testing.T) {
	_, err := In(filepath.Join(t.TempDir(), "gone")).Guest(t.Context(), 1, 1, nil)
	if fail.ExitCode(err) != 3 || fail.Hint(err) == "" {
		t.Errorf("error %v", err)
	}
}

func TestWhatLiesInAFolderIsTakenFromItsRoom(t *testing.T) {
	b, work := In(t.TempDir()), t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "disk.raw"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := usage(work); got < 1<<20 || got > 2<<20 {
		t.Errorf("%d bytes are taken", got)
	}
	release, err := b.Room(t.Context(), work, 1, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := b.Room(t.Context(), work, 1<<60, 1<<60, nil); fail.ExitCode(err) != 3 {
		t.Errorf("error %v", err)
	}
	if _, err := b.Room(t.Context(), filepath.Join(work, "gone"), 1, 1, nil); fail.ExitCode(err) != 3 {
		t.Errorf("error %v", err)
	}
}
