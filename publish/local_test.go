package publish

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

// TestFailuresOfFilesAreTheHostsFault has each place where a pull or push writes
// taken by something else.
func TestFailuresOfFilesAreTheHostsFault(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, r, PushOptions{})
	for name, do := range map[string]func(dir string) error{
		"rename onto a folder": func(dir string) error {
			mustMake(t, filepath.Join(dir, r.Disks[0].Name, "full"))
			_, err := pullTo(t, ref, PullOptions{Folder: dir, Overwrite: true})
			return err
		},
		"a file where a folder should be": func(dir string) error {
			mustWrite(t, filepath.Join(dir, "file"))
			_, err := pullTo(t, ref, PullOptions{Folder: filepath.Join(dir, "file", "got")})
			return err
		},
		"an archive in no folder": func(dir string) error {
			_, err := pushTo(t, parse(t, "oci-archive:"+filepath.Join(dir, "none", "debian.tar")), r, PushOptions{})
			return err
		},
		"an index that is a folder": func(dir string) error {
			dst, err := registry.Access{}.OpenDestination(t.Context(), parse(t, "oci:"+dir))
			if err != nil {
				t.Fatal(err)
			}
			mustMake(t, filepath.Join(dir, "index.json", "full"))
			_, err = Push(t.Context(), dst, ref, r, PushOptions{})
			return errors.Join(err, dst.Commit(t.Context()), dst.Close())
		},
		"a lock that is a folder": func(dir string) error {
			mustMake(t, filepath.Join(dir, ".lock"))
			_, err := pushTo(t, parse(t, "oci:"+dir), r, PushOptions{})
			return err
		},
		"a link where the part should be": func(dir string) error {
			if err := os.Symlink("/dev/null", filepath.Join(dir, partOf(r.Disks[0]))); err != nil {
				t.Fatal(err)
			}
			_, err := pullTo(t, ref, PullOptions{Folder: dir})
			return err
		},
	} {
		if err := do(t.TempDir()); fail.ExitCode(err) != 3 || fail.Hint(err) == "" || strings.Contains(fail.Hint(err), "connection") {
			t.Errorf("%s: exit code %d, %v; hint %s", name, fail.ExitCode(err), err, fail.Hint(err))
		}
	}
}

// TestBuildsThatCannotBeRead are told from those that are not whole.
func TestBuildsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	ref := in(t, registrytest.Start(t, nil), "debian")
	gone, unreadable := newRelease(t, 2), newRelease(t, 2)
	for path, replace := range map[string]bool{filepath.Join(gone.Folder, "packages.json"): false, filepath.Join(unreadable.Folder, "packages.json"): true} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if replace {
			mustMake(t, path)
		}
	}
	for code, r := range map[int]artifact.Release{2: gone, 3: unreadable} {
		if _, err := pushTo(t, ref, r, PushOptions{}); fail.ExitCode(err) != code || fail.Hint(err) == "" {
			t.Errorf("exit code %d, want %d: %v; hint %s", fail.ExitCode(err), code, err, fail.Hint(err))
		}
	}
}

func mustMake(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPulledFilesHaveTheUsualMode(t *testing.T) {
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, newRelease(t, 1), PushOptions{})
	before := unix.Umask(0o027)
	defer unix.Umask(before)
	pulled, err := pullTo(t, ref, PullOptions{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(pulled.Path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// partOf is the file that a pull receives a disk into.
func partOf(d artifact.Disk) string {
	return "." + d.Name + "." + d.Digest.Encoded()[:16] + ".part"
}

func TestOnePullAtATime(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	ref := in(t, registrytest.Start(t, nil), "debian")
	mustPush(t, ref, r, PushOptions{})
	dir := t.TempDir()
	part, err := os.Create(filepath.Join(dir, partOf(r.Disks[0])))
	if err == nil {
		err = unix.Flock(int(part.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pullTo(t, ref, PullOptions{Folder: dir}); fail.ExitCode(err) != 3 || !strings.Contains(err.Error(), "another pull") {
		t.Errorf("%v", err)
	}
	_ = part.Close()
	if _, err := pullTo(t, ref, PullOptions{Folder: dir}); err != nil {
		t.Error(err)
	}
}

// TestCopiesEndWithTheirContext interrupts what reads or writes a disk that lies
// on this machine, where no connection ends it.
func TestCopiesEndWithTheirContext(t *testing.T) {
	t.Parallel()
	r := newRelease(t, 1)
	layout, archive := parse(t, "oci:"+filepath.Join(t.TempDir(), "layout")), parse(t, "oci-archive:"+filepath.Join(t.TempDir(), "debian.tar"))
	for _, ref := range []registry.Reference{layout, archive} {
		mustPush(t, ref, r, PushOptions{})
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := pullWithin(ctx, t, ref, PullOptions{Folder: dir, ReadOptions: ReadOptions{Tell: func(registry.Event) { cancel() }}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", ref, err)
		}
		for _, name := range folderNames(t, dir) {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() >= r.Disks[0].Size {
				t.Errorf("%s: the whole disk was copied after the interrupt: %v", ref, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	dst, err := registry.Access{}.OpenDestination(t.Context(), parse(t, "oci-archive:"+filepath.Join(dir, "debian.tar")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Push(t.Context(), dst, archive, r, PushOptions{})
	if err := errors.Join(err, dst.Commit(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("an archive: %v", err)
	}
	if err := dst.Close(); err != nil || len(folderNames(t, dir)) != 0 {
		t.Errorf("left is %v; %v", folderNames(t, dir), err)
	}
}
