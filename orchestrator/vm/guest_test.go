package vm

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// fakeGuest prepares a guest whose QEMU is the script, and which writes to scratch.
func fakeGuest(t *testing.T, script, scratch string) (*Guest, string) {
	t.Helper()
	fakeQEMU(t, `case " $* " in *' -device help '*) exit ;; esac; `+script)
	fakeTool(t, "qemu-img", `for last; do case $last in */overlay.qcow2) : >"$last" ;; esac; done`)
	c, err := Confine(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { image.Close() })
	console := filepath.Join(t.TempDir(), "console")
	g, err := c.Prepare(t.Context(), &host.Local{}, Setup{
		Image: image, Format: "raw", VirtualSize: 512, Firmware: "bios", Accel: AccelTCG, Memory: 64 << 20, Console: console, Scratch: scratch,
	})
	if err != nil {
		t.Fatal(err)
	}
	return g, console
}

func TestAStoppedGuestLeavesNothingButItsConsole(t *testing.T) {
	scratch := t.TempDir()
	g, console := fakeGuest(t, `echo hello >&6; exec sleep 60`, scratch)
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); g.Console.Size() == 0 && time.Since(start) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	if got := string(g.Console.Last(3)) + string(g.Console.First(2)); got != "lo\nhe" {
		t.Errorf("the console holds %q", got)
	}
	start := time.Now()
	g.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if content, err := os.ReadFile(console); err != nil || string(content) != "hello\n" {
		t.Errorf("console %q, %v", content, err)
	}
}

func TestAGuestTellsHowItEnded(t *testing.T) {
	g, _ := fakeGuest(t, `echo "KVM internal error. Suberror: 1" >&2; exit 1`, t.TempDir())
	defer g.Close()
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := g.Complaint(<-g.Ended())
	if err == nil || err.Error() != "exit status 1: KVM internal error. Suberror: 1" || !g.Broken() || g.Resets() != 0 {
		t.Errorf("%v, broken %v, %d resets", err, g.Broken(), g.Resets())
	}
	g.Stop() // once more, of what has ended
}

func TestAGuestThatCannotBePreparedLeavesNothing(t *testing.T) {
	scratch := t.TempDir()
	fakeTool(t, "qemu-img", "exit 1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g, err := Confinement{}.Prepare(ctx, &host.Local{}, Setup{Image: os.Stdin, Console: filepath.Join(scratch, "console"), Scratch: scratch})
	left, problem := os.ReadDir(scratch)
	if g != nil || err == nil || problem != nil || len(left) > 0 {
		t.Errorf("%v, left: %v, %v", err, left, problem)
	}
}

func TestAScreenIsDrawnAnew(t *testing.T) {
	draw := func(width, height int) []byte {
		var b bytes.Buffer
		if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	polyglot := append(draw(8, 8), "<script>"...)
	if content, err := redrawn(polyglot); err != nil || bytes.Contains(content, []byte("script")) || !bytes.HasPrefix(content, []byte("\x89PNG")) {
		t.Errorf("%q, %v", content, err)
	}
	whole := draw(64, 64)
	for name, content := range map[string][]byte{"nothing": nil, "too wide": draw(widestScreen+1, 1), "cut off": whole[:len(whole)-20], "a text": []byte("screen")} {
		if content, err := redrawn(content); err == nil || content != nil {
			t.Errorf("%s: %d bytes, %v", name, len(content), err)
		}
	}
}
