package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/machine"
)

func TestWhichDiskOfABuildCounts(t *testing.T) {
	const inImages, inRelease = "images/debian/debian.qcow2", "release/debian/debian.qcow2"
	for name, tc := range map[string]struct {
		chosen bool
		edited bool
		gone   string // folder
		want   string // "" for none
	}{
		"the file in conf.d":           {want: inRelease},
		"an edited one":                {edited: true, want: inRelease},
		"the folder that was chosen":   {chosen: true, want: inImages},
		"whatever was edited":          {chosen: true, edited: true, want: inImages},
		"no other than the chosen one": {chosen: true, gone: "images"},
		"what is left":                 {gone: "release", want: inImages},
		"nothing but what was edited":  {edited: true, gone: "release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			conf := machine.Conf{Disk: inRelease, Settings: machine.Defaults()}
			conf.CPUs = 7
			for _, folder := range []string{"images/debian", "release/debian"} {
				if err := writeBuild(folder); err != nil {
					t.Fatal(err)
				}
			}
			if err := conf.WriteConf(".", "debian", files.Owner{}); err != nil {
				t.Fatal(err)
			}
			if tc.edited {
				path := machine.ConfPath(".", "debian")
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(strings.Replace(string(content), "memory = 1G", "memory = 2G", 1)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if tc.gone != "" {
				if err := os.RemoveAll(tc.gone); err != nil {
					t.Fatal(err)
				}
			}
			from, err := findOrigin(&definitions{dir: "."}, buildsFolder{"images", tc.chosen}, "debian")
			if tc.want == "" {
				if fail.ExitCode(err) != 2 {
					t.Errorf("%s, %v", from.path, err)
				}
				return
			}
			if err != nil || filepath.Clean(from.path) != tc.want || from.format != "qcow2" || from.conf.CPUs != 7 {
				t.Errorf("%s (%s), %+v, %v", from.path, from.format, from.conf, err)
			}
		})
	}
}

func TestWhatIsMistypedIsNoReference(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, folder := range []string{"images/empty", "oci:images"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"images/missing.qcow2", "images/missing", "images/empty", "./missing", "../a/b:13", "/missing/a", "missing/disk.img", "registry.example/lab/debian.qcow2", "missing.raw", "missing"} {
		from, err := findOrigin(&definitions{dir: "."}, buildsFolder{path: "images"}, path)
		if isReference(path) || from.ref != "" || fail.ExitCode(err) != 2 || fail.Hint(err) == "" {
			t.Errorf("%s: reference %q, %v", path, from.ref, err)
		}
		if _, _, err := findImage(path, "images"); fail.ExitCode(err) != 2 || fail.Hint(err) == "" {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, ref := range []string{"registry.example/lab/debian", "registry.example/lab/debian:13.raw", "localhost:5000/debian:13", "oci:images/debian:13", "oci-archive:./debian.img", "image/debian:13"} {
		if from, err := findOrigin(&definitions{dir: "."}, buildsFolder{path: "images"}, ref); !isReference(ref) || from.ref != ref || err != nil {
			t.Errorf("%s: reference %q, %v", ref, from.ref, err)
		}
	}
}
