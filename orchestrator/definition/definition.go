package definition

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// InstallFile is what install.d/NAME.yml and its drop-ins may hold.
type InstallFile struct {
	Description string            `yaml:"description,omitempty" jsonschema_description:"One line that says what the image is for"`
	Extends     string            `yaml:"extends,omitempty" jsonschema_description:"Name of the build whose layers come first"`
	Source      Source            `yaml:"source,omitempty" jsonschema_description:"Where the first files of the image come from: exactly one of the keys"`
	Disk        Disk              `yaml:"disk,omitempty" jsonschema_description:"The disk and its partitions"`
	Firmware    []string          `yaml:"firmware,omitempty" jsonschema_description:"What the image must boot on; each is boot-tested. Default: all that the disk layout can boot on"`
	Hostname    string            `yaml:"hostname,omitempty" jsonschema_description:"Host name of the image. Default: the build's own name"`
	Vars        map[string]any    `yaml:"vars,omitempty" jsonschema_description:"Ansible variables: {{ NAME }} is the value in every text and template. A role's vars beat them, its defaults do not"`
	Secrets     map[string]Secret `yaml:"secrets,omitempty" jsonschema_description:"Ansible variables whose values are known on this machine alone"`
	Facts       map[string]any    `yaml:"facts,omitempty" jsonschema_description:"Facts of the machine that Ansible is to be told otherwise, by their names without ansible_"`
	Python      string            `yaml:"python,omitempty" jsonschema:"enum=keep,enum=transient" jsonschema_description:"transient: remove at the end the python3 that was brought for Ansible, where no package needs it; then Ansible cannot manage the machines. Default: keep"`
	Boot        Boot              `yaml:"boot,omitempty" jsonschema_description:"Boot loader settings"`
	Test        Test              `yaml:"test,omitempty" jsonschema_description:"The machine of the boot test"`
	CloudInit   CloudInit         `yaml:"cloudinit,omitempty" jsonschema_description:"What cloud-init is told on the first boot of each machine, as files in the image; what a machine's own seed says counts before it"`
	Install     []InstallEntry    `yaml:"install,omitempty" jsonschema_description:"What gets installed, in order"`
	Outputs     []string          `yaml:"outputs,omitempty" jsonschema_description:"Image formats to write"`
}

// CommandsFile is what commands.d/NAME.yml and its drop-ins may hold.
type CommandsFile struct {
	Commands []CommandEntry `yaml:"commands,omitempty" jsonschema_description:"What is run in the image after the installation, in order"`
}

// Definition is the effective definition of a build, after extends, drop-ins,
// --set and defaults.
type Definition struct {
	Name        string            `yaml:"name" json:"name"`
	Description string            `yaml:"description,omitempty" json:"description,omitempty"`
	Source      Source            `yaml:"source" json:"source"`
	Disk        Disk              `yaml:"disk" json:"disk"`
	Firmware    []string          `yaml:"firmware" json:"firmware"`
	Hostname    string            `yaml:"hostname" json:"hostname"`
	Vars        map[string]any    `yaml:"vars,omitempty" json:"vars,omitempty"`
	Secrets     map[string]Secret `yaml:"secrets,omitempty" json:"secrets,omitempty"`
	Facts       map[string]any    `yaml:"facts,omitempty" json:"facts,omitempty"`
	Python      string            `yaml:"python,omitempty" json:"python,omitempty"`
	Boot        Boot              `yaml:"boot" json:"boot"`
	Test        Test              `yaml:"test" json:"test"`
	Outputs     []string          `yaml:"outputs" json:"outputs"`
	Layers      []Layer           `yaml:"layers" json:"layers"`
	// Requirements is the roles and collections from elsewhere that the roles and playbooks may
	// use; none where the build has neither.
	Requirements []Requirement `yaml:"requirements,omitempty" json:"requirements,omitempty"`
	// Vaulted is the values that ansible-vault has encrypted.
	Vaulted []Vaulted `yaml:"-" json:"vaulted,omitempty"`
}

