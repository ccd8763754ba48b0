package store_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// What the three layers of these tests do, one after the other.
var scripts = []string{
	`chmod 751 .; chown 0:7 .
	 mkdir -p bin etc/old/deep var/lib kept; chmod 1777 var; chown 5:6 etc/old
	 echo one > etc/one; echo two > etc/two; echo three > etc/old/deep/three; echo four > kept/four
	 echo tool > bin/tool; chmod 4755 bin/tool; cp -p bin/tool bin/same; echo pair > bin/pair; ln bin/pair etc/pair; ln -s ../etc/one bin/link; ln -s /no/where bin/dangling
	 cp /bin/true bin/ping; setcap cap_net_raw+ep bin/ping
	 truncate -s 8M var/sparse; echo end >> var/sparse
	 mkfifo var/fifo; printf x > "$(printf 'odd\tna\nme\377')"; touch -d @1234567890.123456789 etc/one kept`,
	`rm etc/two; rm -r etc/old; mkdir etc/old; echo new > etc/old/new
	 chmod 600 kept/four; rm -r var/lib; echo file > var/lib; echo more >> etc/one; ln -s old etc/older`,
	`echo two again > etc/two; rm var/lib; mkdir var/lib; mkdir moved; mv bin/tool bin/same moved/; rm -r etc/old; chmod 750 .; chown -h 9:9 bin/link`,
}

