package iso9660_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/iso9660"
)

// Another program reads what is written, by the names of Rock Ridge and by those of Joliet.
func TestImagesAreReadByXorriso(t *testing.T) {
	files := map[string][]byte{
		"user-data": []byte("#cloud-config\n"), "meta-data": bytes.Repeat([]byte("x"), 5000), "network-config": nil, "ümläut 1": []byte("y"), strings.Repeat("n", 64): []byte("z"),
	}
	image := iso9660.Image{Label: "cidata", Files: files, Time: time.Unix(1e9, 0)}
	path := filepath.Join(t.TempDir(), "image.iso")
	var written, again bytes.Buffer
	for _, out := range []*bytes.Buffer{&written, &again} {
		if err := image.Write(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(written.Bytes(), again.Bytes()) {
		t.Error("the same files give other bytes")
	}
	if err := os.WriteFile(path, written.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, names := range []string{"any", "norock"} {
		out := filepath.Join(t.TempDir(), "out")
		reader := exec.Command("xorriso", "-read_fs", names, "-osirrox", "on", "-indev", path, "-extract", "/", out, "-pvd_info")
		reader.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		told, err := reader.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, told)
		}
		if !strings.Contains(string(told), "Volume Id    : cidata") || strings.Contains(string(told), "WARNING") {
			t.Errorf("%s", told)
		}
		if err := os.Chmod(out, 0o700); err != nil { // it is as read-only as a CD
			t.Fatal(err)
		}
		entries, err := os.ReadDir(out)
		if err != nil || len(entries) != len(files) {
			t.Errorf("%s: %v, %v", names, entries, err)
		}
		for name, want := range files {
			if content, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(content, want) {
				t.Errorf("%s: %s: %d bytes, %v", names, name, len(content), err)
			}
		}
	}
	for name, files := range map[string]map[string][]byte{"a slash": {"../x": nil}, "too long": {strings.Repeat("n", 65): nil}} {
		if err := (iso9660.Image{Files: files}).Write(&bytes.Buffer{}); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}
