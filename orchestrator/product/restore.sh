#!/bin/sh
# Writes {{.Name}} onto a disk, which loses all that it holds:
#
#     sh {{word .Restore}} /dev/DISK
#
# It needs sfdisk, losetup, zstd and partclone, and the files that begin like its own name beside
# it. The disk may be larger than {{.Size}} bytes; what is more stays free. Unless all is written,
# it says so and ends with another status than 0.
set -eu
disk=$(readlink -f "${1:?name the disk, as in /dev/sda}")
cd "$(dirname "$0")"
refuse() {
	echo "$1" >&2
	exit 1
}
for tool in{{range .Tools}} {{.}}{{end}}; do
	if ! command -v "$tool" > /dev/null; then refuse "$tool is missing"; fi
done
sha256sum --check --quiet <<'END'
{{range .Sums}}{{.}}
{{end}}END
if grep -q "^$disk" /proc/mounts; then refuse "$disk is mounted"; fi
size=$(blockdev --getsize64 "$disk" 2>/dev/null || stat -c %s "$disk")
if [ "$size" -lt {{.Size}} ]; then refuse "$disk has $size bytes; {{.Size}} are needed"; fi
sector=$(blockdev --getss "$disk" 2>/dev/null || echo {{.SectorSize}})
if [ "$sector" -ne {{.SectorSize}} ]; then refuse "$disk has sectors of $sector bytes, and the table is of such of {{.SectorSize}}"; fi

loop=
ended() {
	status=$?
	if [ -n "$loop" ]; then losetup --detach "$loop" || true; fi
	if [ "$status" -ne 0 ]; then echo "$disk is not whole" >&2; fi
}
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

# at NUMBER OFFSET SIZE: the device of a partition, also where the kernel shows none.
at() {
	case $disk in
	*[0-9]) node=${disk}p$1 ;;
	*) node=$disk$1 ;;
	esac
	if [ ! -b "$node" ]; then
		loop=$(losetup --find --show --offset "$2" --sizelimit "$3" "$disk")
		node=$loop
	fi
}
# into FILE COMMAND…: the file, decompressed, into the command. Of a pipe, sh tells only how the
# last program ended.
into() {
	file=$1
	shift
	whole=$({ { zstd --decompress --stdout "$file" && echo yes >&3; } | "$@" >&2 3>&-; } 3>&1) || refuse "$file: $1 has failed"
	if [ "$whole" != yes ]; then refuse "$file: zstd has failed"; fi
}
gone() {
	sync "$node"
	if [ -n "$loop" ]; then losetup --detach "$loop"; fi
	loop=
}

sfdisk --quiet --wipe always --wipe-partitions always "$disk" < {{word .Script}}
if command -v udevadm > /dev/null; then udevadm settle || true; fi
dd if={{word .Boot}} of="$disk" bs=440 count=1 conv=notrunc status=none
{{range .Partitions}}
at {{.Number}} {{.Start}} {{.Size}}
{{- if eq .Format "partclone"}}
into {{word .File}} partclone.restore --quiet --logfile /dev/null --source - --output "$node"
{{- else}}
into {{word .File}} dd of="$node" bs=1M iflag=fullblock conv=notrunc status=none
{{- end}}
gone
{{end}}
sync "$disk"
