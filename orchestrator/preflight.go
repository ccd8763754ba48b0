package orchestrator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Needs is what a job needs of the host.
type Needs struct {
	Build       bool            // make disks; else only boot them
	Test        bool            // boot disks
	Guests      bool            // apply entries in guests
	Login       bool            // log in to test machines
	Playbook    bool            // run playbooks in test machines
	Write       bool            // write disks of this machine
	Tests       bool            // run the project's own tests
	Bench       bool            // run the project's own benchmark
	Survey      bool            // all that any build can need: what some can do without is no problem
	Filesystems []string        // of the disks to be made
	Filled      []string        // those of them that get files
	Bootstrap   bool            // from an archive
	Source      bool            // make nothing but the tree of a source
	Tools       bool            // the programs that make images come from a tools tree
	Galaxy      bool            // install roles and collections from elsewhere
	Git         bool            // some of them come from repositories of git
	Firmware    []string        // of the boot tests
	Formats     []string        // of what is made of the disks
	DiskImages  bool            // that builds start from
	Keyring     bool            // Debian's, to check the archive's signatures
	Folder      string          // where images go; "" for not yet known
	Memory      definition.Size // of the largest guest; 0 for not yet known
	Held        definition.Size // memory of other guests, which ends with them
}

// EverythingNeeded is what all verbs together can need.
func EverythingNeeded() Needs {
	return Needs{
		Build: true, Test: true, Guests: true, Login: true, Playbook: true, Write: true, Galaxy: true, Git: true, Keyring: true, Survey: true,
		Filesystems: filesystem.Names(nil), Filled: filesystem.Names(nil),
		Firmware: arch.Target.FirmwareNames(), Formats: format.Names(),
		DiskImages: true,
	}
}

// CommonlyNeeded is what builds of disks need that Debian is bootstrapped for, whoever calls them.
func CommonlyNeeded() Needs {
	d := definition.Definition{Source: definition.Source{Bootstrap: &definition.Bootstrap{}}}
	d.Disk.Layout.Name = definition.LayoutHybrid
	n := NeedsOf(d, false, "")
	n.Survey = true // the tools of an ordinary user's build, too
	return n
}

// NeedsOf is what building the definition needs.
func NeedsOf(d definition.Definition, test bool, folder string) Needs {
	n := Needs{Build: true, Test: test, Folder: folder, Formats: d.Outputs, Keyring: d.Source.Bootstrap != nil && d.Source.Bootstrap.Keyring == ""}
	installer := d.Source.Installer
	n.Keyring = n.Keyring || installer != nil && installer.Suite != "" && installer.Keyring == ""
	n.DiskImages = d.Source.CloudImage != nil
	for _, part := range d.Disk.Layout.Resolve() {
		if part.Filesystem != "" && !slices.Contains(n.Filesystems, part.Filesystem) {
			n.Filesystems = append(n.Filesystems, part.Filesystem)
		}
		if part.Mount != "" && !slices.Contains(n.Filled, part.Filesystem) {
			n.Filled = append(n.Filled, part.Filesystem)
		}
	}
	n.Galaxy = len(d.Requirements) > 0
	n.Git = slices.ContainsFunc(d.Requirements, func(r definition.Requirement) bool { return r.SCM == "git" || r.Git() })
	n.Guests = installer != nil || slices.ContainsFunc(d.Layers, definition.Layer.OnBoot)
	if test {
		n.Firmware = d.Firmware
	}
	if test || n.Guests {
		n.Memory = d.Test.Memory
	}
	if installer != nil {
		n.Memory = max(n.Memory, installer.Memory)
	}
	return n
}

// NeedsOfTools is what making a tools tree of the definition needs.
func NeedsOfTools(d definition.Definition, folder string) Needs {
	n := Needs{Source: true, Folder: folder}
	n.Bootstrap, n.DiskImages = d.Source.Bootstrap != nil, d.Source.CloudImage != nil
	n.Keyring = n.Bootstrap && d.Source.Bootstrap.Keyring == ""
	return n
}

