package image_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// needQEMU is of tests that only real images tell something. 'go test' alone runs on hosts
// without QEMU; 'make test' installs it.
func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img; make test installs it")
	}
}

// Images of one disk are the same bytes, and of two are not, in every format.
func TestImagesOfADiskAreTheSameBytes(t *testing.T) {
	needQEMU(t)
	tool := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("qemu-img", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	raw := filepath.Join(t.TempDir(), "disk.raw")
	random := rand.NewChaCha8([32]byte{})
	content := make([]byte, 3<<20)
	_, _ = random.Read(content[1<<20 : 2<<20])
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range diskformat.Written() {
		if format == diskformat.Raw {
			continue
		}
		t.Run(format, func(t *testing.T) {
			written := func(sum string) (string, []byte) {
				t.Helper()
				out := filepath.Join(t.TempDir(), "disk."+format)
				if err := image.Write(t.Context(), &host.Local{}, raw, format, out); err != nil {
					t.Fatal(err)
				}
				if err := image.Identify(out, format, sum); err != nil {
					t.Fatal(err)
				}
				content, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				return out, content
			}
			path, one := written("a disk")
			_, again := written("a disk")
			_, other := written("another disk")
			if !bytes.Equal(one, again) {
				for i := range one {
					if i >= len(again) || one[i] != again[i] {
						t.Errorf("the same disk gives other bytes from byte %d on, %q", i, one[max(0, i-20):min(len(one), i+20)])
						break
					}
				}
			}
			if same := bytes.Equal(one, other); same != (format == diskformat.QCOW2) {
				t.Errorf("two disks have the same identifiers: %v", same)
			}
			tool(image.Compare(raw, format, path).Args...)
			if told := tool("info", "-f", diskformat.Named(format).QEMU, path); strings.Contains(told, "corrupt: true") {
				t.Error(told)
			}
			if format == "vhdx" || format == "vdi" {
				tool("check", "-f", diskformat.Named(format).QEMU, path)
			}
		})
	}
}

// An image is the same under every name, although QEMU writes that of the file into some; a VMDK
// has its own, under which programs such as libvmdk look for its content.
func TestAnImageIsTheSameUnderEveryName(t *testing.T) {
	needQEMU(t)
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("disk"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range diskformat.Written() {
		var contents [][]byte
		for _, name := range []string{"a", "another name", "\"odd\""} {
			path := filepath.Join(t.TempDir(), name+"."+format)
			_, err := image.Make(t.Context(), &host.Local{}, raw, "a disk", format, path)
			if err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(name+".vmdk", `"odd"`, "disk"); format == diskformat.VMDK && !bytes.Contains(content, []byte(`SPARSE "`+want+"\"\n")) {
				t.Errorf("a VMDK is not called %s", want)
			}
			contents = append(contents, content)
		}
		if same := bytes.Equal(contents[0], contents[1]); same != (format != diskformat.VMDK) {
			t.Errorf("%s: the same under two names: %t", format, same)
		}
	}
}
