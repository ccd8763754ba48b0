#!/bin/sh
# Writes {{.Name}} onto a disk, which loses all that it holds:
#
#     sh {{word .Restore}} /dev/DISK
#
# It needs sfdisk, zstd and partclone, and the files that begin like its own name beside it. The
# disk may be larger than {{.Size}} bytes; what is more stays free.
set -eu
disk=$(readlink -f "${1:?name the disk, as in /dev/sda}")
cd "$(dirname "$0")"
sha256sum --check --quiet <<'END'
{{range .Sums}}{{.}}
{{end}}END
if grep -q "^$disk" /proc/mounts; then
	echo "$disk is mounted" >&2
	exit 1
fi
size=$(blockdev --getsize64 "$disk" 2>/dev/null || stat -c %s "$disk")
if [ "$size" -lt {{.Size}} ]; then
	echo "$disk has $size bytes; {{.Size}} are needed" >&2
	exit 1
fi

# at NUMBER OFFSET SIZE: the device of a partition, also where the kernel shows none.
at() {
	case $disk in
	*[0-9]) node=${disk}p$1 ;;
	*) node=$disk$1 ;;
	esac
	loop=
	if [ ! -b "$node" ]; then
		loop=$(losetup --find --show --offset "$2" --sizelimit "$3" "$disk")
		node=$loop
	fi
}
gone() {
	sync "$disk"
	if [ -n "$loop" ]; then losetup --detach "$loop"; fi
}

sfdisk --quiet --wipe always --wipe-partitions always "$disk" < {{word .Script}}
if command -v udevadm > /dev/null; then udevadm settle || true; fi
dd if={{word .Boot}} of="$disk" bs=440 count=1 conv=notrunc status=none
{{range .Partitions}}
at {{.Number}} {{.Start}} {{.Size}}
{{- if eq .Format "partclone"}}
zstd --decompress --stdout {{word .File}} | partclone.restore --quiet --logfile /dev/null --source - --output "$node"
{{- else}}
zstd --decompress --stdout {{word .File}} | dd of="$node" bs=1M iflag=fullblock conv=notrunc status=none
{{- end}}
gone
{{end}}
