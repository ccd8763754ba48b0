package seal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// shadowFiles hold days on which passwords were changed (shadow(5)).
var shadowFiles = []string{"/etc/shadow"}

// Clamp takes the day of the build out of the tree at root: what was changed after the
// epoch was so at the epoch. What packages brought keeps its times. It may be repeated,
// and a tree that was clamped in between is the same.
func Clamp(root string, epoch time.Time) error { return ClampChanged(root, root, epoch) }

// ClampChanged does the same for a tree of which all was clamped but for the names that
// are in the folder changed.
func ClampChanged(root, changed string, epoch time.Time) error {
	tree := host.Tree(root)
	for _, name := range shadowFiles {
		if err := clampShadow(tree, name, epoch); err != nil {
			return err
		}
	}
	return clampBelow(root, changed, unix.NsecToTimespec(epoch.UnixNano()))
}

// clampBelow clamps the modification times of a file, of a folder after what is in it as
// far as changed has that, too.
func clampBelow(path, changed string, epoch unix.Timespec) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) && path != changed {
		return nil // that it is gone is what changed
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(changed)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := clampBelow(filepath.Join(path, entry.Name()), filepath.Join(changed, entry.Name()), epoch); err != nil {
				return err
			}
		}
		if info, err = os.Lstat(path); err != nil {
			return err
		}
	}
	at := info.Sys().(*syscall.Stat_t).Mtim
	if at.Sec < epoch.Sec || at.Sec == epoch.Sec && at.Nsec <= epoch.Nsec {
		return nil
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{epoch, epoch}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set the times of", Path: path, Err: err}
	}
	return nil
}

// clampShadow writes the file only where it names a day after the epoch.
func clampShadow(tree host.Tree, name string, epoch time.Time) error {
	info, err := tree.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	content, err := tree.Read(name)
	if err != nil {
		return err
	}
	clamped := clampDays(string(content), epoch.Unix()/(24*60*60))
	if clamped == string(content) {
		return nil
	}
	path, err := tree.Path(name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(clamped), info.Mode().Perm()) // in place: mode and owner stay
}

// clampDays is the lines of a shadow file with no change of a password after the day.
func clampDays(shadow string, day int64) string {
	var b strings.Builder
	for line := range strings.Lines(shadow) {
		fields := strings.Split(line, ":")
		if len(fields) > 2 {
			if changed, err := strconv.ParseInt(fields[2], 10, 64); err == nil && changed > day {
				fields = slices.Clone(fields)
				fields[2] = strconv.FormatInt(day, 10)
			}
		}
		b.WriteString(strings.Join(fields, ":"))
	}
	return b.String()
}

// Newest is when the last of the files in the tree at root was changed, in whole seconds:
// the date of a source that tells no other.
func Newest(root string) (newest time.Time, err error) {
	newest = time.Unix(0, 0)
	err = filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.ModTime().After(newest) {
			newest = info.ModTime().Add(time.Second - 1).Truncate(time.Second)
		}
		return err
	})
	return newest, err
}
