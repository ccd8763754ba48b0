package orchestrator

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/bootloader"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/chroot"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/product"
	"github.com/btw-img/btw-img/orchestrator/seal"
	"github.com/btw-img/btw-img/orchestrator/source"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Plan is everything that is decided before the machine is touched.
type Plan struct {
	Definition definition.Definition `json:"definition"`
	Disk       disk.Plan             `json:"disk"`
	Boot       bootloader.Plan       `json:"boot"`
	FSTab      string                `json:"fstab"`
	Project    string                `json:"project"` // the folder that holds install.d, and what Ansible finds beside it
	// Installed is the folder with the roles and collections of requirements.yml, "" for none.
	Installed string `json:"installed,omitempty"`
	// Requirements is what is in it.
	Requirements []Installed `json:"requirements,omitempty"`
	// AllowLocalhost lets Ansible act on the machine that builds.
	AllowLocalhost bool `json:"allow_localhost,omitempty"`
	// SecretSums is a digest of each secret's value, of this store alone.
	SecretSums map[string]string `json:"secret_sums,omitempty"`
	// Assets is where the files lie that the definition names.
	Assets map[string]string `json:"assets,omitempty"`
	// Lock is what archives are to give; nil for what they have.
	Lock *Lock `json:"lock,omitempty"`
	// Pinned is what a source that is downloaded is; nil for others, and before it is found out.
	Pinned *Pinned `json:"pinned,omitempty"`
	// Snapshots is addresses of archives as they once were, for what a lock names.
	Snapshots []string `json:"snapshots,omitempty"`

	whole    *wholeProject // for keys that begin a build; nil for exact parts alone
	overlaid bool          // a tools tree lies over /usr of this machine, to whoever makes keys outside of it
}

// NewPlan decides about a definition. newUUID gives the identifier of the thing
// that it is told of; nil means random ones.
func NewPlan(d definition.Definition, newUUID func(of string) string) (Plan, error) {
	if newUUID == nil {
		newUUID = func(string) string { return uuid.NewString() }
	}
	layout, err := disk.New(d.Disk, newUUID)
	if err != nil {
		return Plan{}, err
	}
	grub, path := layout.Holding("/boot/grub")
	boot := bootloader.Plan{
		EFI: layout.OfType(definition.TypeESP) != nil, Cmdline: d.Boot.Cmdline, Timeout: *d.Boot.Timeout,
		GrubUUID: grub.UUID, GrubPath: path, Filesystem: grub.Filesystem, DiskID: layout.ID,
	}
	if esp := layout.OfType(definition.TypeESP); esp != nil {
		boot.ESP = esp.Mount
	}
	for _, part := range layout.Partitions {
		if part.Mount != "" {
			boot.Volumes = append(boot.Volumes, bootloader.Volume{
				Mount: part.Mount, Filesystem: part.Filesystem, UUID: part.UUID, Label: part.Label, Partition: part.Number, PartUUID: part.ID,
			})
		}
	}
	if core := layout.OfType(definition.TypeBIOS); core != nil {
		boot.BIOS, boot.CoreStart, boot.CoreSize = true, core.Start, core.Size
	}
	return Plan{Definition: d, Disk: layout, Boot: boot, FSTab: layout.FSTab()}, nil
}

func (p Plan) identity() seal.Identity {
	return seal.Identity{Hostname: p.Definition.Hostname, FSTab: p.FSTab}
}

func (p Plan) sourceOptions(scratch string) source.Options {
	packages := slices.Concat(p.Disk.Packages(), p.Boot.Packages(), earlyPackages(p.Definition))
	suite := ""
	switch s := p.Definition.Source; {
	case s.Bootstrap != nil:
		suite = s.Bootstrap.Suite
	case s.Installer != nil:
		suite = s.Installer.Suite
	}
	if suite != "" && p.Disk.Grow {
		packages = append(packages, debian.RepartPackages(suite)...)
	}
	return source.Options{Scratch: scratch, Packages: packages, EssentialHook: chroot.DeferInitramfsHook}
}

// DebianRelease is the number of the Debian release in the image, "" for unknown.
func (p Plan) DebianRelease() string {
	switch s := p.Definition.Source; {
	case s.Bootstrap != nil:
		return debian.ReleaseNumber(s.Bootstrap.Suite)
	case s.CloudImage != nil:
		return debian.ReleaseNumber(s.CloudImage.Suite)
	case s.Installer != nil:
		return debian.ReleaseNumber(s.Installer.Suite)
	}
	return ""
}

// BaseName is the name of the image's files, less the format: the build, the
// Debian release where the name lacks it, and the architecture.
func (p Plan) BaseName() string {
	name := p.Definition.Name
	if number := p.DebianRelease(); number != "" && !strings.HasSuffix(name, "-"+number) {
		name += "-" + number
	}
	return name + "-" + arch.Target.Debian
}

// ImageName is the file name of the output in the format, or of its first file.
func (p Plan) ImageName(name string) string { return p.BaseName() + "." + format.Named(name).Suffix }

// subject is a disk of the plan, for what is made of it.
func (p Plan) subject(raw string, facts DiskFacts) product.Subject {
	d := p.Definition
	return product.Subject{
		Disk: raw, Size: facts.Disk.Size, SHA256: facts.Disk.SHA256, Base: p.BaseName(), Name: d.Name, Version: p.DebianRelease(), Description: d.Description,
		Epoch: time.Unix(facts.Epoch, 0), Memory: int64(d.Test.Memory), CPUs: d.Test.CPUs, UEFI: !slices.Contains(d.Firmware, arch.BIOS),
	}
}

