package product

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// What the script calls, in a folder that is all of its PATH: $0 is in it.
var restoreTools = map[string]string{
	"sfdisk":            `echo erased >>"$0.log"`,
	"losetup":           `if [ "$1" = --detach ]; then echo "detached $2" >>"$0.log"; else echo "${0%/*}/node-$4"; fi`,
	"blockdev":          `exit 1`,
	"zstd":              `cat "$3"`,
	"partclone.restore": `while [ $# -gt 1 ]; do shift; done; cat >"$1"`,
}

// restored runs the script of a disk with two partitions and tells what it printed. Of the tools
// some are others, or missing ("").
func restored(t *testing.T, tools map[string]string) (folder, said string, err error) {
	t.Helper()
	folder = t.TempDir()
	for _, name := range []string{"sh", "cat", "dd", "dirname", "grep", "readlink", "sha256sum", "stat", "sync"} {
		if err := os.Symlink(host.Find(name), filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, script := range restoreTools {
		if other, told := tools[name]; told {
			script = other
		}
		if script == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"table": "", "boot": strings.Repeat("b", bootCode), "1 'one'": "first", "2": "second", "disk": strings.Repeat("d", 1<<20)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	table := partitionTable{
		Name: "some", Size: 1 << 20, SectorSize: rawdisk.SectorSize, Script: "table", Boot: "boot", Restore: "restore",
		Partitions: []partitionImage{
			{Partition: rawdisk.Partition{Number: 1, Start: 1024, Size: 4096}, File: "1 'one'", Format: asRaw},
			{Partition: rawdisk.Partition{Number: 2, Start: 8192, Size: 4096}, File: "2", Format: asPartclone},
		},
	}
	script, err := table.script([]string{sha256Of([]byte("second")) + "  2"})
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "restore"), script, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(host.Find("sh"), filepath.Join(folder, "restore"), filepath.Join(folder, "disk"))
	cmd.Env = []string{"PATH=" + folder}
	out, err := cmd.CombinedOutput()
	return folder, string(out), err
}

func TestTheScriptRestoresAllPartitions(t *testing.T) {
	folder, said, err := restored(t, nil)
	if err != nil || said != "" {
		t.Fatalf("%v\n%s", err, said)
	}
	for name, want := range map[string]string{"node-1024": "first", "node-8192": "second", "losetup.log": "detached " + folder + "/node-1024\ndetached " + folder + "/node-8192\n", "sfdisk.log": "erased\n"} {
		if got, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestTheScriptSaysWhatItCouldNotRestore(t *testing.T) {
	for name, tc := range map[string]struct {
		tools    map[string]string
		want     string
		erased   bool
		detached string // the last one
	}{
		"zstd is missing":      {map[string]string{"zstd": ""}, "zstd is missing", false, ""},
		"partclone is missing": {map[string]string{"partclone.restore": ""}, "partclone.restore is missing", false, ""},
		"larger sectors":       {map[string]string{"blockdev": `[ "$1" = --getss ] && echo 4096`}, "has sectors of 4096 bytes", false, ""},
		"zstd fails":           {map[string]string{"zstd": `cat "$3"; exit 1`}, "1 'one': zstd has failed", true, "node-1024"},
		"zstd fails for one":   {map[string]string{"zstd": `cat "$3"; [ "$3" != 2 ]`}, "2: zstd has failed", true, "node-8192"},
		"partclone fails":      {map[string]string{"partclone.restore": `cat >/dev/null; echo no >&2; exit 3`}, "no\n2: partclone.restore has failed", true, "node-8192"},
		"sfdisk fails":         {map[string]string{"sfdisk": `echo erased >>"$0.log"; exit 1`}, "is not whole", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			folder, said, err := restored(t, tc.tools)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(said, tc.want) || strings.Contains(said, "is not whole") != tc.erased {
				t.Errorf("%v\n%s", err, said)
			}
			if _, err := os.Stat(filepath.Join(folder, "sfdisk.log")); (err == nil) != tc.erased {
				t.Errorf("erased: %v", err)
			}
			if detached, _ := os.ReadFile(filepath.Join(folder, "losetup.log")); tc.detached != "" && !strings.HasSuffix(string(detached), "/"+tc.detached+"\n") {
				t.Errorf("attached is still: %s", detached)
			}
		})
	}
}
