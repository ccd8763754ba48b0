package orchestrator

import (
	"fmt"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

const mib = 1 << 20

// used is a partition with that use, all sizes in MiB.
func used(number int, kind string, start, size int64, filesystem, mount, options string) rawdisk.Use {
	return rawdisk.Use{Partition: rawdisk.Partition{Number: number, Type: kind, Start: start * mib, Size: size * mib}, Filesystem: filesystem, Mount: mount, Options: options}
}

func TestTheDiskOfAnInstaller(t *testing.T) {
	const (
		esp  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
		bios = "21686148-6449-6e6f-744e-656564454649"
	)
	for name, tc := range map[string]struct {
		table string
		uses  []rawdisk.Use
		want  string
	}{
		"debian-installer's usual one": {"mbr", []rawdisk.Use{
			used(5, "82", 7168, 1023, "swap", "", "sw"), used(1, "83", 1, 7166, "ext4", "/", "errors=remount-ro"),
		}, "8192M: bios bios 1M; linux root 7166M ext4 / errors=remount-ro; swap swap rest swap"},
		"for UEFI, with space behind": {rawdisk.GPT, []rawdisk.Use{
			used(1, esp, 1, 511, "vfat", "/boot/efi", "umask=0077"), used(2, "", 512, 1024, "ext4", "/boot", "defaults"), used(3, "", 1536, 4096, "btrfs", "/", "defaults,subvol=@rootfs,compress=zstd"),
		}, "8192M: esp esp 511M vfat /boot/efi umask=0077; linux boot 1024M ext4 /boot; linux root 4096M btrfs / compress=zstd"},
		"for BIOS and GPT": {rawdisk.GPT, []rawdisk.Use{used(1, bios, 1, 1, "", "", ""), used(2, "", 2, 8189, "xfs", "/", "defaults")},
			"8192M: bios bios 1M; linux root rest xfs /"},
		"full": {"mbr", []rawdisk.Use{used(1, "83", 1, 8187, "ext4", "/", ""), used(2, "82", 8188, 4, "swap", "", "")},
			"8194M: bios bios 1M; linux root 8187M ext4 /; swap swap 4M swap"},
		"an ESP in an MBR": {"mbr", []rawdisk.Use{used(1, "ef", 1, 100, "vfat", "", ""), used(2, "83", 101, 2000, "ext4", "/", "")},
			"8192M: bios bios 1M; esp esp 100M vfat; linux root 2000M ext4 /"},
		"below one another": {"none", []rawdisk.Use{used(1, "", 0, 8192, "ext4", "/", "")}, "8192M: bios bios 1M; linux root rest ext4 /"},
		"LVM":               {"mbr", []rawdisk.Use{used(1, "83", 1, 9, "ext4", "/", ""), used(5, "8e", 10, 99, "LVM", "", "")}, "partition 5 has LVM in it, which vmctl does not make"},
		"nothing known":     {"mbr", []rawdisk.Use{used(1, "83", 1, 9, "", "", "")}, "partition 1 has nothing in it that vmctl could make anew"},
		"files of nobody":   {"mbr", []rawdisk.Use{used(1, "83", 1, 9, "ext4", "", "")}, "partition 1 is mounted nowhere, and the files of its ext4 would be lost"},
	} {
		kept, err := keptOf(&rawdisk.System{Table: rawdisk.Table{Kind: tc.table}, Uses: tc.uses}, 8<<30)
		var parts []string
		for _, p := range kept.Partitions {
			size := "rest"
			if p.Size > 0 {
				size = fmt.Sprintf("%dM", p.Size/mib)
			}
			parts = append(parts, strings.Join(strings.Fields(fmt.Sprintln(p.Type, p.Label, size, p.Filesystem, p.Mount, p.Options)), " "))
		}
		got := fmt.Sprintf("%dM: %s", kept.Size/mib, strings.Join(parts, "; "))
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != tc.want || err != nil && (!strings.Contains(got, tc.want) || fail.ExitCode(err) != 4) {
			t.Errorf("%s: %s\nwant %s", name, got, tc.want)
		}
	}
}

func TestLabelsOfAnInstallersDisk(t *testing.T) {
	for _, tc := range []struct{ fs, part, mount, others, want string }{
		{"system", "p1", "/", "", "system"}, {"", "p1", "/", "", "p1"}, {"NO NAME", "EFI System", "/boot/efi", "", "boot-efi"},
		{"data", "", "/srv/www", "data", "srv-www"}, {"a-label-that-is-too-long", "", "/srv", "", "srv"}, {"srv", "srv", "/srv", "srv", ""},
	} {
		use := used(1, "83", 1, 9, "ext4", tc.mount, "")
		use.FilesystemLabel, use.Label = tc.fs, tc.part
		p, err := keptPartition(use, []definition.Partition{{Label: tc.others}})
		if err != nil || p.Label != tc.want {
			t.Errorf("%+v: %q, %v", tc, p.Label, err)
		}
	}
}

// What follows from the disk is planned anew; what the source is made of is not.
func TestAPlanAdoptsTheDiskOfItsInstaller(t *testing.T) {
	d := definition.Definition{Name: "box", Source: definition.Source{Installer: &definition.Installer{KeepDisk: true}}, Outputs: []string{"qcow2"}}
	d.Boot.Timeout = new(1)
	plan, err := NewPlan(d, nil)
	if err != nil || plan.Boot.Boots() || len(plan.Disk.Partitions) != 0 {
		t.Fatalf("%+v, %v", plan.Disk, err)
	}
	kept := keptDisk{Size: 4 << 30, Partitions: []definition.Partition{{Type: "bios", Size: mib}, {Filesystem: "swap", Size: 64 * mib}, {Filesystem: "ext4", Mount: "/"}}}
	with, err := plan.withDisk(kept)
	if err != nil || with.Disk.Size != 4<<30 || len(with.Disk.Partitions) != 3 || !with.Disk.Grow || strings.Join(with.Definition.Firmware, " ") != "bios" || with.Definition.KeepsDisk() || !strings.Contains(with.FSTab, " none swap ") {
		t.Errorf("%+v, %v", with, err)
	}
	for want, change := range map[string]func(*definition.Definition){
		"firmware: uefi needs an ESP":                          func(d *definition.Definition) { d.Firmware = []string{"uefi"} },
		"squashfs holds the files of the tree, and vmctl does": func(d *definition.Definition) { d.Outputs = []string{"squashfs"} },
	} {
		plan := plan
		change(&plan.Definition)
		kept := kept
		if strings.HasPrefix(want, "squashfs") {
			kept.Partitions = []definition.Partition{{Type: "bios", Size: mib}, {Filesystem: "xfs", Mount: "/"}}
		}
		if _, err := plan.withDisk(kept); err == nil || fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), want) || fail.Hint(err) == "" {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
