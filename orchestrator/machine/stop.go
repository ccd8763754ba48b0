package machine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

const (
	stopPoll = 50 * time.Millisecond
	// monitorLimit is how long QEMU may take to answer; it may be busy with somebody else.
	monitorLimit = 10 * time.Second
	killLimit    = 10 * time.Second
)

// Stop has the guest switch itself off, and ends it where it has not within the limit.
// It says whether the guest did it.
func (m Machine) Stop(ctx context.Context, limit time.Duration) (itself bool, err error) {
	if !m.Running() {
		return true, nil
	}
	if err := m.command(ctx, monitorLimit, func(ctx context.Context, q *vm.Monitor) error {
		return q.Execute(ctx, "system_powerdown", nil, nil)
	}); err != nil && ctx.Err() != nil {
		return false, ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if m.awaitEnd(limited) == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return false, m.Kill()
}

// awaitEnd waits until QEMU has ended.
func (m Machine) awaitEnd(ctx context.Context) error {
	for m.Running() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stopPoll):
		}
	}
	return nil
}

// Kill ends the machine at once, if it runs.
func (m Machine) Kill() error {
	if !m.Running() {
		return nil
	}
	run, err := m.run()
	if errors.Is(err, fs.ErrNotExist) { // of a vmctl that was killed while it started QEMU
		return m.quit(startingHint)
	}
	if err != nil {
		return err
	}
	if run.elsewhere() {
		return m.quit("it was started in another container or on another host: stop it there")
	}
	return m.kill(run.PID)
}

// kill ends the QEMU of that number here, and waits for it. While the lock is held the number
// is QEMU's, so a process that was opened before that is QEMU.
func (m Machine) kill(pid int) error {
	process, err := vm.OpenProcess(pid)
	if err == nil {
		defer func() { _ = process.Close() }()
		if m.Running() {
			err = process.Kill()
		}
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return m.ended(startingHint)
}

// startingHint is for a machine that lives on.
const startingHint = "another vmctl may be starting it: try again"

// quit ends a QEMU whose number is not known here.
func (m Machine) quit(hint string) error {
	err := m.command(context.Background(), monitorLimit, func(ctx context.Context, q *vm.Monitor) error {
		return q.Execute(ctx, "quit", nil, nil)
	})
	if err != nil && !vm.Ending(err) {
		return err
	}
	return m.ended(hint)
}

func (m Machine) ended(hint string) error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if m.awaitEnd(ctx) != nil {
		return fail.New(fail.Host, "", hint, "the machine %s does not end", m.Name)
	}
	return nil
}

// command talks with the machine's QEMU.
func (m Machine) command(ctx context.Context, limit time.Duration, talk func(context.Context, *vm.Monitor) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	folder, err := os.Open(m.dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	monitor, err := vm.OpenMonitor(limited, folder, monitorName)
	if err == nil {
		defer func() { _ = monitor.Close() }()
		err = talk(limited, monitor)
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fail.New(fail.Host, m.Name, "try again; 'vmctl stop --force "+m.Name+"' ends it", "QEMU does not answer within %s", limit)
	}
	return err
}

// use is command for a machine that runs.
func (m Machine) use(ctx context.Context, limit time.Duration, what string, talk func(context.Context, *vm.Monitor) error) error {
	if _, err := m.running(); err != nil {
		return err
	}
	return fail.Wrap(fail.Host, what+" "+m.Name, m.command(ctx, limit, talk))
}

// Screenshot writes what the machine's screen shows to a file, as PNG.
func (m Machine) Screenshot(ctx context.Context, file *os.File) error {
	return m.use(ctx, monitorLimit, "screenshot of", func(ctx context.Context, q *vm.Monitor) error { return q.Screenshot(ctx, file) })
}

// snapshotLimit is for a machine with much memory on a slow disk.
const snapshotLimit = 10 * time.Minute

// Snapshots is the snapshots of a machine that runs.
func (m Machine) Snapshots(ctx context.Context) (all []vm.Snapshot, err error) {
	err = m.use(ctx, monitorLimit, "snapshots of", func(ctx context.Context, q *vm.Monitor) error {
		all, err = q.Snapshots(ctx)
		return err
	})
	return all, err
}

// Snapshot saves, restores or deletes the state of that name: vm.SaveSnapshot and its kin.
func (m Machine) Snapshot(ctx context.Context, job, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return m.use(ctx, snapshotLimit, "snapshot of", func(ctx context.Context, q *vm.Monitor) error {
		all, err := q.Snapshots(ctx)
		if err != nil {
			return err
		}
		there := false
		for _, s := range all {
			there = there || s.Name == name
		}
		switch {
		case job == vm.SaveSnapshot && there:
			return fail.New(fail.Usage, "", "give another name, or delete it with --delete", "there is a snapshot %q already", name)
		case job != vm.SaveSnapshot && !there:
			return fail.New(fail.Usage, "", "'vmctl snapshot "+m.Name+"' lists them", "there is no snapshot %q", name)
		}
		return q.Snapshot(ctx, job, name)
	})
}

// ConsoleLog is the file that has all that the console said.
func (m Machine) ConsoleLog() string { return filepath.Join(m.dir, consoleName) }
