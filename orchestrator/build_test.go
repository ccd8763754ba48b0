package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	btwimg "github.com/btw-img/btw-img"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/golden"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
	"github.com/btw-img/btw-img/orchestrator/store"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// plan is the plan of a shipped build with identifiers that tests foresee.
func plan(t *testing.T, name string, settings ...string) Plan {
	t.Helper()
	library, err := definition.NewLibrary(os.DirFS(t.TempDir()), "", btwimg.Files)
	if err != nil {
		t.Fatal(err)
	}
	definition, err := library.Load(name, settings)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	p, err := NewPlan(*definition, func(string) string { n++; return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDescribeShowsNothingThatABuildWouldChooseAnew(t *testing.T) {
	unidentified, err := plan(t, "webserver").Unidentified()
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "webserver-plan.golden", unidentified.Describe("images", &vm.Accelerator{}).String())
}

func TestBaseNames(t *testing.T) {
	for name, want := range map[string]string{"debian": "debian-13-amd64", "debian-12": "debian-12-amd64", "webserver": "webserver-13-amd64"} {
		if got := plan(t, name).BaseName(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestWhatIsBooted(t *testing.T) {
	disk, cd := medium{file: "debian-13-amd64.qcow2", format: "qcow2"}, medium{file: "debian-13-amd64.iso", format: "raw", cd: true}
	for formats, want := range map[string][]medium{
		"qcow2": {disk}, "raw qcow2": {disk}, "tar qcow2 iso": {disk, cd}, "iso": {cd}, "squashfs iso": {cd}, "tar": {{format: "raw"}},
	} {
		p := plan(t, "debian")
		p.Definition.Outputs = strings.Fields(formats)
		if got := p.media(); !slices.Equal(got, want) {
			t.Errorf("%s: %+v", formats, got)
		}
	}
}

// layers records what it is asked to provision.
type layers struct {
	calls *[]string
	err   error
}

func (l layers) Provision(ctx context.Context, p Provision) error {
	var names []string
	for _, e := range p.Layer.Install {
		names = append(names, e.Name)
	}
	for _, e := range p.Layer.Commands {
		names = append(names, e.Name)
	}
	for i, name := range names {
		if err := p.Begin(ctx, i); err != nil {
			return err
		}
		*l.calls = append(*l.calls, "provision "+p.Layer.Name+": "+name)
		if l.err != nil {
			return l.err
		}
	}
	return nil
}

func (layers) Install(context.Context, Installation) error { return errors.New("nothing is required") }

// copying is a host on which nothing happens but that copies have a folder.
type copying struct{ *hosttest.Fake }

func (c copying) Run(ctx context.Context, command host.Command) error {
	if command.Path == "cp" {
		if err := os.MkdirAll(command.Args[len(command.Args)-1], 0o755); err != nil {
			return err
		}
	}
	return c.Fake.Run(ctx, command)
}

// outsider records what a jail asks for.
type outsider struct{ fake *hosttest.Fake }

func (outsider) Reserve(context.Context, int64) error { return nil }

func (outsider) Fill(context.Context, disk.Partition, string, string) error { return nil }

func (o outsider) assemble(ctx context.Context, h host.Host, _ disk.Plan, root, file, _ string, _ disk.Filler) error {
	return errors.Join(h.Run(ctx, host.Cmd("assemble", root, file)), os.WriteFile(file, nil, 0o600))
}

func (o outsider) Compare(_ context.Context, _ disk.Plan, file, root string) error {
	return o.fake.Run(context.Background(), host.Cmd("compare", file, root))
}

func (o outsider) Read(_ context.Context, v disk.Volume, file, root string) error {
	return o.fake.Run(context.Background(), host.Cmd("read", v.Filesystem, file, root))
}

// fakeBuild runs buildDisk against a tree that looks like a bootstrapped one.
func fakeBuild(ctx context.Context, t *testing.T, fake *hosttest.Fake, provisioning error, visit visitAfter) error {
	t.Helper()
	needRoot(t) // whose store is real, and has files of all users
	folder := t.TempDir()
	layersStore, err := store.Open(filepath.Join(folder, "store"))
	if err != nil {
		t.Fatal(err)
	}
	p := plan(t, "webserver")
	keyed := parts{Source: digestOf("source")}
	for i, layer := range withoutEarly(p.Definition) {
		var entries []entryPart
		for j := range entriesOf(layer) {
			entries = append(entries, entryPart{Digest: fmt.Sprint(i, j)})
		}
		keyed.Layers = append(keyed.Layers, entries)
	}
	w := &workshop{
		plan: p, parts: keyed, store: layersStore, host: copying{fake},
		provisioner: layers{&fake.Calls, provisioning}, outside: outsider{fake}, assembler: outsider{fake}.assemble, log: io.Discard,
		visit: visit, stage: filepath.Join(folder, "stage"), work: filepath.Join(folder, "work"),
		entryPart: func(_ context.Context, layer, entry int) (entryPart, error) {
			return keyed.Layers[layer][entry], nil
		},
	}
	if err := os.MkdirAll(w.work, 0o700); err != nil {
		t.Fatal(err)
	}
	tree := host.Tree(w.root())
	for name, content := range map[string]string{
		"/boot/vmlinuz-6.12": "k", "/usr/sbin/update-initramfs": "u", "/boot/grub/grub.cfg": "\tlinux /boot/vmlinuz-6.12 root=UUID=x ro\n",
		"/usr/lib/grub/i386-pc/boot.img": strings.Repeat("b", 512), "/usr/lib/grub/i386-pc/normal.mod": "m", "/usr/lib/grub/x86_64-efi/bli.mod": "m",
		"/boot/grub/i386-pc/core.img": strings.Repeat("c", 2048), "/usr/lib/shim/shimx64.efi.signed": "s", "/usr/lib/shim/mmx64.efi.signed": "s",
		"/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "g", "/usr/bin/systemctl": "", "/usr/sbin/sshd": "",
		"/usr/sbin/start-stop-daemon": "real", "/etc/ssh/ssh_host_rsa_key": "secret",
	} {
		if err := tree.Write(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Symlink("usr/sbin", "/sbin"); err != nil {
		t.Fatal(err)
	}
	if err := tree.Write("/etc/apt/sources.list", []byte("deb http://mirror.example/debian trixie main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fake.Outputs = map[string]string{
		"chroot " + w.root() + " dpkg-query --show": "installed\tsystemd\t257.13-1~deb13u1\tamd64\tsystemd\t257.13-1~deb13u1\t10\ninstalled\tgrub-cloud-amd64\t0.1\tamd64\tgrub-cloud\t0.1\t10\n",
	}
	s := &stages{ctx: ctx, tell: func(Event) {}}
	facts, err := buildDisk(s, w)
	for i, call := range fake.Calls {
		call = strings.NewReplacer(w.work, "WORK", w.stage, "STAGE", folder, "FOLDER").Replace(call)
		fake.Calls[i] = layerKey.ReplaceAllString(random.ReplaceAllString(call, "work/RANDOM"), "layers/KEY")
	}
	if err == nil {
		later := &workshop{plan: plan(t, "webserver"), parts: w.parts, store: layersStore, offline: true}
		if found, err := later.stored(s); err != nil || found.top().About().Title != "Seal" {
			t.Errorf("the store has %+v of a build that is finished, %v", found, err)
		}
		if err := later.release.Close(); err != nil {
			t.Error(err)
		}
		if facts.systemd() != 257 {
			t.Errorf("systemd %d", facts.systemd())
		}
		if content, _ := tree.Read("/usr/sbin/start-stop-daemon"); string(content) != "real" {
			t.Error("the stand-in for start-stop-daemon is left")
		}
		if tree.Exists("/etc/ssh/ssh_host_rsa_key") || tree.Exists("/usr/sbin/policy-rc.d") {
			t.Error("the tree is not sealed")
		}
	}
	return err
}

// random is the names that the store chooses, layerKey those of its layers.
var (
	layerKey = regexp.MustCompile(`layers/[0-9a-f]{64}`)
	random   = regexp.MustCompile(`work/[A-Z2-7]{26}`)
)

func TestTheBuildsCalls(t *testing.T) {
	fake := &hosttest.Fake{}
	if err := fakeBuild(t.Context(), t, fake, nil, nil); err != nil {
		t.Fatal(err)
	}
	// What is checked side by side comes in no order of its own: between the disk's
	// assembly and the unmounting of its tree.
	checks := fake.Calls[slices.IndexFunc(fake.Calls, func(call string) bool { return strings.HasPrefix(call, "assemble ") })+1 : len(fake.Calls)-1]
	slices.Sort(checks)
	golden.Equal(t, "build-calls.golden", strings.Join(fake.Calls, "\n")+"\n")
}

func TestWhateverFailsEverythingIsReleased(t *testing.T) {
	broken := errors.New("broken")
	for _, at := range []string{"mmdebstrap", "mount  /proc", "provision", "chroot STAGE", "hostname", "kill others", "assemble", "compare"} {
		t.Run(at, func(t *testing.T) {
			fake := &hosttest.Fake{Failures: map[string]error{at: broken}}
			var provisioning error
			switch at {
			case "provision":
				provisioning = broken
			case "chroot STAGE":
				fake.Failures = map[string]error{"chroot ": broken}
			}
			if err := fakeBuild(t.Context(), t, fake, provisioning, nil); !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
			held := map[string]int{}
			for _, call := range fake.Calls {
				words := strings.Fields(call)
				switch {
				case words[0] == "mount" && !strings.HasPrefix(call, at):
					held["mount "+words[len(words)-1]]++
				case words[0] == "unmount":
					held["mount "+words[1]]--
				}
			}
			for what, n := range held {
				if n != 0 {
					t.Errorf("%s: %d too many", what, n)
				}
			}
		})
	}
}

func TestACancelledBuildStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fake := &hosttest.Fake{}
	err := fakeBuild(ctx, t, fake, nil, nil)
	if fail.ExitCode(err) != 130 {
		t.Errorf("error %v", err)
	}
	for _, call := range fake.Calls {
		if strings.HasPrefix(call, "mmdebstrap") {
			t.Errorf("it went on to %s", call)
		}
	}
}
