#!/usr/bin/env bash
# Compares vmctl with vmdb2 on the same packages, in one run, and prints ratios;
# absolute times mean little across machines. Needs root; make bench runs it.
set -euo pipefail
shopt -s inherit_errexit

vmctl=$(realpath "${VMCTL:-./vmctl}")
here=$(realpath "$(dirname "$0")")
dir=$(mktemp -d)
user=vmctl-bench-$$ # an ordinary one
export XDG_STATE_HOME=$dir/state
trap '"$vmctl" clean bench >/dev/null 2>&1 || true; userdel "$user" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
export VMCTL_CACHE=$dir/cache

# vmdb2 needs kpartx, and kpartx device mapper; without it, partx does the same.
if [ ! -e /sys/class/misc/device-mapper ]; then
  mkdir bin
  cat >bin/kpartx <<'EOF'
#!/bin/bash
image=${*: -1}
mkdir -p /dev/mapper
if [[ $1 == -a* ]]; then
  loop=$(losetup --find --show "$image")
  partx --update "$loop" >/dev/null 2>&1 || partx --add "$loop" >&2
  for part in "$loop"p*; do
    ln -sf "$part" "/dev/mapper/${part##*/}"
    echo "add map ${part##*/} (254:0): 0 100 linear 7:0 2048"
  done
else
  for loop in $(losetup --noheadings --output NAME --associated "$image"); do
    for part in "$loop"p*; do rm -f "/dev/mapper/${part##*/}"; done
    partx --delete "$loop" || true
    losetup --detach "$loop"
  done
fi
EOF
  chmod +x bin/kpartx
  PATH=$dir/bin:$PATH
fi

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
cat >peer.vmdb <<EOF
steps:
  - {mkimg: "{{ output }}", size: 2G}
  - {mklabel: msdos, device: "{{ output }}"}
  - {mkpart: primary, device: "{{ output }}", start: 1M, end: 100%, tag: root}
  - {kpartx: "{{ output }}"}
  - {mkfs: ext4, partition: root}
  - {mount: root}
  - {unpack-rootfs: root}
  - {debootstrap: trixie, mirror: "$mirror", target: root, variant: minbase, unless: rootfs_unpacked}
  - {apt: install, tag: root, packages: [linux-image-amd64, systemd-sysv, dbus, udev, openssh-server, iproute2, python3], unless: rootfs_unpacked}
  - {cache-rootfs: root, unless: rootfs_unpacked}
  - {fstab: root}
  - {grub: bios, tag: root, console: serial}
EOF

