package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// Download is a file that came from an archive of packages: a package, or a list of
// packages. Its digest names it, so that whoever has the digest from elsewhere can trust
// the file once it has been checked.
type Download struct {
	SHA256  Key       `json:"key"`
	Name    string    `json:"name"`
	Size    int64     `json:"size"` // bytes that it takes on its file system
	Used    time.Time `json:"used"`
	Problem string    `json:"problem,omitempty"` // why it cannot be used
}

func (d Download) fileName() string { return string(d.SHA256) + "-" + d.Name }

const longestDownload = 180 // bytes of a name: with the digest, a file system takes it

// downloadNamed reads the name of a file in the folder of downloads.
func downloadNamed(file string) (d Download, ok bool) {
	sum, name, _ := strings.Cut(file, "-")
	d = Download{SHA256: Key(sum), Name: name}
	return d, d.SHA256.check() == nil && name != "" && len(name) <= longestDownload && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r > '~' })
}

// DownloadsFolder holds the downloads, each as SHA256-NAME. What is in it may be damaged.
func (s *Store) DownloadsFolder() string { return s.downloads }

func (s *Store) downloadPath(d Download) string { return filepath.Join(s.downloads, d.fileName()) }

// Downloads is all files from archives, by name.
func (s *Store) Downloads() ([]Download, error) {
	entries, err := os.ReadDir(s.downloads)
	if err != nil {
		return nil, explain("list what was downloaded", err)
	}
	all := []Download{}
	for _, entry := range entries {
		d, ok := downloadNamed(entry.Name())
		if !ok {
			continue
		}
		var stat unix.Stat_t
		if err := unix.Lstat(s.downloadPath(d), &stat); err != nil {
			continue // it is gone meanwhile
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		d.Size, d.Used = stat.Blocks*512, time.Unix(stat.Mtim.Unix())
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Download) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.SHA256, b.SHA256)) })
	return all, nil
}

// VerifyDownloads is Downloads, where what does not have its digest has a Problem.
func (s *Store) VerifyDownloads(ctx context.Context) ([]Download, error) {
	all, err := s.Downloads()
	if err != nil {
		return nil, err
	}
	var there []Download
	for _, d := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		sum, err := digestFile(s.downloadPath(d))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil && !isDamage(err):
			return nil, explain("verify "+d.Name, err)
		case err != nil:
			d.Problem = err.Error()
		case sum != string(d.SHA256):
			d.Problem = "damaged: its SHA-256 is " + sum
		}
		there = append(there, d)
	}
	return there, nil
}

