package orchestrator

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/report"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// The report for people says what build.json does, which holds nothing secret, and what each
// layer added. The store remembers that with the layer: a stored one tells the same as a new one.

// gain is what a stage has made of the tree below it.
type gain struct {
	Stage    string              `json:"stage"`
	Entries  int                 `json:"entries,omitempty"` // how many of its build's it has applied
	Content  store.Content       `json:"content"`
	Packages []debian.Difference `json:"packages,omitempty"`
}

// gains is what each layer of the tree adds, the lowest first.
func (t tree) gains() (all []gain, err error) {
	for _, layer := range t.layers {
		about := layer.About()
		g := gain{Stage: about.Title, Content: layer.Content()}
		if len(about.Packages) > 0 {
			if err := json.Unmarshal(about.Packages, &g.Packages); err != nil {
				return nil, err
			}
		}
		if strings.HasPrefix(about.Title, layerTitle) {
			var facts layerFacts
			if err := json.Unmarshal(about.Data, &facts); err != nil {
				return nil, err
			}
			g.Entries = facts.Entries
		}
		all = append(all, g)
	}
	return all, nil
}

const largestStatus = 64 << 20 // bytes

// packagesIn is the packages of the tree at root; none where it has no list of them.
func packagesIn(root string) []debian.Package {
	info, err := host.Tree(root).Lstat(dpkgStatus)
	if err != nil || !info.Mode().IsRegular() || info.Size() > largestStatus {
		return nil
	}
	content, err := host.Tree(root).Read(dpkgStatus)
	if err != nil {
		return nil
	}
	return debian.InStatus(content)
}

// writeReport writes report.html beside the images.
func writeReport(space *workspace, plan Plan, m Manifest, facts DiskFacts) error {
	now := reported(Built{m, facts.Packages})
	now.Layers = reportedLayers(plan.Definition, facts.Layers)
	for i := range now.Boots {
		var err error
		boot := &now.Boots[i]
		if boot.Console, boot.Cut, err = endOf(filepath.Join(space.out, boottest.ConsoleName(boot.Name)), longestConsole); err != nil {
			return err
		}
		if boot.Screens, err = screensOf(space.out, boot.Name); err != nil {
			return err
		}
	}
	var before *report.Build
	if built, err := ReadBuilt(space.final); err == nil {
		b := reported(built)
		before = &b
	}
	page, err := report.Page(now, before)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(space.out, ReportName), page, 0o644)
}

// screensOf is the screens that a boot left in a folder.
func screensOf(folder, boot string) (all []report.Screen, err error) {
	for _, moment := range boottest.Moments {
		content, err := os.ReadFile(filepath.Join(folder, boottest.ScreenName(boot, moment)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			all = append(all, report.Screen{Moment: toldMoments[moment], PNG: content})
		}
	}
	return all, nil
}

// toldMoments is the moments of a boot for people.
var toldMoments = map[string]string{boottest.LoaderScreen: "the boot loader", boottest.LastScreen: "when it was judged"}

const longestConsole = 128 << 10 // bytes

// endOf is the end of a file, "" of one that is not there, and whether its begin is left out.
func endOf(path string, most int64) (text string, cut bool, err error) {
	file, err := files.OpenRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", false, err
	}
	from := max(0, info.Size()-most)
	content, err := io.ReadAll(io.NewSectionReader(file, from, most))
	return string(content), from > 0, err
}

// reported is what a build's record tells.
func reported(b Built) report.Build {
	r := report.Build{
		Name: b.Name, Description: b.Definition.Description, Version: b.Version, Architecture: b.Architecture, ID: b.ID,
		Vmctl: b.Vmctl, Repository: b.Repository, Revision: b.Revision, Built: b.Built, Created: b.Created,
		Source: sourceOf(b.Definition.Source), Disk: report.File{Format: "disk", Size: b.Disk.Size, SHA256: b.Disk.SHA256},
		Tested: b.Tested, Deferred: b.Deferred, Starts: b.Starts, Packages: b.Packages,
	}
	for _, origin := range slices.Sorted(maps.Keys(b.FactsRead)) {
		r.Facts = append(r.Facts, report.Facts{Origin: origin, Names: b.FactsRead[origin]})
	}
	if b.Pinned != nil {
		r.Pinned = b.Pinned.Digest
	}
	for _, archive := range b.Archives {
		r.Archives = append(r.Archives, report.Archive{URL: archive.URL, SHA256: archive.SHA256})
	}
	for _, installed := range b.Requirements {
		r.Requirements = append(r.Requirements, installed.String())
	}
	for _, output := range b.Outputs {
		r.Outputs = append(r.Outputs, report.File{Name: output.Name, Format: output.Format, Size: output.Size, SHA256: output.SHA256})
	}
	for _, s := range b.Stages {
		r.Stages = append(r.Stages, report.Stage{Title: s.Stage, Seconds: s.Seconds, Stored: s.Stored})
	}
	for _, name := range slices.Sorted(maps.Keys(b.Tools)) {
		r.Tools = append(r.Tools, report.Tool{Name: name, Version: b.Tools[name]})
	}
	for _, result := range b.Boot {
		boot := report.Boot{
			Name: result.Name(), Passed: result.Passed, Proof: result.Proof, Problem: result.Problem, Accel: result.Accel, Seconds: result.Seconds,
		}
		if result.Earlier != nil {
			boot.Earlier = result.Earlier.Booted
		}
		if said := result.Report; said != nil {
			boot.Guest = &report.Guest{
				State: said.State, Failed: said.Failed, Jobs: said.Jobs, Systemd: said.Systemd, Kernel: said.Kernel,
				SecureBoot: said.SecureBoot, Root: said.Root, Seconds: said.BootSeconds,
			}
		}
		r.Boots = append(r.Boots, boot)
	}
	return r
}