// Check is one thing that a host must have or be able to do.
type Check struct {
	What    string `json:"what"`
	Problem string `json:"problem,omitempty"` // "" where all is well
	Fix     string `json:"fix,omitempty"`
	Better  string `json:"better,omitempty"`  // where all is well, why it is not better, and how to have it so
	Package string `json:"package,omitempty"` // Debian package that mends it
}

// OK says whether the host passes.
func (c Check) OK() bool { return c.Problem == "" }

func tool(name, pkg string) debian.Tool { return debian.Tool{Name: name, Package: pkg} }

// ofSource is the programs that make the tree of a source.
func (n Needs) ofSource() []debian.Tool {
	tools := []debian.Tool{tool("chroot", "coreutils"), tool("tar", "tar")}
	if n.Build || n.Bootstrap {
		tools = append(tools, tool("mmdebstrap", "mmdebstrap"), tool("gpgv", "gpgv"))
	}
	if n.DiskImages {
		tools = append(tools, tool("qemu-img", "qemu-utils"), tool("xz", "xz-utils"))
	}
	return tools
}

// ofTools is the programs that make images, and that a tools tree can bring.
func (n Needs) ofTools() []debian.Tool {
	if n.Source {
		return n.ofSource()
	}
	var tools []debian.Tool
	if n.Build {
		tools = append(n.ofSource(), tool("ansible-playbook", "ansible"), tool("sfdisk", "fdisk"), tool("qemu-img", "qemu-utils"))
		for _, name := range n.Filesystems {
			tools = append(tools, filesystem.Named(name).Tools...)
		}
	}
	if n.Galaxy {
		tools = append(tools, tool("ansible-galaxy", "ansible"))
	}
	if n.Git {
		tools = append(tools, tool("git", "git"))
	}
	if n.Guests {
		tools = append(tools, tool("mke2fs", "e2fsprogs"))
	}
	if n.Test {
		tools = append(tools, tool("qemu-img", "qemu-utils"))
	}
	return tools
}

// tools is the programs that this machine has to have.
func (n Needs) tools() []debian.Tool {
	var tools []debian.Tool
	if !n.Tools {
		tools = n.ofTools()
	}
	if (n.Build || n.Source) && (n.Survey || os.Geteuid() != 0) {
		tools = append(tools, tool("newuidmap", "uidmap"), tool("newgidmap", "uidmap"))
	}
	if n.Guests || n.Test {
		tools = append(tools, tool(arch.Target.QEMU.Binary, arch.Target.QEMU.Package))
	}
	if n.Login {
		tools = append(tools, tool("ssh", "openssh-client"), tool("scp", "openssh-client"))
	}
	if n.Playbook {
		tools = append(tools, tool("ansible-playbook", "ansible"))
	}
	if n.Write {
		tools = append(tools, tool("qemu-img", "qemu-utils"), tool(arch.Target.QEMU.Binary, arch.Target.QEMU.Package), tool("sfdisk", "fdisk"), tool("lsblk", "util-linux"))
	}
	if n.Tests {
		tools = append(tools,
			tool("dockerd", "docker.io"), tool("iptables", "iptables"), tool("sgdisk", "gdisk"), tool("debugfs", "e2fsprogs"),
			tool("mdir", "mtools"), tool("gpg", "gpg"), tool("apt-ftparchive", "apt-utils"), tool("setcap", "libcap2-bin"),
			tool("skopeo", "skopeo"), tool("curl", "curl"), tool("openssl", "openssl"), tool("xorriso", "xorriso"), tool("zstd", "zstd"), tool("chromium", "chromium"), tool("faketime", "faketime"),
			tool("virt-xml-validate", "libvirt-clients"), tool("xmllint", "libxml2-utils"), tool("ruby", "ruby"))
	}
	if n.Bench {
		tools = append(tools,
			tool("vmdb2", "vmdb2"), tool("debootstrap", "debootstrap"), tool("zerofree", "zerofree"),
			tool("parted", "parted"), tool("kpartx", "kpartx"), tool("skopeo", "skopeo"), tool("curl", "curl"))
	}
	return tools
}

