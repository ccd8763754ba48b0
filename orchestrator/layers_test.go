package orchestrator

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

// applier is a provisioner that notes which entries it applies.
type applier struct {
	applied chan string
	fails   string // the entry that fails
	short   bool   // it ends before the last entry
}

func (a applier) Provision(ctx context.Context, p Provision) error {
	entries := p.Layer.Commands
	if a.short {
		entries = entries[:len(entries)-1]
	}
	for i, entry := range entries {
		if err := p.Begin(ctx, i); err != nil {
			return err
		}
		a.applied <- entry.Run
		if entry.Run == a.fails {
			return errors.New("it fails")
		}
	}
	return nil
}

func (applier) Install(context.Context, Installation) error { return errors.New("nothing is required") }

func commands(runs ...string) definition.Layer {
	layer := definition.Layer{Name: "x"}
	for _, run := range runs {
		layer.Commands = append(layer.Commands, definition.CommandEntry{Run: run})
	}
	return layer
}

func TestARunWaitsBeforeEachEntry(t *testing.T) {
	a := applier{applied: make(chan string, 9)}
	w := &workshop{provisioner: a}
	w.startRun(Provision{Layer: commands("a", "b", "c")})
	for i, want := range []string{"a", "b", "c"} {
		last, err := w.running.entry(t.Context())
		if err != nil || last != (i == 2) {
			t.Fatalf("entry %d: last %t, %v", i, last, err)
		}
		if got := <-a.applied; got != want || len(a.applied) > 0 {
			t.Errorf("applied %s, and %d more", got, len(a.applied))
		}
	}
	w.endRun()
}

func TestARunThatEndsEarly(t *testing.T) {
	for name, tc := range map[string]struct {
		a    applier
		says string
	}{
		"a failure": {applier{fails: "b"}, "it fails"},
		"too short": {applier{short: true}, errShort.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			tc.a.applied = make(chan string, 9)
			w := &workshop{provisioner: tc.a}
			w.startRun(Provision{Layer: commands("a", "b", "c")})
			if last, err := w.running.entry(t.Context()); last || err != nil {
				t.Fatalf("the first entry: last %t, %v", last, err)
			}
			if last, err := w.running.entry(t.Context()); !last || err == nil || err.Error() != tc.says {
				t.Errorf("the second entry: last %t, %v", last, err)
			}
			w.endRun()
		})
	}
}

func TestARunThatNobodyNeedsEnds(t *testing.T) {
	a := applier{applied: make(chan string, 9)}
	w := &workshop{provisioner: a}
	w.startRun(Provision{Layer: commands("a", "b")})
	if _, err := w.running.entry(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.endRun() // before its second entry
	if w.running != nil || len(a.applied) != 1 {
		t.Errorf("%d entries were applied", len(a.applied))
	}
	w.startRun(Provision{Layer: commands("a")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.running.entry(ctx); fail.ExitCode(err) != 130 {
		t.Errorf("an interrupted one: %v", err)
	}
	w.endRun()
}

func TestWhichEntriesShareARun(t *testing.T) {
	layer := commands("a", "b", "c", "d")
	w := &workshop{host: &hosttest.Fake{}, plan: plan(t, "debian"), parts: parts{Layers: [][]entryPart{{{Digest: "1"}, {Digest: "2", Facts: true}, {Digest: "3", Alone: true, Facts: true}, {Digest: "4"}}}}}
	g := growing{workshop: w, entries: entriesOf(layer)}
	for from, want := range map[int][]string{0: {"a", "b facts"}, 1: {"b facts"}, 2: {"c facts"}, 3: {"d"}} {
		p := g.provision("root", from, time.Unix(0, 0), nil)
		var got []string
		for i, c := range p.Layer.Commands {
			got = append(got, c.Run+map[bool]string{true: " facts"}[p.Facts[i]])
		}
		if !slices.Equal(got, want) {
			t.Errorf("from %d: %v", from, got)
		}
	}
}

func TestWhichEntriesReadFacts(t *testing.T) {
	for run, reads := range map[string]bool{"true": false, `"echo {{ ansible_distribution }}"`: true, `"echo {{ hostvars.image.x }}"`: true} {
		p := project{
			"install.d/base.yml":  "source: {bootstrap: {suite: trixie}}\nvars: {zone: UTC}\ninstall: [{packages: [linux-image-amd64]}, {name: role, roles: [stamp]}]\n",
			"commands.d/base.yml": "commands: [{run: " + run + "}]\n", "roles/stamp/tasks/main.yml": "[]\n",
		}
		entries := p.parts(t, "base").Layers[0]
		if len(entries) != 2 || !entries[0].Alone || entries[1].Alone || entries[1].Facts != reads {
			t.Errorf("%s: %+v", run, entries)
		}
	}
}

func TestWhatHasAPartInTheInitramfs(t *testing.T) {
	for name, want := range map[string]bool{
		"boot/vmlinuz-6.12": true, "usr/lib/modules/6.12/kernel/x.ko": true, "usr/sbin/nginx": true, "usr/lib/x86_64-linux-gnu/libc.so.6": true,
		"etc/fstab": true, "etc/crypttab": true, "etc/modprobe.d/x.conf": true, "etc/initramfs-tools/conf.d/x": true, "etc/udev/rules.d/1.rules": true,
		"usr/share/initramfs-tools/hooks/x": true, "etc/cryptsetup-initramfs/conf-hook": true, "etc/ld.so.conf.d/x.conf": true,
		"late": false, "etc/motd": false, "etc/child": false, "srv/www/index.html": false, "etc/nginx/nginx.conf": false, "var/lib/dpkg/status": false,
		"etc/systemd/network/10-lan.link": true, "etc/systemd/network/80-dhcp.network": false, "usr/share/doc/x": false, "usr/lib/python3/dist-packages/x.py": false, "etc/systemd/system/x.service": false, "usr/sbin/start-stop-daemon": false,
	} {
		if got := partInInitramfs(name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestWhenAnInitramfsIsBegunAhead(t *testing.T) {
	for commands, want := range map[string]bool{
		"true": true, "ln -s /usr/share/zoneinfo/UTC /etc/localtime": true, "apt-get install -y cryptsetup-initramfs": false, "useradd x": false,
	} {
		w := workshop{plan: plan(t, "debian")}
		w.plan.Definition.Layers[0].Commands = []definition.CommandEntry{{Run: commands}}
		if got := w.likelyAside(); got != want {
			t.Errorf("%s: %t", commands, got)
		}
	}
	for name, change := range map[string]func(*definition.Definition){
		"a package": func(d *definition.Definition) {
			d.Layers[0].Install[2].Packages = append(d.Layers[0].Install[2].Packages, "x y")
		},
		"another name":   func(d *definition.Definition) { d.Hostname = "other" },
		"a file with it": func(d *definition.Definition) { d.Layers[0].Install[2].Files[0].Path = "/etc/modprobe.d/x.conf" },
	} {
		w := workshop{plan: plan(t, "debian")}
		d := &w.plan.Definition
		d.Layers[0].Install = append([]definition.InstallEntry{}, d.Layers[0].Install...)
		change(d)
		if w.likelyAside() {
			t.Errorf("%s: begun ahead", name)
		}
	}
}