seconds() { # runs the rest, prints its wall time
  local start end
  start=$(date +%s.%N)
  "$@" >>log 2>&1
  end=$(date +%s.%N)
  awk -v a="$start" -v b="$end" 'BEGIN { printf "%.1f", b - a }'
}
best() { printf '%s\n' "$@" | sort -g | head -n 1; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

chmod 755 "$dir"
install -m 755 "$vmctl" vmctl
touch /etc/subuid /etc/subgid
useradd --create-home --home-dir "$dir/home" "$user"
if ! grep -q "^$user:" /etc/subuid; then usermod --add-subuids 16777216-16842751 --add-subgids 16777216-16842751 "$user"; fi
rootless() { # runs vmctl as the ordinary user, in its home
  env --chdir="$dir/home" -u VMCTL_CACHE HOME="$dir/home" setpriv --reuid="$user" --regid="$user" --clear-groups "$dir/vmctl" "$@"
}

rounds=${ROUNDS:-2}
ours=999999 peers=999999 users=999999
for ((i = 0; i < rounds; i++)); do # in turn, the best of each
  t=$(seconds vmdb2 peer.vmdb --output "peer-$i.img" --rootfs-tarball "peer-$i.tar.gz" --log peer.log)
  peers=$(printf '%s\n' "$peers" "$t" | sort -g | head -n 1)
  rm -f "peer-$i.img" "peer-$i.tar.gz"
  t=$(seconds "$vmctl" build debian --no-test --format raw --no-cache -o raw)
  ours=$(printf '%s\n' "$ours" "$t" | sort -g | head -n 1)
  t=$(seconds rootless build debian --no-test --format raw --no-cache)
  users=$(printf '%s\n' "$users" "$t" | sort -g | head -n 1)
done
rootless cache gc --cache-limit 1M >>log 2>&1
echo "cold build to a raw disk: vmctl $ours s, vmdb2 $peers s, ratio $(ratio "$ours" "$peers")"
echo "cold build of an ordinary user: $users s, $(ratio "$users" "$ours") of root's"

# What a second call, a second build and a second edit cost.
rebuild=$(seconds vmdb2 peer.vmdb --output peer.img --rootfs-tarball "peer.tar.gz" --log peer.log)
rebuild=$(seconds vmdb2 peer.vmdb --output peer.img --rootfs-tarball "peer.tar.gz" --log peer.log)
rm -f peer.img
t=$(seconds "$vmctl" build debian --no-test --format raw -o raw)
echo "unchanged build: $t s"
edit() { printf 'commands:\n  - run: nginx -t\n  - run: echo %s >/late\n' "$1" >commands.d/site.yml; }
mkdir -p install.d commands.d
printf 'extends: debian\ninstall: [{packages: [nginx-light]}]\n' >install.d/site.yml
edit zero
"$vmctl" build site --no-test --format raw -o raw >>log 2>&1
edit one
"$vmctl" build site --no-test --format raw -o raw >>log 2>&1
edit two
t=$(seconds "$vmctl" build site --no-test --format raw -o raw)
echo "last command changed for the second time: vmctl $t s, vmdb2 from its tarball $rebuild s, ratio $(ratio "$t" "$rebuild")"
for name in one two; do
  printf 'extends: debian\n' >"install.d/$name.yml"
  printf 'commands: [{run: touch /%s}]\n' "$name" >"commands.d/$name.yml"
done
VMCTL_CACHE=$dir/store-alone
alone=$(seconds "$vmctl" build one --no-test --format raw -o alone)
VMCTL_CACHE=$dir/store-both
both=$(seconds "$vmctl" build one two --jobs 2 --no-test --format raw -o both)
echo "two builds that share debian: $both s, one of them alone $alone s, ratio $(ratio "$both" "$alone")"
VMCTL_CACHE=$dir/store-small
"$vmctl" build debian --no-test --format raw -o small >>log 2>&1
before=$(du -s --block-size=1 "$VMCTL_CACHE" | cut -f 1)
for i in 0 1 2 3 4 5 6 7 8 9; do
  printf 'extends: debian\n' >"install.d/child$i.yml"
  printf 'commands: [{run: echo %s >/etc/child}]\n' "$i" >"commands.d/child$i.yml"
  "$vmctl" build "child$i" --no-test --format raw -o small >>log 2>&1
done
after=$(du -s --block-size=1 "$VMCTL_CACHE" | cut -f 1)
echo "store after ten builds that extend debian by a file: $(ratio "$after" "$before") of debian alone"
rm -rf small alone both store-*
VMCTL_CACHE=$dir/cache

# What entries cost above a layer with one empty file, and the same work by vmdb2's step
# ansible, for files a tenth of it.
layer() { # builds a definition, prints the time of its own layer
  "$vmctl" build "$1" --no-test --format raw -o raw >>log 2>&1
  awk -F': |,$' -v layer="\"Layer $1\"" '
    /"stage"/ { stage = $2 }
    /"seconds"/ && stage == layer { printf "%.2f", $2 }' "raw/$1/build.json"
}
above() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", a - b }'; }
peer() { # runs a playbook by vmdb2, prints the time above that without it
  { cat peer.vmdb; printf '  - {ansible: root, playbook: %s}\n' "$1"; } >with.vmdb
  local t
  t=$(seconds vmdb2 with.vmdb --output peer.img --rootfs-tarball peer.tar.gz --log peer.log)
  rm -f peer.img
  above "$t" "$rebuild"
}
row() { # a row: what it is, its definition, the playbook that a peer does it with
  local t
  t=$(layer "$2")
  printf '%s: %s s above an empty layer' "$1" "$(above "$t" "$empty")"
  if [ -n "${3:-}" ]; then
    t=$(peer "$3")
    printf ', vmdb2 %s s' "$t"
  fi
  echo
}
key='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2eqqFVuNxmEuAyFpHPKUkOGyMSW0ZZtEIXqkKOsJYz'
mkdir -p roles/bench/tasks
for name in empty files entries commands users role facts; do printf 'extends: debian\n' >"install.d/$name.yml"; done
printf 'install: [{files: [{path: /srv/empty, content: ""}]}]\n' >>install.d/empty.yml
{ printf 'install:\n- files:\n' && for i in {1..1000}; do printf '  - {path: /srv/%s, content: "%s"}\n' "$i" "$i"; done; } >>install.d/files.yml
{ printf 'install:\n' && for i in {1..200}; do printf -- '- {files: [{path: /srv/%s, content: "%s"}]}\n' "$i" "$i"; done; } >>install.d/entries.yml
{ printf 'commands:\n' && for i in {1..100}; do printf -- '- {run: touch /srv/%s}\n' "$i"; done; } >commands.d/commands.yml
{ printf 'install:\n- users:\n' && for i in {1..50}; do printf '  - {name: user%s, ssh_keys: ["%s user%s"]}\n' "$i" "$key" "$i"; done; } >>install.d/users.yml
printf 'install: [{roles: [bench]}]\n' >>install.d/role.yml
printf 'commands: [{run: "touch /srv/{{ ansible_machine }}"}]\n' >commands.d/facts.yml
cat >roles/bench/tasks/main.yml <<'EOF'
- ansible.builtin.copy: {content: "a\n", dest: /srv/a}
- ansible.builtin.lineinfile: {path: /srv/a, line: b}
- ansible.builtin.file: {path: /srv/folder, state: directory}
- ansible.builtin.command: touch /srv/b
EOF
printf -- '- hosts: image\n  tasks:\n  - copy: {content: "{{ item }}", dest: "/srv/{{ item }}"}\n    loop: "{{ range(100) }}"\n' >files.yml
cat >users.yml <<EOF
- hosts: image
  tasks:
  - user: {name: "user{{ item }}"}
    loop: "{{ range(50) }}"
  - authorized_key: {user: "user{{ item }}", key: "$key"}
    loop: "{{ range(50) }}"
EOF
printf -- '- {hosts: all, roles: [bench]}\n' >role.yml
mkdir hand
tar -xf peer.tar.gz -C hand
hand=$(seconds ansible-playbook --connection community.general.chroot --inventory "$dir/hand," role.yml)
empty=$(layer empty)
row "1,000 files in one entry (vmdb2: 100)" files files.yml
row "200 entries of one file each" entries
row "100 commands" commands
row "50 users with keys" users users.yml
t=$(layer role)
echo "a role: $(above "$t" "$hand") s above ansible-playbook by hand, $hand s"
row "facts, and a command that reads one" facts
rm -rf hand

# What of the build is spent outside mmdebstrap, dpkg, initramfs and Ansible.
awk -F'[:,]' '
  /"stage"/ { gsub(/[" ]/, "", $2); stage = $2 }
  /"seconds"/ && stage { if (stage !~ /^(Inputs|Source|Layer.*|Initramfs|Bootloader|Boottest)$/) own += $2; stage = "" }
  END { printf "stages of vmctl itself: %.1f s\n", own }' raw/debian/build.json
# The peak of vmctl's own two processes, not of the tools that they run.
"$vmctl" build debian --no-test --no-cache --format raw -o memory >>log 2>&1 &
build=$!
peak=0
while kill -0 "$build" 2>/dev/null; do
  for exe in /proc/[0-9]*/exe; do
    if [ "$(readlink "$exe")" = "$vmctl" ]; then
      kb=$(awk '/VmHWM/ { print $2 }' "${exe%/exe}/status" 2>/dev/null || true)
      if [ "${kb:-0}" -gt "$peak" ]; then peak=$kb; fi
    fi
  done
  sleep 0.5
done
wait "$build"
echo "memory of vmctl: $((peak / 1024)) MB at its peak"

"$vmctl" build debian --no-test -o qcow2 >>log 2>&1
echo "qcow2: $(awk -v b="$(stat -c %s qcow2/debian/*.qcow2)" 'BEGIN { printf "%.1f", b / 1e6 }') MB"

image=$(echo qcow2/debian/*.qcow2)
printf 'extends: debian\n' >install.d/ten.yml
{ printf 'install:\n- files:\n' && for i in {1..10}; do printf '  - {path: /srv/%s, content: "%s"}\n' "$i" "$i"; done; } >>install.d/ten.yml
"$vmctl" build ten --no-test -o qcow2 >>log 2>&1
different() { "$vmctl" diff "$@" || [ $? -eq 1 ]; }
echo "diff of two qcow2 that differ in ten files: $(seconds different qcow2/debian qcow2/ten) s"
one=$(seconds "$vmctl" test "$image" --firmware secureboot --logs one)
three=$(seconds "$vmctl" test "$image" --logs three)
echo "boot test: three firmwares $three s, one $one s, ratio $(ratio "$three" "$one")"

# A machine that can be logged in to, against a boot until systemd says that all is up.
bios=$(seconds "$vmctl" test "$image" --firmware bios --logs bios)
launched=$(seconds "$vmctl" launch "$image" --name bench --firmware bios --timeout 10m)
"$vmctl" clean bench >>log 2>&1
echo "launch, until ssh answers: $(above "$launched" "$bios") s above the guest's boot, $bios s"

# All disk formats of an image at the same time; vmctl reads back what it has written.
declare -A formats=([raw]=raw [vmdk]="vmdk -o subformat=streamOptimized" [vhdx]=vhdx [vdi]=vdi [vhd]="vpc -o subformat=fixed,force_size=on")
all() { # runs a function for each format, at the same time
  local format pids=()
  for format in "${!formats[@]}"; do
    "$1" "$format" &
    pids+=($!)
  done
  for format in "${pids[@]}"; do wait "$format"; done
}
convert() { "$vmctl" convert "$image" "$1" -o "converted-$1"; }
# shellcheck disable=SC2086
plainly() { qemu-img convert -f qcow2 -O ${formats[$1]} "$image" "plain.$1"; }
converted=999999 plain=999999
for ((i = 0; i < rounds; i++)); do
  t=$(seconds all plainly)
  plain=$(best "$plain" "$t")
  t=$(seconds all convert)
  converted=$(best "$converted" "$t")
  rm -rf plain.* converted-*
done
echo "all disk formats of an image: vmctl $converted s, qemu-img $plain s, $(ratio "$plain" "$converted") of its speed"

for verb in list "show webserver" lint; do
  # shellcheck disable=SC2086
  t=$(seconds bash -c "for i in {1..20}; do '$vmctl' $verb; done")
  echo "vmctl $verb: $(awk -v t="$t" 'BEGIN { printf "%.0f", t * 50 }') ms"
done

# Publishing a blob of 2 GiB over loopback, against skopeo, with Debian's registry:
# an empty one for each push.
mkdir -p blob
head -c 2G /dev/urandom >blob/blob.raw
sum=$(sha256sum blob/blob.raw | cut -c-64)
cat >blob/build.json <<EOF
{"id": "bench", "name": "blob", "architecture": "amd64", "created": "2026-01-01T00:00:00Z", "disk": {"size": 2147483648, "sha256": "$sum"},
 "outputs": [{"name": "blob.raw", "format": "raw", "size": 2147483648, "virtual_size": 2147483648, "sha256": "$sum"}]}
EOF
echo '[]' >blob/packages.json
(cd blob && sha256sum blob.raw build.json packages.json >SHA256SUMS)
"$vmctl" push blob oci:layout --force-untested >>log 2>&1
tag=20260101.1-amd64 # of the leaf

registry_program=$("$here/debian-registry.sh" package 2>>log)
registry=
start_registry() {
  rm -rf registry
  cat >registry.yml <<'EOF'
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: registry}}
http: {addr: "127.0.0.1:5999"}
EOF
  "$registry_program" serve registry.yml >>log 2>&1 &
  registry=$!
  until curl --silent --fail --output /dev/null http://127.0.0.1:5999/v2/; do sleep 0.1; done
}
stop_registry() {
  kill "$registry"
  wait "$registry" 2>/dev/null || true
}
us=127.0.0.1:5999/vmctl them=docker://127.0.0.1:5999/skopeo:1
our_push=999999 their_push=999999 our_pull=999999 their_pull=999999
for ((i = 0; i < rounds; i++)); do
  start_registry
  their_push=$(best "$their_push" "$(seconds skopeo copy --dest-tls-verify=false "oci:layout:$tag" "$them")")
  their_pull=$(best "$their_pull" "$(seconds skopeo copy --src-tls-verify=false "$them" "dir:skopeo-$i")")
  stop_registry
  rm -rf "skopeo-$i"
  start_registry
  our_push=$(best "$our_push" "$(seconds "$vmctl" push blob "$us" --force-untested)")
  our_pull=$(best "$our_pull" "$(seconds "$vmctl" pull "$us" -o "pulled-$i")")
  rm -rf "pulled-$i"
  if ((i < rounds - 1)); then stop_registry; fi
done
echo "push of 2 GiB: vmctl $our_push s, skopeo $their_push s, $(ratio "$their_push" "$our_push") of its throughput"
echo "pull of 2 GiB: vmctl $our_pull s, skopeo $their_pull s, $(ratio "$their_pull" "$our_pull") of its throughput"
echo "pushed again: $("$vmctl" push blob "$us" --force-untested --json 2>>log | awk -F'[:,]' '/"uploaded"/ { print $2 + 0 }') bytes of blobs sent"

peak_of() { # runs the rest, prints its peak memory in MB
  local peak=0 kb
  "$@" >>log 2>&1 &
  while kill -0 $! 2>/dev/null; do
    kb=$(awk '/VmHWM/ { print $2 }' "/proc/$!/status" 2>/dev/null || true)
    if [ "${kb:-0}" -gt "$peak" ]; then peak=$kb; fi
    sleep 0.05
  done
  wait $!
  echo $((peak / 1024))
}
echo "memory: push $(peak_of "$vmctl" push blob "127.0.0.1:5999/other" --force-untested) MB, pull $(peak_of "$vmctl" pull "$us" -o again) MB"
stop_registry