// Preflight runs every check and changes nothing.
func Preflight(n Needs) []Check {
	var checks []Check
	seen := map[debian.Tool]bool{}
	for _, t := range n.tools() {
		if seen[t] {
			continue
		}
		seen[t] = true
		check := Check{What: t.Name}
		if host.Find(t.Name) == "" {
			check.Problem, check.Package = "not installed", t.Package
		}
		checks = append(checks, check)
	}
	if !n.Tools {
		checks = append(checks, n.checkFormats()...)
	}
	if n.Build && !n.Tools {
		checks = append(checks, checkAnsible())
	}
	if n.Build || n.Source {
		checks = append(checks, checkJail())
		checks = append(checks, n.checkKernel()...)
	}
	for _, file := range n.files() {
		checks = append(checks, checkFile(file))
	}
	if n.Folder != "" {
		checks = append(checks, checkSpace(n.Folder))
	}
	if n.Memory > 0 {
		checks = append(checks, checkMemory(n.Memory, n.Held))
	}
	for i, c := range checks {
		if c.Package != "" && c.Problem != "" {
			checks[i].Fix = "apt-get install " + c.Package
		}
	}
	return checks
}

// checkFormats looks for what some formats alone need.
func (n Needs) checkFormats() []Check {
	var checks []Check
	seen := n.tools()
	for _, name := range n.Formats {
		for _, t := range format.Named(name).Tools {
			if slices.Contains(seen, t) {
				continue
			}
			seen = append(seen, t)
			check := Check{What: t.Name}
			if host.Find(t.Name) == "" {
				check.Package = t.Package
				if n.Survey {
					check.Better = fmt.Sprintf("not installed: the format %s needs it; apt-get install %s", name, t.Package)
				} else {
					check.Problem = "not installed: the format " + name + " needs it"
				}
			}
			checks = append(checks, check)
		}
	}
	return checks
}

// file is one that a package of Debian brings.
type file struct{ path, pkg string }

func (n Needs) files() []file {
	var files []file
	if n.Keyring && !n.Tools {
		files = append(files, file{"/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"})
	}
	for _, name := range n.Firmware {
		firmware := arch.Target.FirmwareNamed(name)
		for _, path := range firmware.Files() {
			files = append(files, file{path, firmware.Package})
		}
	}
	return files
}

func checkFile(f file) Check {
	check := Check{What: f.path}
	if _, err := os.Stat(f.path); err != nil {
		check.Problem, check.Package = "missing", f.pkg
	}
	return check
}

