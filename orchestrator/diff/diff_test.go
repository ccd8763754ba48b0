package diff_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/diff"
)

const mib = 1 << 20

// run runs a tool that makes file systems.
func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// write makes files below a folder.
func write(t *testing.T, folder string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

const status = "Package: nano\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n"

// tree is a folder with files of several kinds.
func tree(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "tree")
	write(t, folder, map[string]string{
		"etc/hostname": "debian\n", "etc/conf": strings.Repeat("same\n", 4) + "old\n" + "end\n", "bin/tool": strings.Repeat("\x00\x01", 70000), "old": "x",
		"var/lib/dpkg/status": status, "empty": "",
	})
	if err := os.Symlink("here", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	return folder
}

// disk is a disk of a FAT and an ext4 partition.
func disk(t *testing.T, folder, esp string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	write(t, filepath.Dir(path), map[string]string{"disk": "", "root": "", "esp": ""})
	parts := map[string]int64{"esp": mib, "root": 9 * mib}
	for name, size := range map[string]int64{"disk": 32 * mib, "esp": 8 * mib, "root": 20 * mib} {
		if err := os.Truncate(filepath.Join(filepath.Dir(path), name), size); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nstart=2048, size=16384, type=uefi, name=esp, uuid=11111111-2222-3333-4444-555555555556\nstart=18432, size=40960, type=linux, name=root, uuid=11111111-2222-3333-4444-555555555557\n", "sfdisk", "-q", path)
	image := filepath.Join(filepath.Dir(path), "esp")
	run(t, "", "mkfs.fat", "--invariant", "-i", "12345678", image)
	run(t, esp, "mcopy", "-i", image, "-", "::/A long name.cfg")
	run(t, "", "mkfs.ext4", "-q", "-F", "-U", "11111111-2222-3333-4444-555555555558", "-E", "hash_seed=11111111-2222-3333-4444-555555555559", "-d", folder, filepath.Join(filepath.Dir(path), "root"))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	for name, at := range parts {
		content, err := os.ReadFile(filepath.Join(filepath.Dir(path), name))
		for i := 0; err == nil && i < len(content); i += 4096 { // holes stay
			if part := content[i : i+4096]; !bytes.Equal(part, make([]byte, 4096)) {
				_, err = file.WriteAt(part, at+int64(i))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func compare(t *testing.T, a, b *os.File) diff.Disks {
	t.Helper()
	result, err := diff.Compare(t.Context(), a, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestADiskIsEqualToItself(t *testing.T) {
	a := disk(t, tree(t), "timeout 5\n")
	if result := compare(t, a, a); !result.Equal || result.Partitions != nil {
		t.Errorf("%+v", result)
	}
}

func TestTheFilesThatDifferAreTold(t *testing.T) {
	folder := tree(t)
	a := disk(t, folder, "timeout 5\n")
	write(t, folder, map[string]string{
		"etc/conf": strings.Repeat("same\n", 4) + "new\n" + "end\n", "bin/tool": strings.Repeat("\x00\x01", 70000-1) + "\x00\x02", "new/file": "y",
		"var/lib/dpkg/status": strings.ReplaceAll(status, "Version: 1", "Version: 2") + strings.ReplaceAll(status, "nano", "vim"),
	})
	if err := errors.Join(os.Remove(filepath.Join(folder, "old")), os.Chmod(filepath.Join(folder, "etc/hostname"), 0o600),
		os.Remove(filepath.Join(folder, "link")), os.Symlink("there", filepath.Join(folder, "link")),
		os.Link(filepath.Join(folder, "empty"), filepath.Join(folder, "empty2"))); err != nil {
		t.Fatal(err)
	}
	result := compare(t, a, disk(t, folder, "timeout 6\n"))
	if result.Equal || len(result.Partitions) != 2 || result.Disk != nil {
		t.Fatalf("%+v", result)
	}
	esp, root := result.Partitions[0], result.Partitions[1]
	if c := file(t, esp, "/A long name.cfg").Content; c == nil || c.Offset != 8 || c.Line != 1 || c.A != "timeout 5" || c.B != "timeout 6" {
		t.Errorf("on FAT: %+v", c)
	}
	if c := file(t, root, "/etc/conf").Content; c == nil || c.Offset != 20 || c.Line != 5 || c.A != "old" || c.B != "new" {
		t.Errorf("text: %+v", c)
	}
	if c := file(t, root, "/bin/tool").Content; c == nil || c.Offset != 139999 || c.A != "01" || c.B != "02" {
		t.Errorf("bytes: %+v", c)
	}
	for name, want := range map[string]diff.Change{
		"/etc/hostname": {What: "mode", A: "0644", B: "0600"},
		"/link":         {What: "target", A: "here", B: "there"},
		"/empty":        {What: "same file as", A: "none", B: "/empty"},
	} {
		if got := file(t, root, name).Changes; !slices.Contains(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for name, side := range map[string]string{"/old": "a", "/new": "b", "/new/file": "b"} {
		if got := file(t, root, name).Only; got != side {
			t.Errorf("%s is only in %q", name, got)
		}
	}
	want := []diff.Package{{Name: "nano", Architecture: "all", A: "1", B: "2"}, {Name: "vim", Architecture: "all", B: "1"}}
	if !slices.Equal(result.Packages, want) {
		t.Errorf("packages: %+v", result.Packages)
	}
}

func file(t *testing.T, d diff.Difference, path string) diff.File {
	t.Helper()
	for _, f := range d.Files {
		if f.Path == path {
			return f
		}
	}
	t.Errorf("%s is not told of in %+v", path, d)
	return diff.File{}
}

func TestOfManyFilesTheFirstAreTold(t *testing.T) {
	folder := tree(t)
	a := disk(t, folder, "")
	write(t, folder, map[string]string{"many/1": "", "many/2": "", "many/3": ""})
	result, err := diff.Compare(t.Context(), a, disk(t, folder, ""), 2)
	if err != nil {
		t.Fatal(err)
	}
	last := result.Partitions[len(result.Partitions)-1]
	if len(last.Files) != 2 || last.Differing < 4 {
		t.Errorf("%+v", last)
	}
}

func TestBytesThatAreInNoFile(t *testing.T) {
	folder := tree(t)
	a, b := disk(t, folder, ""), disk(t, folder, "")
	if _, err := b.WriteAt([]byte("boot code"), 100); err != nil {
		t.Fatal(err)
	}
	if result := compare(t, a, b); result.Equal || result.Outside == nil || *result.Outside != 100 {
		t.Errorf("%+v", result)
	}
}

// TestWhatIsDamagedEndsAndTellsOfIt overwrites what is said of partitions and files,
// each time in another place.
func TestWhatIsDamagedEndsAndTellsOfIt(t *testing.T) {
	folder := tree(t)
	a, b := disk(t, folder, "timeout 5\n"), disk(t, folder, "timeout 5\n")
	for start, end := range map[int64]int64{0: 20 << 10, mib: mib + 24<<10, 9 * mib: 9*mib + 200<<10} {
		for at := start; at < end; at += 2048 {
			noise, before := make([]byte, 1024), make([]byte, 1024)
			for i := range noise {
				noise[i] = byte(at>>11) ^ byte(i*37)
			}
			_, reading := b.ReadAt(before, at)
			_, writing := b.WriteAt(noise, at)
			result, err := diff.Compare(t.Context(), a, b, 0)
			if err == nil && result.Equal {
				t.Errorf("noise at %d is not noticed", at)
			}
			_, restoring := b.WriteAt(before, at)
			if err := errors.Join(reading, writing, restoring); err != nil {
				t.Fatal(err)
			}
		}
	}
}
