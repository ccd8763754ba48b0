package product

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// TestAMediumIsReadBack: whatever differs on it is found.
func TestAMediumIsReadBack(t *testing.T) {
	scratch := t.TempDir()
	l := &liveMedium{
		work:   &work{Subject: Subject{Base: "x", SHA256: strings.Repeat("0", 64), Epoch: time.Unix(0, 0)}, ctx: t.Context(), host: &host.Local{}, scratch: scratch},
		folder: filepath.Join(scratch, liveFolder), bios: &rawdisk.Node{}, hybrid: &rawdisk.Node{}, efi: map[string]*rawdisk.Node{"BOOTX64.EFI": {}},
	}
	put := func(name, content string) {
		t.Helper()
		path := filepath.Join(scratch, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	image := strings.Repeat("CD", 5000)
	system := filepath.Join(liveFolder, "live/0/filesystem.squashfs")
	loader := filepath.Join(liveFolder, liveGrubImage)
	for name, content := range map[string]string{system: "tree", loader: image, liveMBR: strings.Repeat("H", 512), liveESP: strings.Repeat("E", 4<<20)} {
		put(name, content)
	}
	medium := filepath.Join(scratch, "x.iso")
	if err := l.host.Run(l.ctx, l.write(medium)); err != nil {
		t.Fatal(err)
	}
	check := func() error {
		if err := errors.Join(os.RemoveAll(filepath.Join(scratch, liveBack)), os.RemoveAll(filepath.Join(scratch, liveImages))); err != nil {
			t.Fatal(err)
		}
		return l.check(medium)
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{
		system: {"tree", "trei"}, loader: {image, image[:len(image)-1] + "x"}, liveESP: {strings.Repeat("E", 4<<20), strings.Repeat("E", 4<<20-1)},
		filepath.Join(liveFolder, "live/0/initrd"): {"", "missing"},
	} {
		put(name, want[1])
		if err := check(); err == nil {
			t.Errorf("%s is another one, and passes", name)
		}
		put(name, want[0])
		if want[0] == "" {
			_ = os.Remove(filepath.Join(scratch, name))
		}
	}
}