// Layer is what one build of an extends chain adds; the farthest ancestor
// comes first.
type Layer struct {
	Name     string         `yaml:"name" json:"name"`
	Install  []InstallEntry `yaml:"install,omitempty" json:"install,omitempty"`
	Commands []CommandEntry `yaml:"commands,omitempty" json:"commands,omitempty"`
}

// Source says where the first files of the image come from: exactly one field
// is set.
type Source struct {
	Bootstrap *Bootstrap `yaml:"bootstrap,omitempty" json:"bootstrap,omitempty" jsonschema_description:"Install Debian from its archive with mmdebstrap"`
	Tarball   *Tarball   `yaml:"tarball,omitempty" json:"tarball,omitempty" jsonschema_description:"Unpack a root file system that exists already"`
	OCI       *OCI       `yaml:"oci,omitempty" json:"oci,omitempty" jsonschema_description:"Unpack a container image of Debian; what it lacks to be a machine is installed"`
	// CloudImage has no hyphen, as nobody writes one there.
	CloudImage *CloudImage `yaml:"cloudimage,omitempty" json:"cloudimage,omitempty" jsonschema_description:"Take the files of a disk image: one of Debian's official images for clouds, or another"`
	Installer  *Installer  `yaml:"installer,omitempty" json:"installer,omitempty" jsonschema_description:"Run an installer in QEMU, unattended, and take the files of the disk that it leaves"`
}

// Outside says whether the source is neither an archive of packages nor a file of the
// definition's, but something to download.
func (s Source) Outside() bool {
	return s.OCI != nil || s.CloudImage != nil && s.CloudImage.File == "" || s.Tarball != nil && s.Tarball.URL != "" || s.Installer != nil && len(s.Installer.Downloads()) > 0
}

// Foreign says whether the source was made for something else than one of our disks, so that
// it may lack what these need.
func (s Source) Foreign() bool { return s.OCI != nil || s.CloudImage != nil || s.Installer != nil }

// Archived says whether the state of an archive is a part of what the source is.
func (s Source) Archived() bool {
	return s.Bootstrap != nil || s.Installer != nil && s.Installer.Suite != ""
}

// Bootstrap installs Debian from its archive.
type Bootstrap struct {
	Suite      string   `yaml:"suite" json:"suite" jsonschema:"required" jsonschema_description:"Debian suite, such as trixie"`
	Variant    string   `yaml:"variant,omitempty" json:"variant,omitempty" jsonschema:"enum=minbase,enum=standard,enum=important,enum=required,enum=apt,enum=buildd" jsonschema_description:"mmdebstrap variant. Default: minbase"`
	Mirror     string   `yaml:"mirror,omitempty" json:"mirror,omitempty" jsonschema_description:"Archive to install from, also used by the image later. Default: Debian's own"`
	Components []string `yaml:"components,omitempty" json:"components,omitempty" jsonschema_description:"Archive components. Default: main"`
	Packages   []string `yaml:"packages,omitempty" json:"packages,omitempty" jsonschema_description:"Packages installed with the base system, before any install entry"`
	Keyring    string   `yaml:"keyring,omitempty" json:"keyring,omitempty" jsonschema_description:"File with the keys that sign the mirror, beside this file. Default: Debian's"`
	Docs       bool     `yaml:"docs,omitempty" json:"docs,omitempty" jsonschema_description:"Keep manual pages, documentation and translations; without them the image is about 40 % smaller"`
}

// Tarball unpacks a root file system.
type Tarball struct {
	Path   string `yaml:"path,omitempty" json:"path,omitempty" jsonschema_description:"Tar archive, in any compression that tar knows, beside this file"`
	URL    string `yaml:"url,omitempty" json:"url,omitempty" jsonschema_description:"Where to download it from, in place of path; needs sha256"`
	SHA256 string `yaml:"sha256,omitempty" json:"sha256,omitempty" jsonschema_description:"Digest that it must have, in hexadecimal"`
}

