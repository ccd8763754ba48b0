package orchestrator

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/guest"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// onBoot is commands of which those with a capital are on: boot.
func onBoot(t *testing.T, runs ...string) growing {
	t.Helper()
	layer, digests := commands(runs...), []entryPart{}
	for i, run := range runs {
		if run != strings.ToLower(run) {
			layer.Commands[i].On = definition.OnBoot
		}
		digests = append(digests, entryPart{Digest: run})
	}
	w := &workshop{host: &hosttest.Fake{}, plan: plan(t, "debian"), parts: parts{Layers: [][]entryPart{digests}}}
	return growing{workshop: w, entries: entriesOf(layer), keys: make([]store.Key, len(runs)+1)}
}

func TestWhichEntriesShareAGuest(t *testing.T) {
	g := onBoot(t, "a", "b", "C", "D", "e", "F")
	for from, want := range []int{2, 2, 4, 4, 5, 6} {
		if got := g.sharing(from); got != want {
			t.Errorf("those from %d end at %d, want %d", from, got, want)
		}
	}
	for done, want := range []bool{false, false, false, true, false, false, false} {
		if g.within(done) != want {
			t.Errorf("%d done: within %t", done, !want)
		}
	}
	for from, want := range map[int]string{0: "ab", 2: "CD", 4: "e", 5: "F"} {
		var got string
		for _, c := range g.provision("root", from, time.Unix(0, 0), nil).Layer.Commands {
			got += c.Run
		}
		if got != want {
			t.Errorf("from %d a run has %s, want %s", from, got, want)
		}
	}
}

func TestAGuestTellsItsOwnFacts(t *testing.T) {
	told := runningFacts(map[string]any{"is_chroot": true, "processor_vcpus": 2, "apparmor": 1, "fqdn": "x"}, map[string]any{"processor_vcpus": 8, "apparmor": 2})
	if len(told) != 3 || told["processor_vcpus"] != 8 || told["apparmor"] != 2 || told["fqdn"] != "x" {
		t.Errorf("%v", told)
	}
}

func TestWhereAnEntryIsAppliedIsInItsKey(t *testing.T) {
	digest := func(on string) (digests []string) {
		p := project{
			"install.d/base.yml":  "source: {bootstrap: {suite: trixie}}\ninstall: [{packages: [linux-image-amd64]}, {files: [{path: /a, content: b}]" + on + "}]\n",
			"commands.d/base.yml": "commands: [{run: 'true'" + on + "}]\n",
		}
		for _, entry := range p.parts(t, "base").Layers[0] {
			digests = append(digests, entry.Digest)
		}
		return digests
	}
	tree, guest := digest(""), digest(", on: boot")
	if len(tree) != 2 || len(guest) != 2 || tree[0] == guest[0] || tree[1] == guest[1] {
		t.Errorf("%v, in a guest %v", tree, guest)
	}
}

func TestPackagesOfAGuestAreNoneOfTheSource(t *testing.T) {
	d := definition.Definition{Source: definition.Source{Bootstrap: &definition.Bootstrap{}}, Layers: []definition.Layer{{Install: []definition.InstallEntry{
		{Packages: []string{"aa"}}, {Packages: []string{"bb"}, On: definition.OnBoot}, {Packages: []string{"cc"}},
	}}}}
	if early := earlyPackages(d); !slices.Equal(early, []string{"aa"}) {
		t.Errorf("%v", early)
	}
}

func TestGuestsNeedQEMU(t *testing.T) {
	d := plan(t, "debian").Definition
	for _, on := range []string{"", definition.OnBoot} {
		d.Layers[0].Commands = []definition.CommandEntry{{Run: "true", On: on}}
		needs := NeedsOf(d, false, "")
		if slices.Contains(needs.tools(), tool("mke2fs", "e2fsprogs")) != (on != "") || (needs.Memory > 0) != (on != "") {
			t.Errorf("on %q: %+v", on, needs)
		}
	}
}

func TestATryOfOnBootIsOfOnesOwnEntries(t *testing.T) {
	d := definition.Definition{Layers: []definition.Layer{
		{Install: []definition.InstallEntry{{}}}, {Install: []definition.InstallEntry{{}}, Commands: []definition.CommandEntry{{}}},
	}}
	d.ApplyOnBoot()
	if d.Layers[0].OnBoot() || d.Layers[1].Install[0].On != definition.OnBoot || d.Layers[1].Commands[0].On != definition.OnBoot {
		t.Errorf("%+v", d.Layers)
	}
}

// The keeper opens nothing that a link of the jail's leads to.
func TestAGuestsFilesLieInTheFolderOfWork(t *testing.T) {
	work, outside := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(work, guestKernel), filepath.Join(work, guestInitramfs), filepath.Join(outside, guestDisk)} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, guestDisk), filepath.Join(work, guestDisk)); err != nil {
		t.Fatal(err)
	}
	k := &keeper{work: work, plan: plan(t, "debian")}
	defer func() { _ = k.until.Close() }()
	if _, err := k.setup(guestOrder{Cmdline: guest.Cmdline("/dev/vda", "x")}); err == nil {
		t.Error("a link out of the folder is followed")
	}
}
