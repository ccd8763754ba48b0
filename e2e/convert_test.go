//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
)

// TestConvert writes the disk of a build in every format, without root, from and to folders
// of odd names, and compares it with another program's eyes.
func TestConvert(t *testing.T) {
	t.Parallel()
	b := debian(t)
	raw := b.image("raw")
	odd := filepath.Join(t.TempDir(), "nbd:odd, {{ name }}")
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "cp", "--sparse=always", b.image("qcow2"), filepath.Join(odd, "a:b.qcow2"))
	for _, format := range diskformat.Written() {
		if format == "qcow2" {
			continue
		}
		t.Run(format, func(t *testing.T) {
			r := good(t, odd, "convert", "a:b.qcow2", format, "-o", ".")
			path := filepath.Join(odd, strings.TrimSpace(r.stdout))
			qemu := diskformat.Named(format).QEMU
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", qemu, "--", raw, "file:"+path)
			from := filepath.Join(b.folder, filepath.Base(raw))
			if format == "vmdk" { // which holds its own name
				from = "a:b.qcow2"
			}
			again := good(t, odd, "convert", from, format, "-o", "again")
			if digest(t, path) != digest(t, filepath.Join(odd, strings.TrimSpace(again.stdout))) {
				t.Error("the same disk gave other bytes")
			}
			if r := run(t, odd, "convert", "a:b.qcow2", format, "-o", "."); r.code != 2 || !strings.Contains(r.stderr, "--overwrite") {
				t.Errorf("over a file that is there: %d %s", r.code, r.stderr)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, args := range map[string][]string{"an unknown format": {"a:b.qcow2", "vpc"}, "no image": {"none.qcow2", "raw"}} {
		if r := run(t, odd, append([]string{"convert"}, args...)...); r.code != 2 {
			t.Errorf("%s: %d %s", name, r.code, r.stderr)
		}
	}

	t.Run("interrupted", func(t *testing.T) {
		folder := t.TempDir()
		cmd := command(folder, "convert", b.image("qcow2"), "vhdx")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("exit code %d", code)
		}
		if left, _ := os.ReadDir(folder); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
