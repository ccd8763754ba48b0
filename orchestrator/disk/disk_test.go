package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// counted gives identifiers that tests can foresee.
func counted() func(string) string {
	n := 0
	return func(string) string { n++; return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }
}

var disks = map[string]definition.Disk{
	"hybrid": {Size: 2 * definition.GiB, Layout: definition.Layout{Name: "hybrid"}},
	"efi":    {Size: 2 * definition.GiB, Layout: definition.Layout{Name: "efi"}},
	"bios":   {Size: 1 * definition.GiB, Layout: definition.Layout{Name: "bios"}, Grow: new(true)},
	"inline": {Size: 8 * definition.GiB, Layout: definition.Layout{Partitions: []definition.Partition{
		{Type: "bios"},
		{Label: "esp", Size: 256 * definition.MiB, Filesystem: "vfat", Mount: "/boot/efi"},
		{Label: "boot", Size: 512 * definition.MiB, Filesystem: "ext4", Mount: "/boot"},
		{Label: "log", Size: 1 * definition.GiB, Filesystem: "btrfs", Mount: "/var/log", Options: "compress=zstd"},
		{Label: "srv", Size: 1 * definition.GiB, Filesystem: "ext4", Mount: "/srv", Options: "errors=remount-ro,noatime"},
		{Label: "swap", Size: 1 * definition.GiB, Filesystem: "swap"},
		{Label: "swap2", Size: 1 * definition.GiB, Filesystem: "swap", Options: "pri=5"},
		{Label: "root", Filesystem: "xfs", Mount: "/"},
	}}},
}

func TestPlans(t *testing.T) {
	for name, d := range disks {
		t.Run(name, func(t *testing.T) {
			plan, err := disk.New(d, counted())
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			b.WriteString(plan.Script() + "\n")
			for _, part := range plan.Partitions {
				if part.Start%int64(definition.MiB) != 0 {
					t.Errorf("partition %d starts at %d", part.Number, part.Start)
				}
			}
			b.WriteString(plan.Describe("disk.raw", "TREE"))
			b.WriteString("\n" + plan.FSTab())
			golden.Equal(t, name+".golden", b.String())
		})
	}
}

// The rule is written where systemd-repart is and nobody has made other rules.
func TestATreeIsToldToGrow(t *testing.T) {
	plan, err := disk.New(disks["bios"], counted())
	if err != nil {
		t.Fatal(err)
	}
	told := func(plan disk.Plan, files ...string) bool {
		t.Helper()
		root := t.TempDir()
		for _, name := range files {
			if err := host.Tree(root).Write(name, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := plan.LetGrow(root); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(root, "etc/repart.d/50-root.conf"))
		return err == nil && string(content) == "[Partition]\nType=root\n"
	}
	fixed := plan
	fixed.Grow = false
	const repart = "/usr/bin/systemd-repart"
	if !told(plan, repart) || told(plan) || told(fixed, repart) || told(plan, repart, "/etc/repart.d/10-home.conf") {
		t.Error("a tree is told to grow that may not, or one is not that may")
	}
}

func TestHoldingIsTheNearestMount(t *testing.T) {
	plan, err := disk.New(disks["inline"], counted())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][2]string{
		"/boot/grub":    {"boot", "/grub"},
		"/boot":         {"boot", "/"},
		"/bootstrap":    {"root", "/bootstrap"},
		"/var/log/a/b":  {"log", "/a/b"},
		"/boot/efi/EFI": {"esp", "/EFI"},
	} {
		part, inside := plan.Holding(path)
		if part.Label != want[0] || inside != want[1] {
			t.Errorf("Holding(%q) = %s, %s; want %s, %s", path, part.Label, inside, want[0], want[1])
		}
	}
}

func TestADiskThatIsTooSmallIsRefused(t *testing.T) {
	for _, size := range []definition.Size{100 * definition.MiB, 131 * definition.MiB} {
		if _, err := disk.New(definition.Disk{Size: size, Layout: definition.Layout{Name: "hybrid"}}, counted()); err == nil {
			t.Errorf("%s: no error", size)
		}
	}
}
