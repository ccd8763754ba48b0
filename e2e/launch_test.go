//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/machine"
)

// TestLaunch has the life of a test machine: it comes up, is logged in to, keeps what is
// copied to it over a restart, is what it was when a snapshot was taken, survives a QEMU that is killed, and leaves nothing.
func TestLaunch(t *testing.T) {
	t.Parallel()
	b := debian(t)
	folder, state := t.TempDir(), t.TempDir()
	in := caller{folder, []string{"XDG_STATE_HOME=" + state}}
	image := b.image("qcow2")
	before := digest(t, image)
	clean := func() { in.run(t, "clean", "trial") }
	t.Cleanup(clean)
	list := func() machine.Status {
		t.Helper()
		var all []machine.Status
		in.good(t, "ps", "--json").read(t, &all)
		if len(all) != 1 || all[0].Name != "trial" {
			t.Fatalf("machines: %+v", all)
		}
		return all[0]
	}

	in.good(t, "launch", image, "--name", "trial", "--size", "6G", "--timeout", "10m")
	if got := list(); got.State != "running" || got.Run == nil {
		t.Errorf("%+v", got)
	}
	if told := in.good(t, "ssh", "trial", "--", "systemctl is-system-running; hostname; id -u; findmnt --noheadings --output FSTYPE /").stdout; told != "running\ntrial\n0\next4\n" && told != "running\ndebian\n0\next4\n" {
		t.Errorf("the machine says %q", told)
	}
	if told := in.good(t, "ssh", "trial", "--", "df --output=size --block-size=1M / | tail -n 1").stdout; len(strings.TrimSpace(told)) != 4 || strings.TrimSpace(told) < "5000" {
		t.Errorf("the root has %s MiB of a disk of 6 GiB", told)
	}
	write(t, filepath.Join(folder, "a file"), "kept\n")
	in.good(t, "cp", "a file", "trial:/root/kept")
	in.good(t, "screenshot", "trial", "screen.png")
	if content, err := os.ReadFile(filepath.Join(folder, "screen.png")); err != nil || !bytes.HasPrefix(content, []byte("\x89PNG")) {
		t.Errorf("the screenshot begins with %q, %v", content[:min(len(content), 8)], err)
	}
	in.good(t, "snapshot", "trial", "before")
	in.good(t, "ssh", "trial", "--", "touch /root/after")
	if told := in.good(t, "snapshot", "trial").stdout; !strings.Contains(told, "before") {
		t.Errorf("snapshots: %q", told)
	}
	in.good(t, "snapshot", "trial", "before", "--restore")
	if told := in.good(t, "ssh", "trial", "--", "ls /root").stdout; told != "kept\n" {
		t.Errorf("what was restored has %q", told)
	}
	in.good(t, "snapshot", "trial", "before", "--delete")
	if r := in.run(t, "launch", image, "--name", "trial"); r.code != 2 {
		t.Errorf("launched twice: %d %s", r.code, r.stderr)
	}
	in.good(t, "ssh", "trial", "--", "sync")

	if err := syscall.Kill(list().Run.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); list().State == "running"; time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("a machine whose QEMU is gone is told to run")
		}
	}
	in.good(t, "start", "trial", "--timeout", "10m")
	if told := in.good(t, "ssh", "trial", "--", "cat", "/root/kept").stdout; told != "kept\n" {
		t.Errorf("after a restart there is %q", told)
	}
	in.good(t, "cp", "trial:/root/kept", "back")
	if content, _ := os.ReadFile(filepath.Join(folder, "back")); string(content) != "kept\n" {
		t.Errorf("copied back: %q", content)
	}
	if told := in.good(t, "ssh", "trial", "--", "journalctl --boot=all --unit=ssh --output=cat | grep --only-matching -e 'Server listening on 0' -e 'drop connection' | sort -u").stdout; told != "Server listening on 0\n" {
		t.Errorf("its server told %q", told)
	}
	in.good(t, "stop", "trial")
	if got := list(); got.State == "running" {
		t.Errorf("stopped: %+v", got)
	}
	in.good(t, "clean", "trial")
	if left := strings.TrimSpace(tool(t, "find", state, "-type", "f", "-size", "+0")); left != "" {
		t.Errorf("left: %s", left)
	}
	if digest(t, image) != before {
		t.Error("the image was changed")
	}
}