// attributes adds what no shell of a small system can.
func attributes(t *testing.T, root string) {
	t.Helper()
	for path, name := range map[string]string{"kept/four": "user.note", "kept": "user.folder", ".": "user.root"} {
		if err := unix.Lsetxattr(filepath.Join(root, path), name, []byte("a\x00b"), 0); err != nil {
			t.Fatal(err)
		}
	}
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\x08\x00\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff" // acl(5): user 8 may read and write
	if err := unix.Lsetxattr(filepath.Join(root, "etc"), "system.posix_acl_access", []byte(acl), 0); err != nil {
		t.Fatal(err)
	}
	err := unix.Mknod(filepath.Join(root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	if err != nil && os.Getenv(inNamespace) == "" {
		t.Fatal(err)
	}
}

// TestLayersShowTheSameTreeHoweverTheyAreKept compares what is mounted with what the
// same steps do in a plain folder.
func TestLayersShowTheSameTreeHoweverTheyAreKept(t *testing.T) {
	needsRoot(t)
	for name, system := range fileSystems {
		t.Run(name, func(t *testing.T) {
			plain := t.TempDir()
			s := open(t, filepath.Join(system.folder(t), "store"))
			var layers []*store.Layer
			for i, script := range scripts {
				name := fmt.Sprint("layer ", i)
				w := begin(t, s, layers...)
				for _, root := range []string{plain, w.Root()} {
					shell(t, root, script)
					if i == 0 {
						attributes(t, root)
					}
				}
				if diff := cmp.Diff(snapshot(t, plain), snapshot(t, w.Root())); diff != "" {
					t.Fatalf("%s, while it is made: -want +got:\n%s", name, diff)
				}
				layers = append(layers, commit(t, w, name))
				mounted(t, s, layers, func(at string) {
					if diff := cmp.Diff(snapshot(t, plain), snapshot(t, at)); diff != "" {
						t.Fatalf("%s: -want +got:\n%s", name, diff)
					}
					if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); err == nil {
						t.Errorf("%s can be written", name)
					}
				})
			}
			if s.Mode() != system.mode {
				t.Errorf("layers are made as %q, want %q", s.Mode(), system.mode)
			}
			mounted(t, s, layers, func(at string) { checkDetails(t, at) })
			mounted(t, s, layers[:1], func(at string) {
				if content, err := os.ReadFile(filepath.Join(at, "etc/old/deep/three")); err != nil || string(content) != "three\n" {
					t.Errorf("the lowest layer has changed: %q, %v", content, err)
				}
			})
		})
	}
}

// checkDetails checks what a snapshot does not show.
func checkDetails(t *testing.T, at string) {
	t.Helper()
	var sparse, pair, kept unix.Stat_t
	for path, stat := range map[string]*unix.Stat_t{"var/sparse": &sparse, "bin/pair": &pair, "kept": &kept} {
		if err := unix.Lstat(filepath.Join(at, path), stat); err != nil {
			t.Fatal(err)
		}
	}
	if sparse.Blocks*512 > 1<<20 {
		t.Errorf("a sparse file takes %d bytes", sparse.Blocks*512)
	}
	if pair.Nlink != 2 {
		t.Errorf("a file with two names has %d", pair.Nlink)
	}
	if got := unix.TimespecToNsec(kept.Mtim); got != 1234567890123456789 {
		t.Errorf("a folder's time is %d", got)
	}
	if out := shell(t, at, "getcap bin/ping"); !strings.Contains(out, "cap_net_raw=ep") {
		t.Errorf("capabilities are %q", out)
	}
}

const inNamespace = "VMCTL_TEST_USER_NAMESPACE"

// TestARootOfAUserNamespaceCanDoTheSame runs tests again where root has no power over
// the host, and no trusted.* attributes.
func TestARootOfAUserNamespaceCanDoTheSame(t *testing.T) {
	needsRoot(t)
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1<<32 - 1}}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^(TestLayersShow|TestVerify|TestSixtyLayers|TestStoreMayHaveAnyName|TestOfTwoProcesses|TestFullStore)")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n--- PASS: Test") < 6 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestLayersOfAnotherNamespaceAreRight takes capabilities and trusted attributes from
// root's layers into a user namespace and back.
func TestLayersOfAnotherNamespaceAreRight(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	w := begin(t, s)
	shell(t, w.Root(), "cp /bin/true ping; setcap cap_net_raw+ep ping; echo x > file")
	if err := unix.Lsetxattr(filepath.Join(w.Root(), "file"), "trusted.note", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	commit(t, w, "base")
	runHelper(t, helper{Folder: s.Folder(), Below: "base", Key: "top", Script: "cp /bin/true more; setcap cap_chown+ep more; echo y >> file"}, true)
	runHelper(t, helper{Folder: s.Folder(), Verify: true}, true)
	top := get(t, s, "top", true)
	for _, info := range verify(t, s) {
		if info.Problem != "" {
			t.Errorf("layer %s: %s", info.About.Build, info.Problem)
		}
	}
	mounted(t, s, []*store.Layer{get(t, s, "base", true), top}, func(at string) {
		if out := shell(t, at, "getcap ping more; cat file"); !strings.Contains(out, "ping cap_net_raw=ep") || !strings.Contains(out, "more cap_chown=ep") || !strings.HasSuffix(out, "x\ny\n") {
			t.Errorf("got %q", out)
		}
	})
}

func TestALayerComesBackWithWhatItsMakerSaid(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	get(t, s, "debian", false)
	w := begin(t, s)
	about := store.About{Build: "debian", Title: "Bootstrap", Seconds: 1.5, Data: json.RawMessage(`{"suite":"trixie"}`)}
	made, err := w.Commit(t.Context(), key("debian"), about)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Release(); err != nil {
		t.Fatal(err)
	}
	got := get(t, open(t, s.Folder()), "debian", true)
	if diff := cmp.Diff(about, got.About()); diff != "" || got.Key() != key("debian") {
		t.Errorf("layer %s: -want +got\n%s", got.Key(), diff)
	}
	if _, err := w.Commit(t.Context(), key("other"), about); err == nil {
		t.Error("committed twice")
	}
	if err := w.Discard(); err != nil {
		t.Error(err)
	}
	get(t, s, "debian", true)
}

func TestALayerTellsHowMuchItAdds(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	source := layer(t, s, "source", "mkdir a b; printf 12345 > a/file; ln a/file a/name; ln -s file a/link; printf 1 > b/gone")
	if got, want := source.Content(), (store.Content{Files: 4, Bytes: 10, Whole: true}); got != want {
		t.Errorf("the source tells %+v, want %+v", got, want)
	}
	above := layer(t, s, "above", "mkdir c; printf 123 > c/new; printf 45678 > a/more; rm -r b", source)
	want := store.Content{Files: 2, Removed: 1, Bytes: 8}
	if s.Mode() == store.Copy {
		want = store.Content{Files: 5, Bytes: 17, Whole: true}
	}
	if got := above.Content(); got != want {
		t.Errorf("the layer tells %+v, want %+v", got, want)
	}
	if got := get(t, open(t, s.Folder()), "above", true).Content(); got != want {
		t.Errorf("it comes back with %+v", got)
	}
}

func TestADiscardedLayerLeavesNothing(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	base := layer(t, s, "base", "echo x > file")
	for range 2 {
		w := begin(t, s, base)
		shell(t, w.Root(), "echo y > file; mkdir new")
		for range 2 {
			if err := w.Discard(); err != nil {
				t.Fatal(err)
			}
		}
		if entries, err := os.ReadDir(w.Root()); err != nil || len(entries) > 0 {
			t.Errorf("still mounted: %v %v", entries, err)
		}
	}
	empty(t, s)
	if _, err := begin(t, s, base).Commit(t.Context(), "no key", store.About{}); err == nil {
		t.Error("committed without a key")
	}
}

// empty fails where work is left.
func empty(t *testing.T, s *store.Store) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(s.Folder(), "work")); err != nil || len(left) > 0 {
		t.Errorf("work is left: %v %v", left, err)
	}
}

