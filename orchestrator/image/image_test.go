package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/image"
)

func TestWriteConvertsAndCompares(t *testing.T) {
	fake := &hosttest.Fake{}
	if err := image.Write(t.Context(), fake, "disk.raw", diskformat.QCOW2, "out.qcow2"); err != nil {
		t.Fatal(err)
	}
	want := "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd,cluster_size=256k -m 16 disk.raw out.qcow2\n" +
		"qemu-img compare -q -f raw -F qcow2 disk.raw out.qcow2"
	if got := strings.Join(fake.Calls, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	different := errors.New("images differ")
	fake = &hosttest.Fake{Failures: map[string]error{"qemu-img compare": different}}
	if err := image.Write(t.Context(), fake, "disk.raw", diskformat.QCOW2, "out.qcow2"); !errors.Is(err, different) {
		t.Errorf("a half-written image passes: %v", err)
	}
}

func TestMeasureNamesTheFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "abc.qcow2")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	fake := &hosttest.Fake{Outputs: map[string]string{"qemu-img info --output=json -f qcow2 ": `{"format": "raw", "virtual-size": 2147483648}`}}
	file, err := image.Measure(t.Context(), fake, path, diskformat.QCOW2)
	if err != nil || file.Name != "abc.qcow2" || file.Format != "qcow2" || file.VirtualSize != 2<<30 || file.Size != 3 || len(file.SHA256) != 64 {
		t.Errorf("%+v, %v\n%s", file, err, fake.Calls)
	}
}

func TestDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "abc")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, size, err := image.Digest(t.Context(), path)
	if err != nil || size != 3 || sum != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("%s, %d, %v", sum, size, err)
	}
}

func TestADigestEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large")
	if err := errors.Join(os.WriteFile(path, []byte("data"), 0o600), os.Truncate(path, 1<<40)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := image.Digest(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestDigestOfASparseFileIsThatOfItsZeros(t *testing.T) {
	dir := t.TempDir()
	for name, tail := range map[string]string{"hole at the end": "", "data at the end": "end"} {
		whole := make([]byte, 5<<20+3)
		copy(whole[2<<20:], "data")
		copy(whole[len(whole)-len(tail):], tail)
		dense, sparse := filepath.Join(dir, "dense"), filepath.Join(dir, "sparse")
		if err := os.WriteFile(dense, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(sparse)
		if err != nil {
			t.Fatal(err)
		}
		_, first := f.WriteAt([]byte("data"), 2<<20)
		_, second := f.WriteAt([]byte(tail), int64(len(whole)-len(tail)))
		if err := errors.Join(first, second, f.Truncate(int64(len(whole))), f.Close()); err != nil {
			t.Fatal(err)
		}
		want, _, err := image.Digest(t.Context(), dense)
		if err != nil {
			t.Fatal(err)
		}
		if got, size, err := image.Digest(t.Context(), sparse); err != nil || got != want || size != int64(len(whole)) {
			t.Errorf("%s: %s of %d bytes, %v; want %s", name, got, size, err, want)
		}
	}
}
