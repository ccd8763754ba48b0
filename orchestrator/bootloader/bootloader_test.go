package bootloader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func TestFiles(t *testing.T) {
	const uuid = "b7774902-36e1-4726-93e3-9f3cf12d6da5"
	for name, plan := range map[string]Plan{
		"hybrid": {BIOS: true, EFI: true, GrubUUID: uuid, GrubPath: "/boot/grub", Filesystem: "ext4"},
		"efi":    {EFI: true, GrubUUID: uuid, GrubPath: "/grub", Filesystem: "xfs", Timeout: 5},
		"bios":   {BIOS: true, GrubUUID: uuid, GrubPath: "/boot/grub", Filesystem: "btrfs", DiskID: "ABCDEF00-0000-4000-8000-000000000000"},
	} {
		plan.Cmdline = "console=tty0 console=ttyS0,115200"
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			fmt.Fprintf(&b, "packages %s\nboots on %s\n\n", strings.Join(plan.Packages(), " "), strings.Join(plan.Firmware(), " "))
			for _, f := range plan.files() {
				fmt.Fprintf(&b, "--- %s\n%s\n", f.path, f.content)
			}
			fmt.Fprintf(&b, "--- debconf\n%s\n--- core.img\n%s%s\n%s\n\n", plan.debconf(), plan.coreConfig(), plan.mkimage("ROOT", earlyFile), mkCDImage("ROOT"))
			if plan.EFI {
				for _, f := range plan.espFiles() {
					fmt.Fprintf(&b, "--- ESP %s from %q\n%s", f.path, f.source, f.content)
				}
			}
			golden.Equal(t, name+".golden", b.String())
		})
	}
}

// TestNothingIsDoneForWhatBootsNowhere: the tree is only asked what is installed.
func TestNothingIsDoneForWhatBootsNowhere(t *testing.T) {
	var plan Plan
	root := t.TempDir()
	h := &hosttest.Fake{}
	if _, err := Apply(t.Context(), h, plan, Target{Root: root}); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadDir(root)
	if err != nil || len(made) > 0 || len(plan.Packages()) > 0 || len(h.Calls) != 1 {
		t.Errorf("%v, %v, %v, calls %v", made, err, plan.Packages(), h.Calls)
	}
}

func TestEmbedPointsAtCoreImage(t *testing.T) {
	boot := bytes.Repeat([]byte{0xaa}, 512)
	core := bytes.Repeat([]byte{0xbb}, 3*512+7)
	const start = 1 << 20
	code, image, err := embed(boot, core, start, start)
	if err != nil {
		t.Fatal(err)
	}
	if len(code) != 440 || len(image) != 4*512 {
		t.Fatalf("%d bytes of boot code, %d of core.img", len(code), len(image))
	}
	if lba := binary.LittleEndian.Uint64(code[0x5c:]); lba != 2048 {
		t.Errorf("boot.img loads sector %d, want 2048", lba)
	}
	if !bytes.Equal(code[0x66:0x68], []byte{0x90, 0x90}) {
		t.Error("boot.img still checks for a floppy")
	}
	if lba := binary.LittleEndian.Uint64(image[0x1f4:]); lba != 2049 {
		t.Errorf("core.img goes on at sector %d, want 2049", lba)
	}
	if n := binary.LittleEndian.Uint16(image[0x1fc:]); n != 3 {
		t.Errorf("core.img has %d further sectors, want 3", n)
	}
	if !bytes.Equal(image[512:3*512+7], core[512:]) {
		t.Error("core.img's content changed")
	}
}

func TestEmbedRefusesWhatDoesNotFit(t *testing.T) {
	for name, sizes := range map[string][2]int{"short boot.img": {511, 2000}, "large core.img": {512, 1<<20 + 1}, "tiny core.img": {512, 512}} {
		if _, _, err := embed(make([]byte, sizes[0]), make([]byte, sizes[1]), 1<<20, 1<<20); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
