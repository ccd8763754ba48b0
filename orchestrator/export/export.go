// Package export describes a machine for other programs that run machines. It runs nothing.
package export

import (
	"bytes"
	"embed"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/text"
)

//go:embed templates
var templates embed.FS

// Kind is a program that runs machines.
type Kind struct {
	Name   string
	About  string
	Format string // of the disk beside the description
	// File is the name of the description, with NAME for the machine's.
	File string
	// Uses is the commands that use it, with FILE for its name, NAME for the machine's and
	// HOST for a name that DNS allows.
	Uses     []string
	Keyed    bool // a key can be handed in
	UEFI     bool // it knows no BIOS
	template string
}

// Kinds is all of them, in the order in which they are told.
var Kinds = []Kind{
	{"libvirt", "a domain of libvirt", diskformat.QCOW2, "NAME.xml", []string{"virsh define FILE", "virsh start NAME"}, true, false, "libvirt.xml"},
	{"terraform", "a module of Terraform, for its provider libvirt", diskformat.QCOW2, "main.tf", []string{"terraform init", "terraform apply"}, false, false, "main.tf"},
	{"proxmox", "a script for a host with Proxmox VE", diskformat.QCOW2, "NAME.sh", []string{"sh FILE 100", "qm start 100"}, true, false, "proxmox.sh"},
	{"systemd-vmspawn", "a script that starts it with systemd", diskformat.Raw, "NAME.sh", []string{"sh FILE", "machinectl poweroff HOST"}, true, true, "vmspawn.sh"},
	{"vagrant", "a project of Vagrant, for its provider libvirt", format.Box, "Vagrantfile", []string{"vagrant up --provider libvirt", "vagrant ssh"}, false, false, "Vagrantfile"},
}

// Named is the kind of that name; its Name is empty where there is none.
func Named(name string) Kind {
	for _, k := range Kinds {
		if k.Name == name {
			return k
		}
	}
	return Kind{}
}

// Names is the names of all kinds.
func Names() []string {
	var names []string
	for _, k := range Kinds {
		names = append(names, k.Name)
	}
	return names
}

// Machine is what is described.
type Machine struct {
	Name        string
	Description string
	Folder      string // absolute path of the description's
	File        string // with the disk, in the folder
	Memory      int64  // bytes
	CPUs        int
	Firmware    string
	Key         string // a line of authorized_keys for root; "" for none
}

// FileName is the name of the description of a machine of that name.
func (k Kind) FileName(machine string) string { return strings.ReplaceAll(k.File, "NAME", machine) }

// Commands is what to do with the description, in its folder.
func (k Kind) Commands(machine string) []string {
	var commands []string
	for _, use := range k.Uses {
		use = strings.ReplaceAll(use, "FILE", text.Word(k.FileName(machine)))
		commands = append(commands, strings.NewReplacer("NAME", text.Word(machine), "HOST", hostName(machine)).Replace(use))
	}
	return commands
}

// Describe is the description's content.
func (k Kind) Describe(m Machine) ([]byte, error) {
	t, err := template.New(k.template).Funcs(escapes).ParseFS(templates, "templates/"+k.template)
	if err != nil {
		return nil, err
	}
	firmware := arch.Target.FirmwareNamed(m.Firmware)
	about := described{
		Machine: m, Disk: m.Folder + "/" + m.File, Script: k.FileName(m.Name), Host: hostName(m.Name), MiB: m.Memory >> 20,
		BIOS: m.Firmware == arch.BIOS, SecureBoot: m.Firmware == arch.SecureBoot, Code: firmware.Code, Vars: firmware.Vars,
		Arch: strings.TrimPrefix(arch.Target.QEMU.Binary, "qemu-system-"), QEMUMachine: arch.Target.QEMU.Machine, QEMUFormat: diskformat.Named(k.Format).QEMU,
	}
	if m.Key != "" {
		about.Credential = "io.systemd.credential.binary:ssh.authorized_keys.root=" + base64.StdEncoding.EncodeToString([]byte(m.Key+"\n"))
	}
	var b bytes.Buffer
	err = t.Execute(&b, about)
	return b.Bytes(), err
}

// described is what templates tell of a machine.
type described struct {
	Machine
	Disk, Script, Host, Arch, QEMUMachine, QEMUFormat string
	Code, Vars                                        string // files of the firmware
	Credential                                        string // of systemd, in SMBIOS; "" for none
	MiB                                               int64  // of memory
	BIOS, SecureBoot                                  bool
}

// escapes is how templates write texts in the languages of the descriptions.
var escapes = template.FuncMap{
	"word": text.Word,
	"line": oneLine,
	"xml": func(s string) (string, error) {
		var b strings.Builder
		err := xml.EscapeText(&b, []byte(s))
		return b.String(), err
	},
	"comment": func(s string) string { // in which no hyphen may follow another (XML 1.0, 2.5)
		return strings.ReplaceAll(strings.ReplaceAll(oneLine(s), "--", "- -"), "--", "- -")
	},
	"hcl":     func(s string) string { return `"` + hcl(s) + `"` },
	"hclpart": hcl,
	"ruby":    func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" },
	"yes": func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	},
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// hcl is a text inside a quoted template of HCL.
func hcl(s string) string {
	quoted := fmt.Sprintf("%q", s)
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(quoted[1 : len(quoted)-1])
}

var noHostName = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// hostName is a name that a machine may have in DNS.
func hostName(name string) string { return strings.Trim(noHostName.ReplaceAllString(name, "-"), "-") }