// Unidentified is the same plan with a text in place of each identifier, which
// every build chooses anew.
func (p Plan) Unidentified() (Plan, error) {
	plan, err := NewPlan(p.Definition, func(of string) string { return "UUID-OF-" + strings.ToUpper(strings.ReplaceAll(of, " ", "-")) })
	plan.Project, plan.AllowLocalhost, plan.Assets, plan.Lock, plan.Snapshots = p.Project, p.AllowLocalhost, p.Assets, p.Lock, p.Snapshots
	return plan, err
}

// PlannedStep is a part of a plan in the words of the tools that will do it.
type PlannedStep struct {
	Title string `json:"title"`
	Text  string `json:"text"`
}

// Description is a plan's steps in their order.
type Description []PlannedStep

func (d Description) String() string {
	var b strings.Builder
	for _, step := range d {
		fmt.Fprintf(&b, "# %s\n%s\n\n", step.Title, step.Text)
	}
	return b.String()
}

// Describe is the plan in full, for --dry-run: nothing in it has been done. accel
// is what the boot test will use, nil for no test.
func (p Plan) Describe(folder string, accel *vm.Accelerator) Description {
	var steps Description
	d := p.Definition
	const root = "ROOT"
	section := func(title, text string) { steps = append(steps, PlannedStep{title, strings.TrimSpace(text)}) }
	section("Build", d.Name+": "+d.Description)
	section("Source", p.describeSource(root))
	if len(d.Requirements) > 0 {
		var required strings.Builder
		for _, r := range d.Requirements {
			fmt.Fprintf(&required, "%s  %s\n", r.Origin, r)
		}
		section("Requirements", required.String())
	}
	for _, layer := range d.Layers {
		section("Layer "+layer.Name, describeLayer(layer))
	}
	if d.Python == definition.PythonTransient {
		section("Python", "removed, with what came with it, where no package needs it")
	}
	if d.KeepsDisk() {
		section("Disk", "of "+d.Source.Installer.Disk.String()+", with the partitions that the installer makes, and a boot loader for them")
	} else {
		section("Boot loader", p.describeBoot())
		section("/etc/fstab", p.FSTab)
		section("Partition table (sfdisk)", p.Disk.Script())
		section("File systems", p.Disk.Describe("DISK", root))
	}
	var written strings.Builder
	for _, name := range d.Outputs {
		fmt.Fprintln(&written, filepath.Join(folder, d.Name, p.ImageName(name)))
	}
	section("Outputs", written.String())
	if accel != nil {
		for _, medium := range p.media() {
			image := vm.Image{File: "DISK", Format: medium.format}
			if medium.file != "" {
				image.File = filepath.Join(folder, d.Name, medium.file)
			}
			for _, firmware := range d.Firmware {
				boot := boottest.Result{Firmware: firmware, CD: medium.cd}.Name()
				m := vm.Machine{Firmware: firmware, Accel: accel.For(firmware), Memory: int64(d.Test.Memory), CPUs: d.Test.CPUs, Image: image, CD: medium.cd, Disk: "OVERLAY", Vars: "VARS", Console: boottest.ConsoleName(boot), Report: "REPORT", SeaBIOS: "SEABIOS"}
				section("Boot test on "+boot, m.Command().String())
			}
		}
	}
	return steps
}

func (p Plan) describeBoot() string {
	if !p.Boot.Boots() {
		return "none: nothing starts from this disk"
	}
	return "GRUB for " + strings.Join(p.Boot.Firmware(), ", ") + ", packages " + strings.Join(p.Boot.Packages(), " ") + "\nkernel command line: " + p.Definition.Boot.Cmdline
}

func (p Plan) describeSource(root string) string {
	s, told := p.Definition.Source, ""
	lacks := ", and install what it lacks of " + strings.Join(source.Needed(p.sourceOptions("")), " ")
	if s.CloudImage != nil {
		return "take the files of the disk image " + describeCloudImage(*s.CloudImage) + lacks
	}
	if s.Installer != nil {
		return describeInstaller(*s.Installer) + lacks
	}
	if s.OCI != nil {
		return "unpack the container image " + s.OCI.Image + lacks
	}
	if t := s.Tarball; t != nil && t.URL != "" {
		told = "download " + definition.PublicAddress(t.URL) + ", SHA-256 " + t.SHA256 + "\n"
		s.Tarball = &definition.Tarball{Path: "TARBALL"}
	}
	return told + source.Command(s, root, p.sourceOptions("")).String()
}

func describeLayer(layer definition.Layer) string {
	var b strings.Builder
	for _, e := range layer.Install {
		fmt.Fprintf(&b, "install  %s  %s%s", e.Origin, e.Name, where(e.On))
		if len(e.Packages) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(e.Packages, " "))
		}
		b.WriteByte('\n')
	}
	for _, e := range layer.Commands {
		fmt.Fprintf(&b, "command  %s  %s%s\n", e.Origin, e.Name, where(e.On))
	}
	if b.Len() == 0 {
		return "(nothing)"
	}
	return b.String()
}

// where says where an entry is applied, but for the tree.
func where(on string) string {
	if on == definition.OnBoot {
		return " (in a guest)"
	}
	return ""
}

// outputs is the formats to write, the one that the boot test uses first: the default
// where it is among them, since that is what most people will run, else the first that can
// be booted.
func outputs(d definition.Definition) []string {
	formats := slices.Clone(d.Outputs)
	i := slices.Index(formats, diskformat.Default)
	if i < 0 {
		i = slices.IndexFunc(formats, func(name string) bool { return format.Named(name).Disk })
	}
	if i > 0 {
		first := formats[i]
		formats = slices.Insert(slices.Delete(formats, i, i+1), 0, first)
	}
	return formats
}
