# {{.Description | line}}: made by 'vmctl export terraform'.

terraform {
  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "~> 0.8.0"
    }
  }
}

variable "name" {
  type    = string
  default = {{.Name | hcl}}
}

variable "memory" {
  type        = number
  default     = {{.MiB}}
  description = "MiB"
}

variable "cpus" {
  type    = number
  default = {{.CPUs}}
}

variable "size" {
  type        = number
  default     = null
  description = "of the disk, in bytes; that of the image otherwise. The root file system takes all of it"
}

resource "libvirt_volume" "image" {
  name   = "${var.name}-image"
  source = "${path.module}/{{.File | hclpart}}"
  format = "{{.QEMUFormat}}"
}

resource "libvirt_volume" "disk" {
  name           = "${var.name}-disk"
  base_volume_id = libvirt_volume.image.id
  size           = var.size
}

resource "libvirt_domain" "machine" {
  name    = var.name
  memory  = var.memory
  vcpu    = var.cpus
  machine = "{{.QEMUMachine}}"
{{- if not .BIOS}}

  firmware = "{{.Code}}"
  nvram {
    file     = "/var/lib/libvirt/qemu/nvram/${var.name}_VARS.fd"
    template = "{{.Vars}}"
  }
{{- end}}

  cpu {
    mode = "host-passthrough"
  }

  disk {
    volume_id = libvirt_volume.disk.id
  }

  network_interface {
    network_name   = "default"
    wait_for_lease = true
  }

  console {
    type        = "pty"
    target_type = "serial"
    target_port = "0"
  }
}

output "addresses" {
  value = libvirt_domain.machine.network_interface[0].addresses
}
