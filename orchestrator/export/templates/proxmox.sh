#!/bin/sh
# {{.Description | line}}: made by 'vmctl export proxmox'. Run it on a Proxmox VE host, where the
# image lies beside this script:
#
#   sh {{.Script | word}} VMID [STORAGE [BRIDGE]]
set -eu
vmid=${1:?usage: $0 VMID [STORAGE [BRIDGE]]} storage=${2:-local-lvm} bridge=${3:-vmbr0}
image=$(realpath "$(dirname "$0")")/{{.File | word}}
qm create "$vmid" --name {{.Host | word}} --ostype l26 --memory {{.MiB}} --cores {{.CPUs}} --cpu host --machine {{.QEMUMachine}} \
  --bios {{if .BIOS}}seabios{{else}}ovmf --efidisk0 "$storage:1,efitype=4m,pre-enrolled-keys={{if .SecureBoot}}1{{else}}0{{end}}"{{end}} \
  --scsihw virtio-scsi-single --net0 "virtio,bridge=$bridge" --serial0 socket --rng0 source=/dev/urandom{{if .Credential}} \
  --args {{printf "-smbios type=11,value=%s" .Credential | word}}{{end}}
qm set "$vmid" --scsi0 "$storage:0,import-from=$image,discard=on,iothread=1" --boot order=scsi0
echo "qm start $vmid"
