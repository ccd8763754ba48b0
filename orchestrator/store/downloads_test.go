package store_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/store"
)

func sumOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// download puts a file into the store as if it had been downloaded, last used so many
// hours ago.
func download(t *testing.T, s *store.Store, name, content string, ago int) store.Download {
	t.Helper()
	in, err := s.Receive()
	if err != nil {
		t.Fatal(err)
	}
	file := sumOf(content) + "-" + name
	if err := errors.Join(os.WriteFile(filepath.Join(in.Folder(), file), []byte(content), 0o600), in.Take(file), in.Discard()); err != nil {
		t.Fatal(err)
	}
	d, err := s.FindDownload(sumOf(content)[:8])
	if err != nil {
		t.Fatal(err)
	}
	used := time.Now().Add(-time.Duration(ago) * time.Hour)
	if err := os.Chtimes(filepath.Join(s.DownloadsFolder(), file), used, used); err != nil {
		t.Fatal(err)
	}
	return d
}

func downloadNames(t *testing.T, s *store.Store) string {
	t.Helper()
	all, err := s.Downloads()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	return strings.Join(names, " ")
}

// What comes from a tree is taken by its digest alone, whatever it calls itself.
func TestOnlyWhatHasItsDigestIsTaken(t *testing.T) {
	s := open(t, t.TempDir())
	in, err := s.Receive()
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(in.Folder(), name) }
	const content = "a package"
	good, lie := sumOf(content)+"-good.deb", sumOf("another")+"-lie.deb"
	linked, folder, twice := sumOf(content)+"-link.deb", sumOf(content)+"-folder.deb", sumOf("twice")+"-twice.deb"
	if err := errors.Join(
		os.WriteFile(at(good), []byte(content), 0o666), os.WriteFile(at(lie), []byte(content), 0o666),
		os.Symlink("/etc/passwd", at(linked)), os.Mkdir(at(folder), 0o777),
		os.WriteFile(at(twice), []byte("twice"), 0o666), os.Link(at(twice), at("other")),
	); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{lie, linked, folder, twice, sumOf("missing") + "-missing.deb", "../../secret", sumOf(content), sumOf(content) + "-", sumOf(content) + "-a/../b"} {
		if err := in.Take(file); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
	if err := in.Take(good); err != nil || downloadNames(t, s) != "good.deb" {
		t.Errorf("%q, %v", downloadNames(t, s), err)
	}
	info, err := os.Stat(filepath.Join(s.DownloadsFolder(), good))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if err := in.Discard(); err != nil {
		t.Error(err)
	}
	empty(t, s)
}

func TestDamagedDownloadsAreFoundAndReplaced(t *testing.T) {
	s := open(t, t.TempDir())
	d := download(t, s, "a.deb", "a package", 0)
	download(t, s, "b.deb", "b package", 0)
	if err := os.WriteFile(filepath.Join(s.DownloadsFolder(), string(d.SHA256)+"-a.deb"), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	problems := func() (n int) {
		all, err := s.VerifyDownloads(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		for _, d := range all {
			if d.Problem != "" {
				n++
			}
		}
		return n
	}
	if n := problems(); n != 1 {
		t.Errorf("%d are damaged", n)
	}
	download(t, s, "a.deb", "a package", 0)
	if n := problems(); n != 0 {
		t.Errorf("%d are damaged", n)
	}
}

func TestDownloadsCountAndGoWhenTheyWereNotUsedForLongest(t *testing.T) {
	needsRoot(t)
	megabyte := func(c string) string { return strings.Repeat(c, 1_000_000) }
	fill := func() *store.Store {
		s := open(t, t.TempDir())
		l := layer(t, s, "a", "head -c 1000000 /dev/zero > a")
		when := time.Now().Add(-5 * time.Hour)
		if err := os.Chtimes(filepath.Join(s.Folder(), "layers", string(l.Key()), "used"), when, when); err != nil {
			t.Fatal(err)
		}
		release(t, l.Release)
		for name, ago := range map[string]int{"old.deb": 9, "older.deb": 10, "new.deb": 1} {
			download(t, s, name, megabyte(name[:3])[:1_000_000-ago], ago)
		}
		return s
	}
	for limit, want := range map[int64]string{
		0: "a: new.deb old.deb older.deb", 4_400_000: "a: new.deb old.deb older.deb", 3_300_000: "a: new.deb old.deb",
		2_200_000: "a: new.deb", 1_100_000: ": new.deb", 1: ": ",
	} {
		s := fill()
		_, _, err := s.Collect(limit)
		if got := names(t, s) + ": " + downloadNames(t, s); err != nil || got != want {
			t.Errorf("limit %d: left %q, want %q: %v", limit, got, want, err)
		}
	}
	s := fill()
	held, err := s.HoldDownloads()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Collect(1); err != nil || downloadNames(t, s) != "new.deb old.deb older.deb" {
		t.Errorf("left %q, which a build needs: %v", downloadNames(t, s), err)
	}
	release(t, held)
	if _, _, err := s.Collect(1); err != nil || downloadNames(t, s) != "" {
		t.Errorf("left %q: %v", downloadNames(t, s), err)
	}
}

func TestWhatAKilledBuildReceivedGoes(t *testing.T) {
	s := open(t, t.TempDir())
	killed := filepath.Join(s.Folder(), "work", "KILLED")
	if err := errors.Join(os.MkdirAll(filepath.Join(killed, "new"), 0o700), os.WriteFile(filepath.Join(killed, "new", sumOf("x")+"-x.deb"), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	in, err := s.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Collect(0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(killed); err == nil {
		t.Error("it stays")
	}
	if _, err := os.Stat(in.Folder()); err != nil {
		t.Error("what a running build receives goes", err)
	}
	if err := in.Discard(); err != nil {
		t.Error(err)
	}
}

func TestSeveralBuildsDownloadTheSame(t *testing.T) {
	folder := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := store.Open(folder)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 20 {
				in, err := s.Receive()
				if err != nil {
					t.Error(err)
					return
				}
				content := fmt.Sprint(i)
				file := sumOf(content) + "-" + content + ".deb"
				if err := errors.Join(os.WriteFile(filepath.Join(in.Folder(), file), []byte(content), 0o600), in.Take(file), in.Discard()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	found, err := open(t, folder).VerifyDownloads(t.Context())
	if err != nil || len(found) != 20 {
		t.Errorf("%d downloads: %v", len(found), err)
	}
	for _, d := range found {
		if d.Problem != "" {
			t.Errorf("%+v", d)
		}
	}
}

func TestADownloadIsFoundByTheStartOfItsDigest(t *testing.T) {
	s := open(t, t.TempDir())
	d := download(t, s, "a.deb", "a package", 0)
	if got, err := s.FindDownload(string(d.SHA256[:12])); err != nil || got.Name != "a.deb" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.FindDownload("0123456789abcdef"); fail.ExitCode(err) != 2 {
		t.Error(err)
	}
	if err := errors.Join(s.RemoveDownload(d), s.RemoveDownload(d)); err != nil || downloadNames(t, s) != "" {
		t.Error(err)
	}
}
