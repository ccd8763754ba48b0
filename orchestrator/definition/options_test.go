package definition_test

import (
	"strings"
	"testing"
)

func TestMountOptions(t *testing.T) {
	for _, tc := range []struct {
		filesystem, options string
		want                string // the report, "" for none
	}{
		{"ext4", "errors=remount-ro,noatime,commit=30", ""},
		{"vfat", "errors=remount-ro,umask=0077,utf8,utf8=1", ""},
		{"xfs", "defaults,logbufs=8,inode64,nofail", ""},
		{"btrfs", "compress,compress=zstd:3,subvol=@,discard=async", ""},
		{"ext4", "x-systemd.device-timeout=5s,X-mount.mkdir,x-anything,_netdev,ro", ""},
		{"ext4", `context="system_u:object_r:tmp_t:s0:c127,c456",noexec`, ""},
		{"swap", "sw,pri=5,discard=pages,x-systemd.automount", ""},
		{"xfs", "errors=remount-ro", `xfs does not know the mount option "errors=remount-ro": remove it; it is an option of ext4 and vfat`},
		{"btrfs", "noatime,errors=remount-ro", `btrfs does not know the mount option "errors=remount-ro": remove it; it is an option of ext4 and vfat`},
		{"ext4", "compress=zstd", `ext4 does not know the mount option "compress=zstd": remove it; it is an option of btrfs`},
		{"swap", "noatime", `swap does not know the mount option "noatime": remove it; it is an option of btrfs and ext4 and vfat and xfs`},
		{"ext4", "noatme", `ext4 does not know the mount option "noatme": did you mean "noatime"?`},
		{"ext4", "comit=5", `ext4 does not know the mount option "comit=5": did you mean "commit="?`},
		{"ext4", "noatime=1", `ext4 does not know the mount option "noatime=1": write noatime without a value`},
		{"ext4", "errors", `ext4 does not know the mount option "errors": write errors=VALUE`},
		{"ext4", "errors=", `ext4 does not know the mount option "errors=": write errors=VALUE`},
		{"ext4", "frobnicate", `ext4 does not know the mount option "frobnicate": remove it or correct it`},
		{"ext4", "noatime,,ro", `options "noatime,,ro" hold a comma too many`},
		{"ext4", ",ro", `options ",ro" hold a comma too many`},
		{"ext4", "ro,", `options "ro," hold a comma too many`},
		{"ext4", "ro, noatime", `options "ro, noatime" hold a space`},
		{"ext4", "{{ options }}", "mount options are no template"},
	} {
		partition := "    - {filesystem: " + tc.filesystem + ", size: 1G, mount: /srv, options: '" + tc.options + "'}\n"
		if tc.filesystem == "swap" {
			partition = strings.Replace(partition, "mount: /srv, ", "", 1)
		}
		got := mistakes(map[string]string{"install.d/x.yml": base + "disk:\n  size: 4G\n  layout:\n    - {type: bios}\n" + partition + "    - {filesystem: ext4, mount: /}\n"})
		var want []string
		if tc.want != "" {
			want = []string{"install.d/x.yml:6: disk.layout: " + tc.want}
		}
		t.Run(tc.filesystem+" "+tc.options, func(t *testing.T) { beginWith(t, got, want) })
	}
	beginWith(t, mistakes(map[string]string{"install.d/x.yml": base + "disk: {layout: [{type: bios, options: ro}, {filesystem: ext4, mount: /}]}"}),
		[]string{"install.d/x.yml:2: disk.layout: a BIOS boot partition has no file system"})
}
