package orchestrator

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/aptmethod"
	"github.com/btw-img/btw-img/orchestrator/guest"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func TestAGuestHasTheMethodOnItsDisk(t *testing.T) {
	tree, outside := t.TempDir(), t.TempDir()
	if err := (*fetching)(nil).furnish(tree); err != nil {
		t.Fatal(err)
	}
	f := &fetching{settings: aptmethod.Settings{Offline: true, Preferences: "Package: *"}}
	if err := f.furnish(tree); err != nil {
		t.Fatal(err)
	}
	if made, err := os.ReadDir(tree); err != nil || len(made) > 0 {
		t.Errorf("a tree without apt has %v, %v", made, err)
	}
	err := errors.Join(
		os.MkdirAll(filepath.Join(tree, aptmethod.MethodsFolder), 0o755), os.MkdirAll(filepath.Join(tree, filepath.Dir(guestApt)), 0o755),
		os.Symlink(outside, filepath.Join(tree, guestApt)), f.furnish(tree),
	)
	if err != nil {
		t.Fatal(err)
	}
	if made, err := os.ReadDir(outside); err != nil || len(made) > 0 {
		t.Errorf("a link of the tree led to %v, %v", made, err)
	}
	for name, want := range map[string]string{
		guestAptConfig:              `Dir::Bin::Methods::http "` + guestApt + `/http";`,
		guestApt + "/settings.json": `"socket":"` + guest.KeptSocket + `"`,
		guestApt + "/http":          "exec " + guestApt + "/vmctl " + aptmethod.Verb + " " + guestApt + " http",
		guestApt + "/preferences":   "Package: *",
		guestApt + "/vmctl":         "ELF",
	} {
		if content, err := os.ReadFile(filepath.Join(tree, name)); err != nil || !strings.Contains(string(content), want) {
			t.Errorf("%s: %v, %d bytes without %s", name, err, len(content), want)
		}
	}
	for name, own := range map[string]bool{guestApt: true, guestAptConfig: true, "/etc/systemd/system/vmctl-agent.service": true, "/etc/apt": false} {
		if f.isOwn(name) != own || (*fetching)(nil).isOwn(guestApt) {
			t.Errorf("%s is taken for another's, or taken into the image", name)
		}
	}
	if program, err := os.Stat(filepath.Join(tree, guestApt, "vmctl")); err != nil || program.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", program, err)
	}
}

// The method is found again where the tree has it elsewhere.
func TestAGuestsMethodBelowALink(t *testing.T) {
	tree := t.TempDir()
	f := &fetching{}
	err := errors.Join(
		os.MkdirAll(filepath.Join(tree, aptmethod.MethodsFolder), 0o755), os.MkdirAll(filepath.Join(tree, "opt/lib"), 0o755),
		os.Symlink("/opt", filepath.Join(tree, "usr/local")), f.furnish(tree),
	)
	if _, missing := os.Stat(filepath.Join(tree, f.inGuest, "http")); err != nil || missing != nil || f.inGuest != "/opt/lib/vmctl-apt" || !f.isOwn(f.inGuest) {
		t.Errorf("%q, %v, %v", f.inGuest, err, missing)
	}
}

func TestWhatAGuestHasDownloadedIsGathered(t *testing.T) {
	folder := t.TempDir()
	made, gathered := filepath.Join(folder, "tree"+aptmethod.NewFolder(guestApt)), filepath.Join(folder, aptmethod.NewFolder("apt"))
	good, gone, large, cached, unknown := digestOf("good"), digestOf("gone"), digestOf("large"), digestOf("cached"), digestOf("unknown")
	var record []string
	for sum, from := range map[string]string{good: aptmethod.FromArchive, gone: aptmethod.FromArchive, large: aptmethod.FromArchive, cached: aptmethod.FromCache} {
		record = append(record, `{"name":"a.deb","sha256":"`+sum+`","from":"`+from+`"}`)
	}
	record = append(record, record[0], `{"name":"../../passwd","sha256":"`+good+`","from":"archive"}`)
	problems := []error{os.MkdirAll(made, 0o755), os.MkdirAll(gathered, 0o700)}
	for name, content := range map[string]string{
		aptmethod.RecordName: strings.Join(record, "\n"),
		good + "-a.deb":      "x", large + "-a.deb": strings.Repeat("x", 64<<10), cached + "-a.deb": "x", unknown + "-a.deb": "x",
	} {
		problems = append(problems, os.WriteFile(filepath.Join(made, name), []byte(content), 0o644))
	}
	if err := errors.Join(problems...); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "disk")
	command := guest.MakeDisk(filepath.Join(folder, "tree"), file, 16<<20)
	mke2fs := exec.Command(command.Path, command.Args...)
	mke2fs.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := mke2fs.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	snapshot, _, err := guest.Look(disk)
	if err != nil {
		t.Fatal(err)
	}
	f := &fetching{folder: filepath.Join(folder, "apt"), inGuest: guestApt}
	if err := f.gather(t.Context(), snapshot, 32<<10); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(gathered)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if want := []string{good + "-a.deb", aptmethod.RecordName}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v, want %q", names, err, want)
	}
	if err := (*fetching)(nil).gather(t.Context(), snapshot, 1<<20); err != nil {
		t.Error(err)
	}
}

func TestAGuestReadsWhatTheStoreKeeps(t *testing.T) {
	w := sharing(t)
	sum, into := digestOf("a"), make([]byte, 2)
	if err := os.WriteFile(filepath.Join(w.store.DownloadsFolder(), sum+"-a.deb"), []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	for offset, want := range map[int64]string{0: "ab", 2: "c", 3: "", -1: ""} {
		if n, _ := w.kept()(sum, into, offset); string(into[:n]) != want {
			t.Errorf("at %d: %q", offset, into[:n])
		}
	}
	for _, other := range []string{"", "a", digestOf("b"), "../" + sum, sum + "-a.deb"} {
		if n, err := w.kept()(other, into, 0); n > 0 || err == nil {
			t.Errorf("of %q: %d bytes, %v", other, n, err)
		}
	}
}

// What a guest has read of an archive the tree does not get: entries after it read it anew.
func TestOnlyTheTreesListsMakeThemOfToday(t *testing.T) {
	root := t.TempDir()
	lists := filepath.Join(root, "var/lib/apt/lists")
	if err := os.MkdirAll(lists, 0o755); err != nil {
		t.Fatal(err)
	}
	g := growing{workshop: &workshop{host: &hosttest.Fake{}, plan: plan(t, "debian")}}
	g.plan.Definition.Source.Bootstrap = nil
	for range 2 {
		if err := g.ageLists(root); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(lists); err != nil || !info.ModTime().Equal(time.Unix(0, 0)) {
			t.Errorf("%v, %v", info.ModTime(), err)
		}
	}
}
