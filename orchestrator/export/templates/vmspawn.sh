#!/bin/sh
# {{.Description | line}}: made by 'vmctl export systemd-vmspawn'. The machine writes to the disk beside
# this script. It needs the package systemd-container of Debian 13 or newer.
set -eu
exec systemd-vmspawn --machine={{.Host | word}} --image="$(dirname "$0")"/{{.File | word}} --ram={{.MiB}}M --cpus={{.CPUs}} \
  --secure-boot={{yes .SecureBoot}} --network-user-mode{{if .Key}} \
  --set-credential={{printf "ssh.authorized_keys.root:%s" .Key | word}}{{end}} "$@"
