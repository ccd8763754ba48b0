package store_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

const (
	privateVariable = "VMCTL_TEST_PRIVATE" // set: the mounts are this process's own
	helperVariable  = "VMCTL_TEST_HELPER"  // JSON of the helper that this process is
)

// TestMain runs the tests in a mount namespace, so that nothing stays mounted after a
// test that fails, and is the helper processes of the tests.
func TestMain(m *testing.M) {
	if told := os.Getenv(helperVariable); told != "" {
		if err := help(told); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() == 0 && os.Getenv(privateVariable) == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			fmt.Fprintln(os.Stderr, "the tests mount, and need a namespace for that:", err)
			os.Exit(1)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), privateVariable+"=1"))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts; make test runs this as root")
	}
}

func key(name string) store.Key {
	sum := sha256.Sum256([]byte(name))
	return store.Key(hex.EncodeToString(sum[:]))
}

func open(t *testing.T, folder string) *store.Store {
	t.Helper()
	s, err := store.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	s.Note = func(text string) { t.Log(text) }
	return s
}

func shell(t *testing.T, dir, script string) string {
	t.Helper()
	out, err := runShell(dir, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func runShell(dir, script string) (string, error) {
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return string(out), err
}

func release(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Error(err)
	}
}

// begin starts a layer that is discarded with the test.
func begin(t *testing.T, s *store.Store, below ...*store.Layer) *store.Work {
	t.Helper()
	w, err := s.Begin(t.Context(), &host.Local{}, below, filepath.Join(t.TempDir(), "at"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release(t, w.Discard) })
	return w
}

func commit(t *testing.T, w *store.Work, name string) *store.Layer {
	t.Helper()
	layer, err := w.Commit(t.Context(), key(name), store.About{Build: name, Title: "Layer " + name, Data: json.RawMessage(`{"name":"` + name + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release(t, layer.Release) })
	return layer
}

// layer makes the layer of a name by a script.
func layer(t *testing.T, s *store.Store, name, script string, below ...*store.Layer) *store.Layer {
	t.Helper()
	w := begin(t, s, below...)
	shell(t, w.Root(), script)
	return commit(t, w, name)
}

// get is the layer of a name, which must be there or not.
func get(t *testing.T, s *store.Store, name string, there bool) *store.Layer {
	t.Helper()
	layer, err := s.Get(key(name))
	if err != nil {
		t.Fatal(err)
	}
	if (layer != nil) != there {
		t.Fatalf("layer %s is there: %t, want %t", name, layer != nil, there)
	}
	if layer != nil {
		t.Cleanup(func() { release(t, layer.Release) })
	}
	return layer
}

// mounted calls f with the folder where the layers are mounted.
func mounted(t *testing.T, s *store.Store, layers []*store.Layer, f func(at string)) {
	t.Helper()
	at := filepath.Join(t.TempDir(), "mounted")
	unmount, err := s.Mount(&host.Local{}, layers, at)
	if err != nil {
		t.Fatal(err)
	}
	defer release(t, unmount)
	f(at)
}

// mount mounts a file system until the test ends.
func mount(t *testing.T, kind, at, data string) {
	t.Helper()
	unmount, err := (&host.Local{}).Mount(host.Mount{Source: kind, Target: at, Type: kind, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release(t, unmount) })
}

// The kinds of file systems that a store may be on.
var fileSystems = map[string]struct {
	folder func(t *testing.T) string
	mode   store.Mode
}{
	"disk": {func(t *testing.T) string { return t.TempDir() }, store.Overlay},
	"tmpfs": {func(t *testing.T) string {
		dir := t.TempDir()
		mount(t, "tmpfs", dir, "size=64m,mode=700")
		return dir
	}, store.Overlay},
	"overlay": {overlaid, store.Copy},
}

// overlaid is a folder on an overlay, as the root of a container is one.
func overlaid(t *testing.T) string {
	dir := t.TempDir()
	shell(t, dir, "mkdir lower upper work at")
	at := filepath.Join(dir, "at")
	mount(t, "overlay", at, fmt.Sprintf("userxattr,lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
	return at
}

// snapshot is all that a tree shows of itself, without times.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d", stat.Mode, stat.Uid, stat.Gid)
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" links %d, %x", stat.Nlink, sha256.Sum256(content))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			text += fmt.Sprintf(" device %x", stat.Rdev)
		}
		buffer := make([]byte, 4096)
		n, err := unix.Llistxattr(path, buffer)
		if err != nil {
			return err
		}
		names := strings.Fields(string(bytes.ReplaceAll(buffer[:n], []byte{0}, []byte{' '})))
		slices.Sort(names)
		for _, name := range names {
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %s=%q", name, value[:n])
		}
		rel, err := filepath.Rel(root, path)
		all[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