// OCI unpacks a container image.
type OCI struct {
	Image string `yaml:"image" json:"image" jsonschema:"required" jsonschema_description:"HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG|@DIGEST] for an OCI image layout or oci-archive:FILE[:TAG|@DIGEST] for an archive of one, beside this file"`
}

// CloudImage takes the files of the root file system of a disk image, with those that its
// /etc/fstab mounts below it.
type CloudImage struct {
	Suite   string `yaml:"suite,omitempty" json:"suite,omitempty" jsonschema_description:"Debian suite of an official image, such as trixie"`
	Flavour string `yaml:"flavour,omitempty" json:"flavour,omitempty" jsonschema:"enum=generic,enum=genericcloud,enum=nocloud" jsonschema_description:"Which of the suite's images. Default: generic"`
	Arch    string `yaml:"arch,omitempty" json:"arch,omitempty" jsonschema_description:"Architecture. Default: that of the builds"`
	Mirror  string `yaml:"mirror,omitempty" json:"mirror,omitempty" jsonschema_description:"Address of the folder that has one for each suite. Default: Debian's own"`
	URL     string `yaml:"url,omitempty" json:"url,omitempty" jsonschema_description:"Address of any image, in place of suite: raw or a format of QEMU's, also in a tar archive, compressed by xz, gzip, zstd or not at all"`
	File    string `yaml:"file,omitempty" json:"file,omitempty" jsonschema_description:"Such an image beside this file, in place of suite"`
	SHA512  string `yaml:"sha512,omitempty" json:"sha512,omitempty" jsonschema_description:"Digest that it must have, in hexadecimal. Default: what SHA512SUMS beside the image says"`
	Keyring string `yaml:"keyring,omitempty" json:"keyring,omitempty" jsonschema_description:"File beside this one with the OpenPGP keys that must have signed SHA512SUMS"`
}

// Installer is a program that installs a system on an empty disk, in a guest which begins with
// its kernel. It is over when the guest switches itself off, or restarts.
type Installer struct {
	Suite    string   `yaml:"suite,omitempty" json:"suite,omitempty" jsonschema_description:"Debian suite whose debian-installer runs, such as trixie; its kernel and initrd are those of the archive's package debian-installer-*-netboot"`
	Mirror   string   `yaml:"mirror,omitempty" json:"mirror,omitempty" jsonschema_description:"Archive of the suite. Default: Debian's own"`
	Keyring  string   `yaml:"keyring,omitempty" json:"keyring,omitempty" jsonschema_description:"File with the keys that sign the mirror, beside this file. Default: Debian's"`
	Kernel   *Fetched `yaml:"kernel,omitempty" json:"kernel,omitempty" jsonschema_description:"Kernel of any installer, in place of suite"`
	Initrd   *Fetched `yaml:"initrd,omitempty" json:"initrd,omitempty" jsonschema_description:"What the kernel begins with"`
	ISO      *Fetched `yaml:"iso,omitempty" json:"iso,omitempty" jsonschema_description:"What is in the CD drive besides"`
	Answers  string   `yaml:"answers,omitempty" json:"answers,omitempty" jsonschema_description:"Template beside this file of what the installer is told in place of asking (preseed, kickstart and the like); it is served to the guest at {{ build.answers_url }}. Default with suite: a small system on one ext4 file system, without boot loader"`
	Append   string   `yaml:"append,omitempty" json:"append,omitempty" jsonschema_description:"Command line of the kernel, a template; with suite what is added to it. No secrets: it can be seen on the builder. Default: console=ttyS0,115200"`
	Disk     Size     `yaml:"disk,omitempty" json:"disk,omitempty" jsonschema_description:"Size of the disk that it installs on; not that of the image. Default: 8G"`
	Memory   Size     `yaml:"memory,omitempty" json:"memory,omitempty" jsonschema_description:"Memory of its guest. Default: 1G"`
	Timeout  Duration `yaml:"timeout,omitempty" json:"timeout,omitempty" jsonschema_description:"How long it may say nothing on the serial console. Default: 10m"`
	KeepDisk bool     `yaml:"keep_disk,omitempty" json:"keep_disk,omitempty" jsonschema_description:"The image's disk has the size of the installer's, and partitions as the installer has made them, in a GPT. Default: disk says what is on it"`
	Origin   string   `yaml:"-" json:"origin,omitempty"` // file and line
}

