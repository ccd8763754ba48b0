package orchestrator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
)

func TestReadBuiltReadsTheLayoutsOfOlderBuilds(t *testing.T) {
	for layout, want := range map[string]string{
		`"hybrid"`: `"hybrid"`, `{"Name": "hybrid", "Partitions": null}`: `"hybrid"`,
		`{"Name": "", "Partitions": [{"mount": "/", "filesystem": "xfs"}]}`: `[{"filesystem":"xfs","mount":"/"}]`,
	} {
		folder := t.TempDir()
		for name, content := range map[string]string{
			ManifestName: `{"name": "old", "definition": {"name": "old", "disk": {"size": "2G", "layout": ` + layout + `}}}`, PackagesName: "[]",
		} {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		built, err := ReadBuilt(folder)
		if err != nil {
			t.Errorf("%s: %v", layout, err)
			continue
		}
		if disk, err := json.Marshal(built.Definition.Disk); err != nil || string(disk) != `{"size":"2G","layout":`+want+`}` {
			t.Errorf("%s is read as %s, %v", layout, disk, err)
		}
	}
}

func TestAPlanOnItsWayToTheJailKeepsItsLayout(t *testing.T) {
	p := plan(t, "debian")
	p.Definition.Disk.Layout = definition.Layout{Partitions: []definition.Partition{{Type: "bios"}, {Mount: "/", Filesystem: "btrfs", Options: "compress=zstd"}}}
	out, err := json.Marshal(p)
	if err != nil || !strings.Contains(string(out), `"layout":[{"type":"bios"},`) {
		t.Fatalf("%s, %v", out, err)
	}
	var back Plan
	if err := json.Unmarshal(out, &back); err != nil || len(back.Definition.Disk.Layout.Partitions) != 2 {
		t.Errorf("%+v, %v", back.Definition.Disk, err)
	}
}

func TestABuildsRecordsAreRegularFilesAndNoPanics(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, ManifestName), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadBuilt(dir); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("error %v", err)
	}
	for version, want := range map[string]int{"": 0, "257.13-1~deb13u1": 257, "257~rc1-1": 257, "x": 0} {
		if got := (DiskFacts{Packages: []debian.Package{{Name: "systemd", Version: version}}}).systemd(); got != want {
			t.Errorf("%q: %d", version, got)
		}
	}
}