func TestSixtyLayers(t *testing.T) {
	needsRoot(t)
	long := filepath.Join(t.TempDir(), strings.Repeat("a/"+strings.Repeat("b", 200)+"/", 10))
	s := open(t, long)
	var layers []*store.Layer
	for i := range 60 {
		layers = append(layers, layer(t, s, fmt.Sprint(i), fmt.Sprintf("echo %d > last; echo %[1]d > file%[1]d", i), layers...))
	}
	mounted(t, s, layers, func(at string) {
		if out := shell(t, at, "cat last; ls | wc -l"); out != "59\n61\n" {
			t.Errorf("got %q", out)
		}
	})
}

func TestStoreMayHaveAnyName(t *testing.T) {
	needsRoot(t)
	for _, name := range []string{`a:b`, `a,lowerdir=b`, `a\b`, `a b"'$(c)`, "-rf", "a\nb", "%s"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			s := open(t, filepath.Join(dir, "store"))
			base := layer(t, s, "base", "echo x > file")
			top := layer(t, s, "top", "cat file; echo y >> file", base)
			mounted(t, s, []*store.Layer{base, top}, func(at string) {
				if out := shell(t, at, "cat file"); out != "x\ny\n" {
					t.Errorf("got %q", out)
				}
			})
			if s.Mode() != store.Overlay {
				t.Error("no overlay was used")
			}
			w, err := s.Begin(t.Context(), &host.Local{}, []*store.Layer{base, top}, filepath.Join(dir, "at"))
			if err != nil {
				t.Fatal(err)
			}
			release(t, w.Discard)
		})
	}
}

// TestReadOnlyBindKeepsFlags mounts one layer of a store that is mounted nosuid and nodev,
// which a user namespace may not undo.
func TestReadOnlyBindKeepsFlags(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release(t, func() error { return unix.Unmount(dir, 0) }) })
	s := open(t, dir)
	base := layer(t, s, "base", "echo x > file")
	mounted(t, s, []*store.Layer{base}, func(string) {})
	runHelper(t, helper{Folder: dir, Below: "base"}, true)
}

