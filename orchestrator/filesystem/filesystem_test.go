package filesystem_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
)

const id = "0123abcd-0000-4000-8000-000000000000"

// A row that forgets something fails here, and not in the build that meets it.
func TestEveryRowIsWhole(t *testing.T) {
	for _, name := range filesystem.Names(nil) {
		t.Run(name, func(t *testing.T) {
			fs := filesystem.Named(name)
			has := func(program string) bool {
				return slices.ContainsFunc(fs.Tools, func(tool debian.Tool) bool { return tool.Name == program && tool.Package != "" })
			}
			if fs.Smallest <= 0 || fs.LongestLabel <= 0 || len(fs.Options) == 0 || !fs.HasOption(fs.Usual) {
				t.Errorf("a limit or an option is missing: %+v", fs)
			}
			if fs.Mountable() && (fs.GRUB == "" || fs.Package == "" || fs.Fsck == nil) {
				t.Error("what can be mounted needs GRUB's module, a package and a check")
			}
			if fs.Mountable() == (fs.Filling == filesystem.Never) || (fs.Filling == filesystem.ByMtools) != (fs.Holds == filesystem.Files) {
				t.Error("content and filling contradict each other")
			}
			volume := filesystem.Volume{UUID: fs.UUID(id), Label: "LABEL"}
			target := filesystem.Target{File: "TARGET"}
			mkfs := fs.Mkfs(volume, target, "FOLDER")
			if !has(mkfs.Path) {
				t.Errorf("the host's tools lack %s", mkfs.Path)
			}
			line := " " + mkfs.String()
			if !strings.HasSuffix(line, " TARGET") || !strings.Contains(line, " LABEL ") || strings.Contains(line, " FOLDER ") != (fs.Filling == filesystem.ByMkfs) {
				t.Errorf("argv: %s", line)
			}
			if plain := fs.Mkfs(filesystem.Volume{UUID: volume.UUID}, target, "").String(); strings.Contains(plain, "''") {
				t.Errorf("argv without a label and a folder: %s", plain)
			}
			if !strings.Contains(strings.ReplaceAll(line, "-", ""), strings.ReplaceAll(volume.UUID, "-", "")) {
				t.Errorf("argv lacks the UUID: %s", line)
			}
			if fs.Fsck != nil && !has(fs.Fsck(target).Path) {
				t.Errorf("the host's tools lack %s", fs.Fsck(target).Path)
			}
		})
	}
}

func TestWhatHasNoUUIDHasASerialNumber(t *testing.T) {
	for name, want := range map[string]string{filesystem.VFAT: "0123-ABCD", filesystem.Ext4: id, filesystem.Swap: id} {
		if got := filesystem.Named(name).UUID(id); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestUnknownNamesHaveNoRow(t *testing.T) {
	if filesystem.Named("zfs") != nil || filesystem.Named("") != nil {
		t.Error("a row of nothing")
	}
}