// Fetched is a file beside the definition, or elsewhere.
type Fetched struct {
	File   string `yaml:"file,omitempty" json:"file,omitempty" jsonschema_description:"Beside this file"`
	URL    string `yaml:"url,omitempty" json:"url,omitempty" jsonschema_description:"Where to download it from, in place of file; needs sha256"`
	SHA256 string `yaml:"sha256,omitempty" json:"sha256,omitempty" jsonschema_description:"Digest that it must have, in hexadecimal"`
}

// Shown is where the file is, for people; "" for none.
func (f *Fetched) Shown() string {
	switch {
	case f == nil:
		return ""
	case f.File != "":
		return f.File
	}
	return address(f.URL)
}

// Files is what the installer is made of, by names for people; nil for what it does not have.
func (i Installer) Files() map[string]*Fetched {
	return map[string]*Fetched{"kernel": i.Kernel, "initrd": i.Initrd, "iso": i.ISO}
}

// Downloads is the names of those of the files that lie elsewhere, sorted.
func (i Installer) Downloads() (names []string) {
	for name, file := range i.Files() {
		if file != nil && file.URL != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Local is the kind of place in the file system that holds the image, and its path with what
// follows that; "" for an image in a registry.
func (o OCI) Local() (kind, rest string) {
	for _, kind := range []string{"oci", "oci-archive"} {
		if rest, is := strings.CutPrefix(o.Image, kind+":"); is {
			return kind, rest
		}
	}
	return "", ""
}

// Disk is the disk image and its partitions.
type Disk struct {
	Size   Size   `yaml:"size,omitempty" json:"size,omitempty" jsonschema_description:"Size of the disk, such as 2G. Default: 2G"`
	Layout Layout `yaml:"layout,omitempty" json:"layout,omitzero" jsonschema_description:"hybrid (BIOS and UEFI), efi, bios, or a list of partitions. Default: hybrid"`
	Grow   *bool  `yaml:"grow,omitempty" json:"grow,omitempty" jsonschema_description:"The root file system takes all of a larger disk when the machine starts. Default: true where its partition is the last one"`
}

// Partition is one partition of an inline layout.
type Partition struct {
	Label      string `yaml:"label,omitempty" json:"label,omitempty" jsonschema_description:"Name of the partition and label of its file system"`
	Type       string `yaml:"type,omitempty" json:"type,omitempty" jsonschema:"enum=bios,enum=esp,enum=linux,enum=swap" jsonschema_description:"Kind of partition. Default: from file system and mount point"`
	Size       Size   `yaml:"size,omitempty" json:"size,omitempty" jsonschema_description:"Size, such as 512M. The one partition without a size takes the rest"`
	Filesystem string `yaml:"filesystem,omitempty" json:"filesystem,omitempty" jsonschema_description:"File system"`
	Mount      string `yaml:"mount,omitempty" json:"mount,omitempty" jsonschema_description:"Mount point in the image"`
	Options    string `yaml:"options,omitempty" json:"options,omitempty" jsonschema_description:"Mount options for fstab, with commas between them; those of the file system are known. Default: defaults"`
}

// Boot holds the boot loader's settings.
type Boot struct {
	Cmdline string `yaml:"cmdline,omitempty" json:"cmdline,omitempty" jsonschema_description:"Kernel command line. Default: console=tty0 console=ttyS0,115200"`
	Timeout *int   `yaml:"timeout,omitempty" json:"timeout" jsonschema:"minimum=0" jsonschema_description:"Seconds that the boot menu waits. Default: 1"`
}

// Test is the machine that the boot test starts.
type Test struct {
	Memory  Size     `yaml:"memory,omitempty" json:"memory,omitempty" jsonschema_description:"Memory of the guest. Default: 1G"`
	CPUs    int      `yaml:"cpus,omitempty" json:"cpus,omitempty" jsonschema:"minimum=1" jsonschema_description:"Processors of the guest under KVM; emulation has one. Default: 2"`
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty" jsonschema_description:"How long the guest may take to be up, such as 5m. Default: 10m"`
}

// InstallEntry is one item of install. Its parts are applied in the order of
// the fields.
type InstallEntry struct {
	Name         string       `yaml:"name,omitempty" json:"name,omitempty" jsonschema_description:"What the entry is for; shown while it runs"`
	Debconf      []Debconf    `yaml:"debconf,omitempty" json:"debconf,omitempty" jsonschema_description:"Answers for packages that ask questions"`
	Repositories []Repository `yaml:"repositories,omitempty" json:"repositories,omitempty" jsonschema_description:"Package archives beside Debian's, each with its signing key"`
	Packages     []string     `yaml:"packages,omitempty" json:"packages,omitempty" jsonschema_description:"Debian packages, as apt names them: NAME, NAME=VERSION, NAME/SUITE"`
	Recommends   bool         `yaml:"recommends,omitempty" json:"recommends,omitempty" jsonschema_description:"Also install what the packages recommend"`
	Files        []File       `yaml:"files,omitempty" json:"files,omitempty" jsonschema_description:"Files copied as they are"`
	Templates    []File       `yaml:"templates,omitempty" json:"templates,omitempty" jsonschema_description:"Files rendered as Jinja templates"`
	Users        []User       `yaml:"users,omitempty" json:"users,omitempty" jsonschema_description:"User accounts"`
	Services     Services     `yaml:"services,omitempty" json:"services,omitempty" jsonschema_description:"systemd units"`
	Roles        []Role       `yaml:"roles,omitempty" json:"roles,omitempty" jsonschema_description:"Ansible roles, from the folder roles beside install.d, of its requirements.yml, or of collections"`
	Playbooks    []string     `yaml:"playbooks,omitempty" json:"playbooks,omitempty" jsonschema_description:"Playbooks for the hosts all or image, from the folder playbooks beside install.d"`
	On           string       `yaml:"on,omitempty" json:"on,omitempty" jsonschema:"enum=boot" jsonschema_description:"boot: apply the entry in a guest that starts from the tree so far. Default: in the tree"`
	NoLog        bool         `yaml:"no_log,omitempty" json:"no_log,omitempty" jsonschema_description:"Keep the values of this entry, and all that it prints, out of the output, the log and build.json"`
	Origin       string       `yaml:"-" json:"origin,omitempty"`
	// OnlyTags and SkipTags are of the tasks of roles and playbooks that an entry applies, where
	// one of a definition became two: see SplitOnBoot.
	OnlyTags []string `yaml:"-" json:"only_tags,omitempty"`
	SkipTags []string `yaml:"-" json:"skip_tags,omitempty"`
}

// The values of Python; "" is PythonKeep.
const (
	PythonKeep      = "keep"
	PythonTransient = "transient"
)

// OnBoot is the value of On of entries that need a running system.
const OnBoot = "boot"

// OnBoot says whether the layer has entries that need a running system.
func (l Layer) OnBoot() bool {
	return slices.ContainsFunc(l.Install, func(e InstallEntry) bool { return e.On == OnBoot }) ||
		slices.ContainsFunc(l.Commands, func(e CommandEntry) bool { return e.On == OnBoot })
}

// ApplyOnBoot has the entries of the build itself, not of those that it extends, need a
// running system.
func (d *Definition) ApplyOnBoot() {
	if len(d.Layers) == 0 {
		return
	}
	own := d.Layers[len(d.Layers)-1]
	for i := range own.Install {
		own.Install[i].On = OnBoot
	}
	for i := range own.Commands {
		own.Commands[i].On = OnBoot
	}
}

// SplitOnBoot parts each entry some of whose tasks need a running system: those are tagged boot,
// and are applied on one, after the others.
func (d *Definition) SplitOnBoot(tagged func(InstallEntry) (bool, error)) error {
	for i := range d.Layers {
		var parted []InstallEntry
		for _, e := range d.Layers[i].Install {
			some := false
			if e.On == "" && len(e.SkipTags) == 0 && len(e.Roles)+len(e.Playbooks) > 0 {
				var err error
				if some, err = tagged(e); err != nil {
					return err
				}
			}
			if !some {
				parted = append(parted, e)
				continue
			}
			later := InstallEntry{Name: e.Name, Roles: e.Roles, Playbooks: e.Playbooks, On: OnBoot, OnlyTags: []string{OnBoot}, NoLog: e.NoLog, Origin: e.Origin}
			e.SkipTags = later.OnlyTags
			parted = append(parted, e, later)
		}
		d.Layers[i].Install = parted
	}
	return nil
}

// Debconf is one preseeded answer.
type Debconf struct {
	Package  string `yaml:"package" json:"package" jsonschema:"required"`
	Question string `yaml:"question" json:"question" jsonschema:"required"`
	Type     string `yaml:"type" json:"type" jsonschema:"required,enum=boolean,enum=string,enum=select,enum=multiselect,enum=password,enum=note,enum=text,enum=title,enum=error"`
	Value    string `yaml:"value" json:"value" jsonschema:"required"`
}

// Repository is a package archive in deb822 terms.
type Repository struct {
	Name          string   `yaml:"name" json:"name" jsonschema:"required" jsonschema_description:"File name of the entry in sources.list.d"`
	URIs          []string `yaml:"uris" json:"uris" jsonschema:"required"`
	Suites        []string `yaml:"suites" json:"suites" jsonschema:"required"`
	Components    []string `yaml:"components,omitempty" json:"components,omitempty"`
	Architectures []string `yaml:"architectures,omitempty" json:"architectures,omitempty"`
	Types         []string `yaml:"types,omitempty" json:"types,omitempty" jsonschema:"enum=deb,enum=deb-src"`
	Key           string   `yaml:"key" json:"key" jsonschema:"required" jsonschema_description:"The signing key: a file beside this one, or the ASCII-armoured key itself"`
}

// File is a file for the image.
type File struct {
	Path    string `yaml:"path" json:"path" jsonschema:"required" jsonschema_description:"Where the file goes in the image"`
	Source  string `yaml:"source,omitempty" json:"source,omitempty" jsonschema_description:"File beside this one whose content is taken"`
	Content string `yaml:"content,omitempty" json:"content,omitempty" jsonschema_description:"The content itself"`
	Mode    Mode   `yaml:"mode,omitempty" json:"mode,omitempty" jsonschema_description:"Permissions. Default: 0644"`
	Owner   string `yaml:"owner,omitempty" json:"owner,omitempty" jsonschema_description:"Default: root"`
	Group   string `yaml:"group,omitempty" json:"group,omitempty" jsonschema_description:"Default: root"`
}

// User is a user account.
type User struct {
	Name          string   `yaml:"name" json:"name" jsonschema:"required"`
	UID           int      `yaml:"uid,omitempty" json:"uid,omitempty"`
	Comment       string   `yaml:"comment,omitempty" json:"comment,omitempty"`
	Groups        []string `yaml:"groups,omitempty" json:"groups,omitempty" jsonschema_description:"Further groups; missing ones are made"`
	Shell         string   `yaml:"shell,omitempty" json:"shell,omitempty" jsonschema_description:"Default: /bin/bash"`
	Home          string   `yaml:"home,omitempty" json:"home,omitempty"`
	System        bool     `yaml:"system,omitempty" json:"system,omitempty"`
	PasswordHash  string   `yaml:"password_hash,omitempty" json:"password_hash,omitempty" jsonschema_description:"Hash as in /etc/shadow (mkpasswd). Default: no password"`
	EmptyPassword bool     `yaml:"empty_password,omitempty" json:"empty_password,omitempty" jsonschema_description:"Whoever is at the console may log in without a password"`
	SSHKeys       []string `yaml:"ssh_keys,omitempty" json:"ssh_keys,omitempty" jsonschema_description:"Public keys for authorized_keys"`
	Sudo          bool     `yaml:"sudo,omitempty" json:"sudo,omitempty" jsonschema_description:"May become root without a password; needs the package sudo"`
}

// Secret says where the value of a secret comes from: exactly one field is set.
type Secret struct {
	Env     string   `yaml:"env,omitempty" json:"env,omitempty" jsonschema_description:"Name of an environment variable of vmctl"`
	File    string   `yaml:"file,omitempty" json:"file,omitempty" jsonschema_description:"File beside this one, or by its absolute path; a newline at its end is left out"`
	Command []string `yaml:"command,omitempty" json:"command,omitempty" jsonschema_description:"Program and arguments that print it, run by you on this machine; a newline at its end is left out"`
}

// Role is an Ansible role, written as its name where it needs nothing else.
type Role struct {
	Name string         `yaml:"name" json:"name" jsonschema:"required" jsonschema_description:"Folder in roles, name in requirements.yml, or NAMESPACE.COLLECTION.ROLE"`
	Vars map[string]any `yaml:"vars,omitempty" json:"vars,omitempty" jsonschema_description:"Variables for this role, which beat all others"`
	Tags []string       `yaml:"tags,omitempty" json:"tags,omitempty" jsonschema_description:"Run only the tasks with these tags. All roles of an entry have the same ones, and an entry that has some has no playbooks"`
}

// Services says which systemd units start at boot.
type Services struct {
	Enabled  []string `yaml:"enabled,omitempty" json:"enabled,omitempty"`
	Disabled []string `yaml:"disabled,omitempty" json:"disabled,omitempty"`
	Masked   []string `yaml:"masked,omitempty" json:"masked,omitempty"`
}

// CloudInit is a seed for cloud-init's data source NoCloud that lies in the image.
type CloudInit struct {
	UserData      SeedFile `yaml:"user-data,omitempty" jsonschema_description:"Settings (what follows #cloud-config)"`
	MetaData      SeedFile `yaml:"meta-data,omitempty" jsonschema_description:"What the machine is, such as local-hostname"`
	NetworkConfig SeedFile `yaml:"network-config,omitempty" jsonschema_description:"The network's settings, of version 1 or 2"`
	VendorData    SeedFile `yaml:"vendor-data,omitempty" jsonschema_description:"Settings that user-data beats"`
	Datasources   []string `yaml:"datasources,omitempty" jsonschema_description:"Where cloud-init looks for what it is told, and nowhere else. Default: NoCloud, None"`
}

// SeedFile is a file of a seed: settings, which are rendered, the name of a file beside the
// definition, which is rendered where it ends in .j2, or text of more than one line.
type SeedFile struct{ *yaml.Node }

// CommandEntry is one item of commands: a shell script or one argv.
type CommandEntry struct {
	Name        string            `yaml:"name,omitempty" json:"name,omitempty" jsonschema_description:"What the command is for; shown while it runs"`
	Run         string            `yaml:"run,omitempty" json:"run,omitempty" jsonschema_description:"Script for /bin/sh -e"`
	Argv        []string          `yaml:"argv,omitempty" json:"argv,omitempty" jsonschema_description:"Program and arguments, without a shell"`
	Creates     string            `yaml:"creates,omitempty" json:"creates,omitempty" jsonschema_description:"Skip the command where this file exists"`
	Chdir       string            `yaml:"chdir,omitempty" json:"chdir,omitempty" jsonschema_description:"Folder to run in"`
	Environment map[string]string `yaml:"environment,omitempty" json:"environment,omitempty" jsonschema_description:"Environment variables"`
	On          string            `yaml:"on,omitempty" json:"on,omitempty" jsonschema:"enum=boot" jsonschema_description:"boot: run it in a guest that starts from the tree so far. Default: in the tree"`
	NoLog       bool              `yaml:"no_log,omitempty" json:"no_log,omitempty" jsonschema_description:"Keep the values of this entry, and all that it prints, out of the output, the log and build.json"`
	Origin      string            `yaml:"-" json:"origin,omitempty"`
}
