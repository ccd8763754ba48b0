package orchestrator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// Manifest is build.json: what was built, from what, and what proved it. It is
// published with the images and holds nothing that may be secret.
type Manifest struct {
	ID           string                `json:"id"` // of what was built: that of a rebuild is the same
	Name         string                `json:"name"`
	Version      string                `json:"version,omitempty"` // number of the Debian release
	Architecture string                `json:"architecture"`
	Repository   string                `json:"repository,omitempty"` // URL of the definitions
	Revision     string                `json:"revision,omitempty"`   // commit of the definitions
	Vmctl        string                `json:"vmctl"`
	Outcome      string                `json:"outcome,omitempty"` // digest of all that the images were made of
	Created      time.Time             `json:"created"`           // its epoch: the state of Debian that is in it
	Built        time.Time             `json:"built"`             // when the build began
	Tested       bool                  `json:"tested"`
	Disk         DiskContent           `json:"disk"`
	Outputs      []image.File          `json:"outputs"` // the one that was booted comes first
	Boot         []boottest.Result     `json:"boot,omitempty"`
	Stages       []StageTime           `json:"stages"`
	Inputs       map[string]string     `json:"inputs"`               // SHA-256 of the definition below, of each file it names, and of its roles
	Tools        map[string]string     `json:"tools"`                // Debian package → version, of the host, or its tools tree
	ToolsTree    string                `json:"tools_tree,omitempty"` // the build that is the tools tree; "" for the host's own programs
	Definition   definition.Definition `json:"definition"`
	Materials
	// Requirements is the roles and collections from elsewhere, as they were installed.
	Requirements []Installed `json:"requirements,omitempty"`
	// Deferred is what entries wanted of a running system: it comes with the first boot.
	Deferred []string `json:"deferred,omitempty"`
	// Starts is the units that start with the machine because they are enabled.
	Starts []string `json:"starts,omitempty"`
	// FactsRead is the names of facts that are written in entries, and in the files that these
	// use, by the entries' files and lines. "*" is for facts that are read in a way, or in files,
	// in which their names do not show.
	FactsRead map[string][]string `json:"facts_read,omitempty"`
	// Epoch is the time after which no file of the tree was changed, in seconds since 1970.
	Epoch int64 `json:"epoch,omitempty"`
	// SourceDateEpoch is the caller's choice of it; nil for the archive's.
	SourceDateEpoch *int64 `json:"source_date_epoch,omitempty"`
}

// DiskContent is the disk inside the images, whatever their format.
type DiskContent struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

func newManifest(ctx context.Context, plan Plan, b Builder, started time.Time, facts DiskFacts, images []image.File, boots []boottest.Result, times []StageTime) Manifest {
	m := Manifest{
		Name: plan.Definition.Name, Version: plan.DebianRelease(), Architecture: arch.Target.OCI,
		Repository: b.Repository, Revision: b.Revision, Vmctl: b.Version, Disk: facts.Disk,
		Built: started.UTC().Truncate(time.Second), Tested: len(boots) > 0, Outputs: images, Boot: boots, Stages: times,
		Inputs: inputDigests(ctx, plan), Definition: plan.Definition.Redacted(), SourceDateEpoch: sourceDateEpoch(),
		Requirements: plan.Requirements,
		Materials:    facts.Materials, Deferred: facts.Deferred, Starts: facts.Starts, Outcome: facts.Outcome, Epoch: facts.Epoch, Created: time.Unix(facts.Epoch, 0).UTC(),
	}
	m.ID = uuid.NewSHA1(uuid.Nil, []byte(digestOf(m.Name, m.Version, m.Architecture, m.Disk, m.Outputs))).String()
	return m
}

func sourceDateEpoch() *int64 {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return nil
	}
	return &seconds
}

// inputDigests is of the definition as it is told: from a digest of the whole,
// one could find out the short values in it by trying.
func inputDigests(ctx context.Context, plan Plan) map[string]string {
	digests := map[string]string{}
	if content, err := json.Marshal(plan.Definition.Redacted()); err == nil {
		sum := sha256.Sum256(content)
		digests["definition"] = hex.EncodeToString(sum[:])
	}
	for _, asset := range plan.Definition.PublicAssets() {
		if sum, _, err := image.Digest(ctx, plan.Assets[*asset]); err == nil {
			digests[*asset] = sum
		}
	}
	for _, layer := range plan.Definition.Layers {
		for _, entry := range layer.Install {
			if entry.NoLog {
				continue
			}
			add := func(folder, name string) {
				var in folderDigest
				if in.add(ctx, filepath.Join(plan.Project, folder, name)) == nil {
					digests[folder+"/"+name] = digestOf(in.lines)
				}
			}
			for _, role := range entry.Roles {
				if !plan.requires(role.Name) { // Requirements tells of those
					add(rolesFolder, role.Name)
				}
			}
			for _, playbook := range entry.Playbooks {
				add(playbooksFolder, playbook)
			}
		}
	}
	return digests
}

// hostPackages is the packages whose versions shape an image or its boot test.
func hostPackages() []string {
	packages := []string{"mmdebstrap", "apt", "dpkg", "ansible", "ansible-core", "fdisk", "e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "mtools", "qemu-utils", arch.Target.QEMU.Package}
	for _, tool := range format.ToolsOf(format.Names()...) {
		packages = append(packages, tool.Package)
	}
	for _, firmware := range arch.Target.Firmware {
		if firmware.Package != "" {
			packages = append(packages, firmware.Package)
		}
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

// systemTools is where Debian's packages put programs.
var systemTools = []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"}

// ofSystem says whether a program is where those of packages are.
func ofSystem(path string) bool { return slices.Contains(systemTools, filepath.Dir(path)+"/") }

// askedTools is the programs that people have from elsewhere, too, and the packages that they are in.
var askedTools = []struct{ name, pkg string }{
	{"mmdebstrap", "mmdebstrap"}, {"ansible-playbook", "ansible-core"}, {"ansible-community", "ansible"},
	{"qemu-img", "qemu-utils"}, {arch.Target.QEMU.Binary, arch.Target.QEMU.Package},
}

// toolVersions is what Debian's package manager says, and of tools from elsewhere what
// they say themselves.
func toolVersions(ctx context.Context, h host.Host) map[string]string {
	versions := map[string]string{}
	out, _ := h.Output(ctx, host.Cmd("dpkg-query", append([]string{"--show", "--showformat=${Package} ${Version}\n"}, hostPackages()...)...))
	for line := range strings.Lines(string(out)) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok && version != "" {
			versions[name] = version
		}
	}
	for _, tool := range askedTools {
		path := host.Find(tool.name)
		if path == "" || ofSystem(path) && versions[tool.pkg] != "" {
			continue
		}
		delete(versions, tool.pkg)
		out, _ := h.Output(ctx, host.Cmd(path, "--version"))
		versions[tool.name], _, _ = strings.Cut(string(out), "\n")
	}
	return versions
}
