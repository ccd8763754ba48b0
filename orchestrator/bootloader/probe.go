package bootloader

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// The tools with which update-grub asks about the disk.
const (
	probeTool   = "/usr/sbin/grub-probe"
	relpathTool = "/usr/bin/grub-mkrelpath"
	byUUID      = "/dev/disk/by-uuid/"
)

// updateGrub runs Debian's own update-grub in a tree that lies on no disk: stand-ins
// answer what it asks about the disk to come.
func updateGrub(ctx context.Context, h host.Host, p Plan, t Target) (err error) {
	var stack scope.Stack
	defer stack.CloseInto(&err)
	tree := host.Tree(t.Root)
	for _, standIn := range []struct{ tool, script string }{{probeTool, p.probeScript()}, {relpathTool, p.relpathScript()}} {
		target, err := tree.Path(standIn.tool)
		if err != nil {
			return err
		}
		file := filepath.Join(t.Scratch, filepath.Base(standIn.tool))
		if err := os.WriteFile(file, []byte(standIn.script), 0o755); err != nil {
			return err
		}
		unmount, err := h.Mount(host.Bind(file, target, true))
		if err != nil {
			return err
		}
		stack.Push("unmount "+target, unmount)
	}
	// grub-mkconfig writes root=UUID= only where udev has such a link.
	for _, v := range p.Volumes {
		if err := tree.Symlink("/dev/null", byUUID+v.UUID); err != nil {
			return err
		}
	}
	stack.Push("remove the links of udev", func() error { return tree.RemoveAll("/dev/disk") })
	return h.Run(ctx, host.Cmd("update-grub").In(t.Root))
}

// volumes is the file systems, the deepest mount first: the first whose mount point
// begins a path is the one that holds it.
func (p Plan) volumes() []Volume {
	sorted := slices.Clone(p.Volumes)
	slices.SortStableFunc(sorted, func(a, b Volume) int { return cmp.Compare(len(b.Mount), len(a.Mount)) })
	return sorted
}

// probeScript stands in for grub-probe(8). A path is told by the file system that will
// hold it, a device by the name that --target=device has given.
func (p Plan) probeScript() string {
	var b strings.Builder
	b.WriteString(`#!/bin/sh
# grub-probe(8) of a disk that is still to be made.
target=fs name= fs=
while [ $# -gt 0 ]; do
	case $1 in
	--target=*) target=${1#*=} ;;
	-t|--target) target=$2; shift ;;
	-m|--device-map) shift ;;
	-*) ;;
	*) name=$1 ;;
	esac
	shift
done
case $name in
/dev/*) ;;
*) name=$(readlink -e "$name") || exit 1 ;;
esac
case $name/ in
`)
	var devices, mounts strings.Builder
	for _, v := range p.volumes() {
		known := fmt.Sprintf("fs=%s uuid=%s label=%s part=%d partuuid=%s ;;\n", filesystem.Named(v.Filesystem).GRUB, v.UUID, text.Word(v.Label), v.Partition, strings.ToLower(v.PartUUID))
		fmt.Fprintf(&devices, "%s/) %s", byUUID+v.UUID, known)
		fmt.Fprintf(&mounts, "%s/*) %s", text.Word(strings.TrimSuffix(v.Mount, "/")), known)
	}
	b.WriteString(devices.String() + "/dev/*) ;;\n" + mounts.String())
	b.WriteString(`esac
[ "$fs" ] || { echo "grub-probe: $name is on no disk" >&2; exit 1; }
case $target in
fs) echo "$fs" ;;
fs_uuid) echo "$uuid" ;;
fs_label) printf '%s\n' "$label" ;; # which may begin with a dash, or hold backslashes
partuuid) echo "$partuuid" ;;
partmap) echo gpt ;;
device) echo "` + byUUID + `$uuid" ;;
disk) echo /dev/disk/by-uuid ;;
drive) echo "(hd0,gpt$part)" ;;
compatibility_hint) echo "hd0,gpt$part" ;;
bios_hints|efi_hints) echo "hd0,gpt$part" ;;
baremetal_hints) echo "ahci0,gpt$part" ;;
zero_check) echo false ;;
hints_string) echo "--hint-bios=hd0,gpt$part --hint-efi=hd0,gpt$part --hint-baremetal=ahci0,gpt$part" ;;
abstraction|cryptodisk_uuid|msdos_parttype|gpt_parttype|arc_hints|ieee1275_hints) ;;
*) echo "grub-probe: what is --target=$target?" >&2; exit 1 ;;
esac
`)
	return b.String()
}

// relpathScript stands in for grub-mkrelpath(1): a path inside its own file system, of
// whose root nothing is left.
func (p Plan) relpathScript() string {
	var b strings.Builder
	b.WriteString(`#!/bin/sh
# grub-mkrelpath(1) of a disk that is still to be made.
for name; do :; done
name=$(readlink -e "$name") || exit 1
case $name/ in
`)
	for _, v := range p.volumes() {
		mount := text.Word(strings.TrimSuffix(v.Mount, "/"))
		fmt.Fprintf(&b, "%s/*) name=${name#%s} ;;\n", mount, mount)
	}
	b.WriteString(`esac
printf '%s\n' "${name%/}"
`)
	return b.String()
}
