//go:build e2e

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk is a file system of its own. Nothing may hold it once the test has ended.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	file, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	tool(t, "truncate", "--size="+size, file)
	tool(t, "mkfs.ext4", "-q", "-m", "0", file)
	tool(t, "mount", "-o", "loop", file, at)
	t.Cleanup(func() {
		tool(t, "umount", at)
		left := ""
		for range 50 {
			if left = tool(t, "losetup", "--associated", file); left == "" {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("somebody still holds the file system: %s", left)
	})
	return at
}

// fill leaves no block free, until the release is called.
func fill(t *testing.T, at string) (release func()) {
	t.Helper()
	file, err := os.Create(filepath.Join(at, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	offset, step := int64(0), int64(1<<30)
	for step >= 4096 {
		err := syscall.Fallocate(int(file.Fd()), 0, offset, step)
		switch {
		case err == nil:
			offset += step
		case errors.Is(err, syscall.ENOSPC):
			step /= 2
		case !errors.Is(err, syscall.EINTR):
			t.Fatal(err)
		}
	}
	return func() {
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestADiskThatGetsFull has store and results on a disk that is full from a moment on in
// each stage. What was stored before is used by the next one.
func TestADiskThatGetsFull(t *testing.T) {
	folder := smallBuild(t)
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands:\n  - run: sleep 2\n  - run: head -c 5000000 /dev/urandom > /done\n")
	at := smallDisk(t, "6G")
	args := []string{"--cache", filepath.Join(at, "store"), "-o", filepath.Join(at, "images"), "--accel", "tcg"}
	for _, stage := range []struct {
		name, after string
		wait        time.Duration
		hint        string
	}{
		{"Source", "Inputs", 500 * time.Millisecond, "--cache"},
		{"Layer", "Source", time.Second, "--cache"},
		{"Boot loader", "Layer small", time.Second, "--cache"},
		{"Seal", "Boot loader", 0, "--cache"},
		{"Disk before it begins", "Seal", 0, "-o"},
		{"Disk", "Seal", 700 * time.Millisecond, "-o"},
		{"Convert", "Check", 0, "-o"},
		{"Boot test", "Convert", 5 * time.Second, "free space in "},
	} {
		t.Run(stage.name, func(t *testing.T) {
			b := start(t, folder, args...)
			b.after(stage.after)
			time.Sleep(stage.wait)
			release := fill(t, at)
			defer release()
			filled := time.Now()
			code, took := b.code(), time.Since(filled)
			t.Logf("%.1f s later:\n%s", took.Seconds(), b.stderr)
			if told := b.stderr.String(); code != 3 || strings.Count(told, "hint: ") != 1 || !strings.Contains(told, "free space") || !strings.Contains(told, stage.hint) {
				t.Errorf("exit code %d", code)
			}
			nothingLeft(t, folder)
			for _, name := range []string{"images/small", "images/.small.work", "store/work/*", "store/budget/[A-Z2-7]*"} {
				if left, _ := filepath.Glob(filepath.Join(at, name)); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			}
		})
	}
	good(t, folder, append([]string{"build", "small", "--no-test"}, args...)...)
	good(t, folder, "cache", "verify", "--cache", filepath.Join(at, "store"))
}
