package publish

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// TestFailuresOfFilesAreTheHostsFault has each place where a pull or push writes
// taken by something else.
func TestFailuresOfFilesAreTheHostsFault(t *testing.T) {
	r := newRelease(t, 1)
	ref := in(t, registryWith(t, nil), "debian")
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
			dst, err := Access{}.OpenDestination(t.Context(), parse(t, "oci:"+dir))
			if err != nil {
				t.Fatal(err)
			}
			mustMake(t, filepath.Join(dir, "index.json", "full"))
			_, err = Push(t.Context(), dst, ref, r, PushOptions{})
			return errors.Join(err, dst.Commit(t.Context()), dst.Close())
		},
		"a lock that is a folder": func(dir string) error {
			mustMake(t, filepath.Join(dir, lockName))
			_, err := pushTo(t, parse(t, "oci:"+dir), r, PushOptions{})
			return err
		},
		"a link where the part should be": func(dir string) error {
			d := download{desc: ocispec.Descriptor{Digest: r.Disks[0].Digest}, name: r.Disks[0].Name}
			if err := os.Symlink("/dev/null", filepath.Join(dir, d.part())); err != nil {
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
	for _, cause := range []error{unix.ENOSPC, unix.EROFS, unix.EACCES, unix.EIO, unix.EDQUOT} {
		err := explain("registry.example/debian", fmt.Errorf("copy: %w", &fs.PathError{Op: "write", Path: "/none", Err: cause}))
		if fail.ExitCode(err) != 3 || fail.Hint(err) == "" {
			t.Errorf("%v: exit code %d; hint %s", cause, fail.ExitCode(err), fail.Hint(err))
		}
	}
}

// TestBuildsThatCannotBeRead are told from those that are not whole.
func TestBuildsThatCannotBeRead(t *testing.T) {
	ref := in(t, registryWith(t, nil), "debian")
	gone, unreadable := newRelease(t, 2), newRelease(t, 2)
	for path, replace := range map[string]bool{gone.path(packagesName): false, unreadable.path(packagesName): true} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if replace {
			mustMake(t, path)
		}
	}
	for code, r := range map[int]Release{2: gone, 3: unreadable} {
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
	ref := in(t, registryWith(t, nil), "debian")
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

func TestOnePullAtATime(t *testing.T) {
	r := newRelease(t, 1)
	ref := in(t, registryWith(t, nil), "debian")
	mustPush(t, ref, r, PushOptions{})
	dir := t.TempDir()
	in, err := openFolder(dir, files.Owner{})
	if err != nil {
		t.Fatal(err)
	}
	d := download{desc: ocispec.Descriptor{Digest: r.Disks[0].Digest}, name: r.Disks[0].Name}
	part, err := in.locked(d.part(), os.O_RDWR)
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
	r := newRelease(t, 1)
	layout, archive := parse(t, "oci:"+filepath.Join(t.TempDir(), "layout")), parse(t, "oci-archive:"+filepath.Join(t.TempDir(), "debian.tar"))
	for _, ref := range []Reference{layout, archive} {
		mustPush(t, ref, r, PushOptions{})
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := pullWithin(ctx, t, ref, PullOptions{Folder: dir, ReadOptions: ReadOptions{Tell: func(Event) { cancel() }}})
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
	dst, err := Access{}.OpenDestination(t.Context(), parse(t, "oci-archive:"+filepath.Join(dir, "debian.tar")))
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
	if _, err := copyInto(ctx, io.Discard, bytes.NewReader(diskBytes(1))); !errors.Is(err, context.Canceled) {
		t.Errorf("a copy: %v", err)
	}
}

// TestOnlyWhatMayPassIsTriedAgain has failures as net/http and crypto/tls give
// them.
func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	request := func(err error) error { return &url.Error{Op: "Get", URL: "https://registry.example/v2/", Err: err} }
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"refused":         {request(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), true},
		"reset":           {request(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), true},
		"cut":             {request(io.ErrUnexpectedEOF), true},
		"cut, wrapped":    {request(fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", io.EOF)), true},
		"idle":            {request(errors.New("http: server closed idle connection")), true},
		"hangs":           {request(os.ErrDeadlineExceeded), true},
		"another version": {request(errors.New(`net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x00\x00\x12"`)), false},
		"no TLS":          {request(http.ErrSchemeMismatch), false},
		"refused by TLS":  {request(&net.OpError{Op: "remote error", Err: errors.New("tls: no application protocol")}), false},
		"old TLS":         {request(errors.New("tls: server selected unsupported protocol version 301")), false},
		"scheme":          {request(errors.New(`unsupported protocol scheme "oci"`)), false},
		"certificate":     {request(&tls.CertificateVerificationError{Err: errors.New("unknown authority")}), false},
		"host":            {request(&net.DNSError{IsNotFound: true}), false},
		"file":            {request(&fs.PathError{Op: "read", Path: "disk", Err: syscall.EIO}), false},
	} {
		if got := temporary(tc.err, statusOf(tc.err)); got != tc.want {
			t.Errorf("%s: %v is tried again: %v", name, tc.err, got)
		}
		if err := explain("registry.example/debian", tc.err); fail.Hint(err) == "" {
			t.Errorf("%s has no hint", name)
		}
	}
}