func digestFile(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// RemoveDownload removes a file. It may be in use: who has opened it keeps it.
func (s *Store) RemoveDownload(d Download) error {
	err := os.Remove(s.downloadPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return explain("remove "+d.Name, err)
}

// HoldDownloads keeps Collect from removing downloads until it is released or the process
// ends: for a build that cannot fetch them again.
func (s *Store) HoldDownloads() (release func() error, err error) {
	lock, err := hold(s.downloads, unix.LOCK_SH)
	if err != nil {
		return nil, explain("use what was downloaded", err)
	}
	if lock == nil {
		return nil, fmt.Errorf("%s is gone", s.downloads)
	}
	return lock.Close, nil
}

// Incoming is a folder for what is being downloaded. Anybody may write in it, by the time
// it is looked at nobody does.
type Incoming struct {
	store  *Store
	folder string
	lock   *os.File
}

// Receive makes a folder for what will be downloaded.
func (s *Store) Receive() (*Incoming, error) {
	folder, lock, err := s.newWork()
	if err != nil {
		return nil, explain("receive downloads", err)
	}
	in := &Incoming{s, folder, lock}
	if err := os.Mkdir(in.Folder(), 0o700); err != nil {
		return nil, explain("receive downloads", errors.Join(err, in.Discard()))
	}
	return in, nil
}

// Folder is where downloads are put, as SHA256-NAME.
func (in *Incoming) Folder() string { return filepath.Join(in.folder, "new") }

// Take moves a file into the store, if it has the digest in its name.
func (in *Incoming) Take(file string) error {
	d, ok := downloadNamed(file)
	if !ok {
		return fmt.Errorf("%q is no name of a download", file)
	}
	path := filepath.Join(in.Folder(), file)
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Nlink != 1 {
		return fmt.Errorf("%s is no file of its own", file)
	}
	sum, err := digestFile(path)
	if err != nil {
		return err
	}
	if sum != string(d.SHA256) {
		return fmt.Errorf("%s has another digest", file)
	}
	err = errors.Join(os.Chown(path, os.Geteuid(), os.Getegid()), os.Chmod(path, 0o644))
	if err == nil {
		now := time.Now()
		err = os.Chtimes(path, now, now)
	}
	if err == nil {
		err = os.Rename(path, in.store.downloadPath(d))
	}
	return explain("keep "+d.Name, err)
}

// partialName is the folder of files that are being downloaded, beside the others.
const partialName = "partial"

// Partial is a folder for what is being downloaded and is not whole: the next build may go on
// with it. Collect removes what nobody has gone on with for a week.
func (s *Store) Partial() (string, error) { return s.Own(partialName) }

const staleAfter = 7 * 24 * time.Hour

// stale removes what was begun to be downloaded long ago.
func (c *collection) stale() {
	folder := filepath.Join(c.store.folder, partialName)
	entries, err := os.ReadDir(folder)
	if !errors.Is(err, fs.ErrNotExist) {
		c.failed(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < staleAfter {
			continue
		}
		if err := os.Remove(filepath.Join(folder, entry.Name())); err == nil {
			c.freed += info.Size()
		}
	}
}

var notInDownload = regexp.MustCompile(`[^A-Za-z0-9.+~_-]+`)

// Adopt moves a file of the store's file system, which has that SHA-256, among the
// downloads, and gives the name that it has in their folder.
func (s *Store) Adopt(path, sha256, name string) (file string, err error) {
	name = strings.Trim(notInDownload.ReplaceAllString(name, "_"), "_")
	d := Download{SHA256: Key(sha256), Name: cmp.Or(name[:min(len(name), longestDownload)], "file")}
	if _, ok := downloadNamed(d.fileName()); !ok {
		return "", fmt.Errorf("%q is no name of a download", d.fileName())
	}
	now := time.Now()
	err = errors.Join(os.Chmod(path, 0o644), os.Chtimes(path, now, now))
	if err == nil {
		err = os.Rename(path, s.downloadPath(d))
	}
	return d.fileName(), explain("keep "+d.Name, err)
}

// Kept is the name, in the folder of downloads, of a file that has that SHA-256 by its name;
// "" for none.
func (s *Store) Kept(sha256 string) (file string, err error) {
	entries, err := os.ReadDir(s.downloads)
	for _, entry := range entries {
		if d, ok := downloadNamed(entry.Name()); ok && string(d.SHA256) == sha256 && entry.Type().IsRegular() {
			return entry.Name(), nil
		}
	}
	return "", explain("list what was downloaded", err)
}

// Used says that a download was used now.
func (s *Store) Used(file string) {
	if d, ok := downloadNamed(file); ok {
		now := time.Now()
		_ = os.Chtimes(s.downloadPath(d), now, now) // it may be gone
	}
}

// Discard removes the folder.
func (in *Incoming) Discard() error {
	return errors.Join(erase(in.folder), in.lock.Close())
}

// FindDownload is the one download whose digest begins with the prefix.
func (s *Store) FindDownload(prefix string) (Download, error) {
	all, err := s.Downloads()
	if err != nil {
		return Download{}, err
	}
	var found []Download
	for _, d := range all {
		if strings.HasPrefix(string(d.SHA256), strings.ToLower(prefix)) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return Download{}, unknown(Key(prefix))
	case found[0].SHA256 != found[len(found)-1].SHA256:
		return Download{}, fail.New(fail.Usage, "", "give more digits", "%d downloads begin with %s", len(found), prefix)
	}
	return found[0], nil
}
