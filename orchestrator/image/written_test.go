package image_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// odd is a sparse disk with data at the edges of blocks, tables and grains, and at its end.
func odd(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	for _, at := range []int64{0, 60 << 10, 8<<20 - 512, 33 << 20, 33<<20 + 200<<10, size - 700} {
		content := make([]byte, 700)
		_, _ = random.Read(content)
		if _, err := file.WriteAt(content, at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// Every format holds a disk of any size, says another program, and a byte that changes is found.
func TestWhatIsWrittenIsTheDisk(t *testing.T) {
	needQEMU(t)
	for _, size := range []int64{1 << 20, 70<<20 + 512, 70<<20 + 100} {
		raw := odd(t, size)
		for _, format := range diskformat.Written() {
			out := filepath.Join(t.TempDir(), "disk."+format)
			if _, err := image.Make(t.Context(), &host.Local{}, raw, "a disk", format, out); err != nil {
				t.Errorf("%s of %d bytes: %v", format, size, err)
				continue
			}
			command := image.Compare(raw, format, out)
			if told, err := exec.Command("qemu-img", command.Args...).CombinedOutput(); err != nil {
				t.Errorf("%s of %d bytes: %v %s", format, size, err, told)
			}
		}
	}
}

// damaging changes a byte of what qemu-img has written.
type damaging struct {
	host.Host
	at int64
}

func (d damaging) Run(ctx context.Context, c host.Command) error {
	if err := d.Host.Run(ctx, c); err != nil {
		return err
	}
	file, err := os.OpenFile(c.Args[len(c.Args)-1], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt([]byte("X"), d.at)
	return errors.Join(err, file.Close())
}

func TestAVHDXThatIsNotTheDiskIsNoImage(t *testing.T) {
	needQEMU(t)
	raw := odd(t, 70<<20)
	good := filepath.Join(t.TempDir(), "good.vhdx")
	if err := image.Write(t.Context(), &host.Local{}, raw, diskformat.VHDX, good); err != nil {
		t.Fatal(err)
	}
	file, err := files.OpenRegular(good)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	disk, err := diskformat.ReadVHDX(file)
	if err != nil || disk.Size != 70<<20 || len(disk.Blocks) != int((disk.Size+disk.Block-1)/disk.Block) || disk.Blocks[0] == 0 {
		t.Fatalf("%+v, %v", disk, err)
	}
	for what, at := range map[string]int64{"data": disk.Blocks[0] + 100, "zeros": disk.Blocks[0] + 1<<20} {
		err := image.Write(t.Context(), damaging{&host.Local{}, at}, raw, diskformat.VHDX, filepath.Join(t.TempDir(), "bad.vhdx"))
		if err == nil || !strings.Contains(err.Error(), "differs from the disk") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