func TestLayersAreMountedInTheirOrderOnly(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	a := layer(t, s, "a", "echo a > file")
	b := layer(t, s, "b", "echo b > file", a)
	c := layer(t, s, "c", "echo c > file", a)
	for name, layers := range map[string][]*store.Layer{"none": {}, "a gap": {b}, "reversed": {b, a}, "siblings": {a, b, c}} {
		if unmount, err := s.Mount(&host.Local{}, layers, filepath.Join(t.TempDir(), "at")); err == nil {
			t.Errorf("%s were mounted", name)
			release(t, unmount)
		}
	}
	if _, err := s.Begin(t.Context(), &host.Local{}, []*store.Layer{b}, filepath.Join(t.TempDir(), "at")); err == nil {
		t.Error("a layer was begun on a gap")
	}
	empty(t, s)
}

// TestGetIsNoSlowerThanLookingAtEachFile is generous, since the machine may be busy.
func TestGetIsNoSlowerThanLookingAtEachFile(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	layer(t, s, "big", "for d in $(seq 50); do mkdir $d; (cd $d; seq 100 | split -l 1 -a 4); done")
	before := time.Now()
	get(t, s, "big", true)
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("5,000 files took %v", took)
	}
}

// TestAPieceIsPutOnAnyTree puts the same files on two trees.
func TestAPieceIsPutOnAnyTree(t *testing.T) {
	needsRoot(t)
	for name, system := range fileSystems {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(system.folder(t), "store"))
			one := layer(t, s, "one", "chmod 751 .; mkdir boot; echo one > boot/one")
			two := layer(t, s, "two", "chmod 700 .; mkdir boot; echo two > boot/two")
			w, err := s.BeginPiece(t.Context(), &host.Local{}, filepath.Join(t.TempDir(), "at"))
			if err != nil {
				t.Fatal(err)
			}
			shell(t, w.Root(), "mkdir boot; echo piece > boot/piece")
			piece := commit(t, w, "piece")
			for _, tc := range []struct {
				base      *store.Layer
				top, want string
			}{{one, "first", "one\npiece\n751\n"}, {two, "second", "piece\ntwo\n700\n"}} {
				top := layer(t, s, tc.top, "cat boot/* > all", tc.base, piece)
				mounted(t, s, []*store.Layer{tc.base, piece, top}, func(at string) {
					if out := shell(t, at, "cat all; stat -c %a ."); out != tc.want {
						t.Errorf("got %q, want %q", out, tc.want)
					}
				})
				stack, err := s.Stack(top.Key(), nil)
				if err != nil || len(stack) != 3 || stack[1].Key() != piece.Key() {
					t.Fatalf("a stack of %d, %v", len(stack), err)
				}
				for _, l := range stack {
					release(t, l.Release)
				}
			}
			if unmount, err := s.Mount(&host.Local{}, []*store.Layer{piece}, filepath.Join(t.TempDir(), "at")); err == nil {
				t.Error("a piece alone was mounted")
				release(t, unmount)
			}
		})
	}
}

func TestAStackIsWholeOrNone(t *testing.T) {
	needsRoot(t)
	s := open(t, t.TempDir())
	a := layer(t, s, "a", "echo a > file")
	b := layer(t, s, "b", "echo b > file", a)
	c := layer(t, s, "c", "echo c > file", a, b)
	stack, err := s.Stack(c.Key(), []*store.Layer{a})
	if err != nil || len(stack) != 3 || stack[0].Key() != a.Key() || stack[2].Key() != c.Key() {
		t.Fatalf("a stack of %d, %v", len(stack), err)
	}
	for _, l := range append(stack, a, b, c) {
		release(t, l.Release)
	}
	if err := os.RemoveAll(filepath.Join(s.Folder(), "layers", string(b.Key()))); err != nil {
		t.Fatal(err)
	}
	if stack, err := s.Stack(c.Key(), nil); err != nil || len(stack) != 0 {
		t.Errorf("without one that it stands on, a stack of %d, %v", len(stack), err)
	}
}
