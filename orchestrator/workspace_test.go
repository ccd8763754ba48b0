package orchestrator

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

func open(t *testing.T, folder string) *workspace {
	t.Helper()
	w, err := openWorkspace(folder, "debian", os.RemoveAll)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func deliver(t *testing.T, folder, content string) {
	t.Helper()
	w := open(t, folder)
	if err := os.WriteFile(filepath.Join(w.out, "debian.qcow2"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.deliver(t.Context(), Manifest{Name: "debian"}, DiskFacts{}); err != nil {
		t.Fatal(err)
	}
	if err := w.close(nil); err != nil {
		t.Fatal(err)
	}
}

func built(t *testing.T, folder string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, "debian", "debian.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestResultsAppearWholeAndReplaceTheOldOnes(t *testing.T) {
	folder := t.TempDir()
	deliver(t, folder, "one")
	if err := os.WriteFile(filepath.Join(folder, "debian", "stale"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	deliver(t, folder, "two")
	if got := built(t, folder); got != "two" {
		t.Errorf("image %q", got)
	}
	if _, err := os.Stat(filepath.Join(folder, "debian", "stale")); err == nil {
		t.Error("a file of the build before is left")
	}
	sums, err := os.ReadFile(filepath.Join(folder, "debian", ChecksumsName))
	if err != nil || !strings.Contains(string(sums), "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3  debian.qcow2\n") {
		t.Errorf("SHA256SUMS %s, %v", sums, err)
	}
	names, err := fileNames(folder)
	if err != nil || strings.Join(names, " ") != ".debian.lock debian" {
		t.Errorf("left in the folder: %v, %v", names, err)
	}
}

func TestAFailedBuildKeepsTheGoodOneAndItsOwnLogs(t *testing.T) {
	folder := t.TempDir()
	deliver(t, folder, "good")
	w := open(t, folder)
	for name, content := range map[string]string{"debian.qcow2": "bad", "boot-bios.log": "panic", "boot-bios-screen.png": "picture"} {
		if err := os.WriteFile(filepath.Join(w.out, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.close(errors.New("kernel panic")); err != nil {
		t.Fatal(err)
	}
	if got := built(t, folder); got != "good" {
		t.Errorf("image %q", got)
	}
	names, err := fileNames(filepath.Join(folder, "debian.failed"))
	if err != nil || strings.Join(names, " ") != "boot-bios-screen.png boot-bios.log build.log" {
		t.Errorf("kept %v, %v", names, err)
	}
	deliver(t, folder, "better")
	if _, err := os.Stat(filepath.Join(folder, "debian.failed")); err == nil {
		t.Error("the failure is still there after a good build")
	}
}

func TestWhatNoBuildHasMadeIsNotReplaced(t *testing.T) {
	const old = `{"id": "1", "name": "debian", "outputs": [], "definition": {"disk": {}}}` // of the first version
	for name, tc := range map[string]struct {
		files map[string]string
		mine  bool // no build's
	}{
		"nothing":            {nil, false},
		"an empty folder":    {map[string]string{"debian/": ""}, false},
		"an older build":     {map[string]string{"debian/build.json": old, "debian/debian.qcow2": "old"}, false},
		"a failed one":       {map[string]string{"debian.failed/build.log": "", "debian.failed/boot-bios.log": "", "debian.failed/boot-bios-screen.png": ""}, false},
		"a source package":   {map[string]string{"debian/control": "Source: a", "debian/rules": ""}, true},
		"half removed":       {map[string]string{"debian.failed/boot-uefi.log": ""}, false},
		"logs of another":    {map[string]string{"debian/access.log": ""}, true},
		"a log of another":   {map[string]string{"debian/build.log": "", "debian/Makefile": ""}, true},
		"another build.json": {map[string]string{"debian/build.json": `{"name": "site", "scripts": {}}`}, true},
		"no JSON":            {map[string]string{"debian/build.json": "name: debian"}, true},
		"a file":             {map[string]string{"debian": "mine"}, true},
		"failures of others": {map[string]string{"debian.failed/notes": "mine"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			write := func() {
				for path, content := range tc.files {
					path := folder + "/" + path
					err := os.MkdirAll(filepath.Dir(path), 0o755)
					if !strings.HasSuffix(path, "/") {
						err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			left := func(when string) {
				for path, content := range tc.files {
					if got, err := os.ReadFile(filepath.Join(folder, path)); err != nil || string(got) != content {
						t.Errorf("%s: %s is %q, %v", when, path, got, err)
					}
				}
			}
			write()
			w, err := openWorkspace(folder, "debian", os.RemoveAll)
			if tc.mine {
				if fail.ExitCode(err) != 2 || fail.Hint(err) == "" {
					t.Errorf("error %v, hint %q", err, fail.Hint(err))
				}
				left("before the work")
				folder = t.TempDir()
				w = open(t, folder)
				write()
			} else if err != nil {
				t.Fatal(err)
			}
			err = w.deliver(t.Context(), Manifest{Name: "debian"}, DiskFacts{})
			if (err != nil) != tc.mine {
				t.Errorf("delivered: %v", err)
			}
			if err := w.close(err); (err != nil) != (name == "failures of others") {
				t.Error(err)
			}
			if tc.mine {
				left("after it")
			}
		})
	}
}

func TestASecondBuildIsToldOfTheFirst(t *testing.T) {
	folder := t.TempDir()
	first := open(t, folder)
	_, err := openWorkspace(folder, "debian", os.RemoveAll)
	if fail.ExitCode(err) != 3 || !strings.Contains(err.Error(), "locked") {
		t.Errorf("error %v", err)
	}
	other, err := openWorkspace(folder, "webserver", os.RemoveAll)
	if err != nil {
		t.Errorf("another build: %v", err)
	} else if err := other.close(nil); err != nil {
		t.Error(err)
	}
	if err := first.close(nil); err != nil {
		t.Fatal(err)
	}
	if err := open(t, folder).close(nil); err != nil {
		t.Error(err)
	}
}

func TestWhatAKilledBuildLeftIsRemoved(t *testing.T) {
	folder := t.TempDir()
	left := filepath.Join(folder, ".debian.work", "out", "debian.qcow2")
	if err := os.MkdirAll(filepath.Dir(left), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w := open(t, folder)
	if _, err := os.Stat(left); err == nil {
		t.Error("it is left")
	}
	if err := w.close(nil); err != nil {
		t.Fatal(err)
	}
}

func TestABuildStaysUnlessItIsToBeBooted(t *testing.T) {
	for name, tc := range map[string]struct {
		tested bool
		of     Builder
		stays  bool
	}{
		"tested":       {true, Builder{Boot: &vm.Accelerator{}}, true},
		"untested":     {false, Builder{Boot: &vm.Accelerator{}}, false},
		"without test": {false, Builder{}, true},
		"once more":    {true, Builder{Boot: &vm.Accelerator{}, Retest: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, t.TempDir())
			if err := w.deliver(t.Context(), Manifest{Name: "debian", Outcome: "x", Tested: tc.tested}, DiskFacts{}); err != nil {
				t.Fatal(err)
			}
			if before := tc.of.before(w); (before.Outcome == "x") != tc.stays {
				t.Errorf("what stays is %+v", before)
			}
			if err := w.close(nil); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAFolderThatCannotBeWrittenIsTheHosts(t *testing.T) {
	folder := smallFolder(t)
	if err := unix.Mount("", folder, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := openWorkspace(folder, "debian", os.RemoveAll); fail.ExitCode(err) != 3 || !strings.Contains(fail.Hint(err), "-o") {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
	if _, err := openWorkspace(folder, "de/bian", os.RemoveAll); fail.ExitCode(err) != 2 {
		t.Errorf("error %v", err)
	}
}