// Packages is those of Debian that bring what Preflight looks for, sorted.
func (n Needs) Packages() []string {
	var names []string
	for _, t := range append(n.tools(), format.ToolsOf(n.Formats...)...) {
		names = append(names, t.Package)
	}
	for _, f := range n.files() {
		names = append(names, f.pkg)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// checkAnsible looks for the two plugins that ansible-core alone lacks, where
// Debian and administrators install them for all users: a build does not see those
// in somebody's home. For an Ansible from elsewhere it trusts the user.
func checkAnsible() Check {
	check := Check{What: "Ansible, and its collections community.general and ansible.posix"}
	if old := tooOld(packagesIn("/")); old != "" {
		check.Problem, check.Fix = old, "install a newer one, or build with --tools debian-13"
		return check
	}
	if path := host.Find("ansible-playbook"); path != "" && path != "/usr/bin/ansible-playbook" {
		return check
	}
	for _, plugin := range []string{"community/general/plugins/connection/chroot.py", "ansible/posix/plugins/callback/jsonl.py"} {
		found := false
		for _, dir := range []string{"/usr/lib/python3/dist-packages", "/usr/share/ansible/collections"} {
			_, err := os.Stat(filepath.Join(dir, "ansible_collections", plugin))
			found = found || err == nil
		}
		if !found {
			check.Problem, check.Package = "missing", "ansible"
		}
	}
	return check
}

// tooOld says which of the packages are too old for what builds do with them, "" for none.
func tooOld(packages []debian.Package) string {
	for _, p := range packages {
		var major, minor int
		if n, _ := fmt.Sscanf(p.Version, "%d.%d", &major, &minor); n < 2 { //nolint:mnd // both
			continue
		}
		switch {
		case p.Name == "ansible-core" && (major < 2 || major == 2 && minor < 14),
			p.Name == "ansible" && major == 2: // before it was parted from ansible-core
			return fmt.Sprintf("%s %s is too old: 2.14 is the oldest that works", p.Name, p.Version)
		}
	}
	return ""
}

// checkJail says which kind of jail a build gets. Each is good enough to build in.
func checkJail() Check {
	kind, why := host.BestJail()
	check := Check{What: "jail: " + kind.String()}
	switch {
	case kind == host.NoJail:
		check.Problem, check.Fix = why.Error(), fail.Hint(why)
		if os.Geteuid() != 0 {
			check.Fix += "; or use sudo"
		}
	case why != nil:
		check.Better = fmt.Sprintf("%v; %s", why, fail.Hint(why))
	case !host.CanScopeSockets():
		check.Better = "layers can reach abstract sockets of this machine: Linux 6.12 with Landlock keeps them away, or build with --network none"
	}
	return check
}

// checkKernel is of the file systems that the kernel has to fill.
func (n Needs) checkKernel() []Check {
	names := slices.DeleteFunc(slices.Clone(n.Filled), func(name string) bool {
		return name == "" || filesystem.Named(name).Filling != filesystem.ByKernel
	})
	if len(names) == 0 {
		return nil
	}
	if err := host.CanMountDisks(); err != nil {
		check := Check{What: "file systems of " + strings.Join(names, " and ") + " that get files"}
		if n.Survey {
			check.Better = fmt.Sprintf("not here: %v; %s", err, fail.Hint(err))
		} else {
			check.Problem, check.Fix = err.Error(), fail.Hint(err)+", or choose another file system"
		}
		return []Check{check}
	}
	var checks []Check
	for _, name := range names {
		check := Check{What: "file system " + name}
		if err := host.CanMount(name); err != nil {
			check.Problem, check.Fix = err.Error(), "load its module on the host, or choose another file system"
		}
		checks = append(checks, check)
	}
	loop := Check{What: "loop devices"}
	if err := host.CanLoop(); err != nil {
		loop.Problem = err.Error()
		loop.Fix = "load the module loop; in a container, allow the devices 'b 7:* rmw' and 'c 10:237 rmw'"
	}
	return append(checks, loop)
}

func checkMemory(guest, held definition.Size) Check {
	check := Check{What: fmt.Sprintf("memory for a guest of %s", guest)}
	if free := definition.Size(host.AvailableMemory()); free > 0 && free+held < guest {
		check.Problem, check.Fix = fmt.Sprintf("%d MiB free", free/definition.MiB), "free some, or give the guest less"
	}
	return check
}

const leastSpace = 2 * definition.GiB

func checkSpace(folder string) Check {
	check := Check{What: "space for " + folder}
	for folder != filepath.Dir(folder) {
		if _, err := os.Stat(folder); err == nil {
			break
		}
		folder = filepath.Dir(folder)
	}
	space, err := host.FreeSpace(folder)
	if err != nil {
		check.Problem, check.Fix = err.Error(), "choose another folder with -o"
		return check
	}
	if free := definition.Size(space); free < leastSpace {
		check.Problem, check.Fix = fmt.Sprintf("%d MiB free, %s needed", free/definition.MiB, leastSpace), "free some, or choose another folder with -o"
	}
	return check
}

// Refusal is the error for the checks that failed, or nil.
func Refusal(checks []Check) error {
	var lines, packages []string
	for _, c := range checks {
		if c.OK() {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %s: %s", c.What, c.Problem, c.Fix))
		if c.Package != "" && !slices.Contains(packages, c.Package) {
			packages = append(packages, c.Package)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	refusal := &fail.Error{Kind: fail.Host, Err: errors.New("this host cannot do it yet:\n" + strings.Join(lines, "\n"))}
	if len(packages) > 0 {
		refusal.Hint = "'vmctl doctor --install-missing' installs " + strings.Join(packages, " ")
	}
	return refusal
}