// sourceOf is where the first files come from.
func sourceOf(s definition.Source) string {
	var words []string
	switch {
	case s.Bootstrap != nil:
		words = []string{"bootstrap", s.Bootstrap.Suite, s.Bootstrap.Variant, s.Bootstrap.Mirror}
	case s.Tarball != nil:
		words = []string{"tarball", s.Tarball.Path, s.Tarball.URL}
	case s.OCI != nil:
		words = []string{"container image", s.OCI.Image}
	case s.CloudImage != nil:
		c := s.CloudImage
		words = []string{"cloud image", c.Suite, c.Flavour, c.Arch, c.Mirror, c.URL, c.File}
	case s.Installer != nil:
		words = []string{"installer", s.Installer.Suite, s.Installer.Mirror, s.Installer.Kernel.Shown(), s.Installer.ISO.Shown()}
	}
	return strings.Join(slices.DeleteFunc(words, func(word string) bool { return word == "" }), " ")
}

// reportedLayers is what each stage added, with the entries that it has applied. A build's
// entries are stored in their order, each by itself or several together.
func reportedLayers(d definition.Definition, gains []gain) (all []report.Layer) {
	left := map[string][]report.Entry{}
	for _, e := range earlyEntries(d) {
		entry := d.Layers[0].Install[e.entry]
		left[sourceTitle] = append(left[sourceTitle], report.Entry{Origin: entry.Origin, Name: cmp.Or(entry.Name, "Install"), Note: "its packages"})
	}
	for _, layer := range withoutEarly(d) {
		for _, one := range entriesOf(layer) {
			left[layerTitle+layer.Name] = append(left[layerTitle+layer.Name], reportedEntry(one))
		}
	}
	for _, g := range gains {
		if g.Stage == sourceTitle {
			g.Entries = len(left[g.Stage])
		}
		entries := left[g.Stage]
		n := min(g.Entries, len(entries))
		left[g.Stage] = entries[n:]
		all = append(all, report.Layer{
			Stage: g.Stage, Entries: entries[:n], Files: g.Content.Files, Removed: g.Content.Removed, Bytes: g.Content.Bytes,
			Whole: g.Content.Whole && g.Stage != sourceTitle, Packages: g.Packages,
		})
	}
	return all
}

// reportedEntry is one entry, which stands alone in its layer.
func reportedEntry(one definition.Layer) report.Entry {
	var kinds []string
	if one.OnBoot() {
		kinds = append(kinds, "in a guest")
	}
	for _, e := range one.Commands {
		return report.Entry{Origin: e.Origin, Name: cmp.Or(e.Name, "Command"), Note: strings.Join(kinds, ", ")}
	}
	e := one.Install[0]
	for _, kind := range []struct {
		name string
		n    int
	}{
		{"packages", len(e.Packages)}, {"answers for debconf", len(e.Debconf)}, {"repositories", len(e.Repositories)}, {"files", len(e.Files)},
		{"templates", len(e.Templates)}, {"users", len(e.Users)}, {"roles", len(e.Roles)}, {"playbooks", len(e.Playbooks)},
		{"services", len(e.Services.Enabled) + len(e.Services.Disabled) + len(e.Services.Masked)},
	} {
		if kind.n > 0 {
			kinds = append(kinds, fmt.Sprintf("%s: %d", kind.name, kind.n))
		}
	}
	return report.Entry{Origin: e.Origin, Name: cmp.Or(e.Name, "Install"), Note: strings.Join(kinds, ", ")}
}
