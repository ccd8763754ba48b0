package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/image"
)

// Names of the files beside the images.
const (
	LogName       = "build.log"
	ManifestName  = "build.json"
	PackagesName  = "packages.json"
	ReportName    = "report.html"
	ChecksumsName = "SHA256SUMS"
)

// workspace is where one build works, beside where its results go, so that
// they can be moved there at once.
type workspace struct {
	final  string // NAME
	failed string // NAME.failed
	work   string // .NAME.work
	out    string // .NAME.work/out: what becomes NAME
	owner  files.Owner
	erase  func(folder string) error // as os.RemoveAll, also what a jail has left
	log    *os.File
	lock   *flock.Flock
}

// openWorkspace takes the lock of the build's folder and removes what an
// earlier build left. A lock that is held, and a folder that cannot be written or that
// root must not trust, is a *fail.Error at once.
func openWorkspace(folder, name string, erase func(folder string) error) (*workspace, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	w, err := newWorkspace(folder, name, erase)
	if err != nil && fail.ExitCode(err) != fail.Usage.ExitCode() {
		err = &fail.Error{Kind: fail.Host, Op: "output folder", Err: err, Hint: cmp.Or(fail.Hint(err), "choose another with -o")}
	}
	return w, err
}

func newWorkspace(folder, name string, erase func(folder string) error) (*workspace, error) {
	final, err := ResultsFolder(folder, name)
	if err != nil {
		return nil, err
	}
	w := &workspace{
		owner: files.Caller(), erase: erase,
		final: final, failed: final + definition.FailedSuffix,
		work: filepath.Join(folder, "."+name+".work"), lock: openLock(filepath.Join(folder, "."+name+".lock")),
	}
	w.out = filepath.Join(w.work, "out")
	if err := w.refuseForeign(); err != nil {
		return nil, err
	}
	if err := files.Prepare(folder, w.owner); err != nil {
		return nil, err
	}
	locked, err := w.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", w.final, err)
	}
	if !locked {
		return nil, fail.New(fail.Host, "", "wait for it, or choose another folder with -o", "%s is locked: another build of %s is running", folder, name)
	}
	if err := errors.Join(w.owner.Give(w.lock.Path()), w.prepare()); err != nil {
		return nil, errors.Join(err, w.lock.Unlock())
	}
	return w, nil
}

// refuseForeign refuses to replace what no build has made.
func (w *workspace) refuseForeign() error {
	const hint = "choose another folder with -o, or move it away"
	if err := RefuseForeign(w.final, hint); err != nil {
		return err
	}
	return RefuseForeign(w.failed, hint)
}

// openLock is a lock on a file that is made where there is none; a link is not
// followed, and a FIFO does not block.
func openLock(path string) *flock.Flock {
	return flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK), flock.SetPermissions(0o644))
}

func (w *workspace) prepare() error {
	if err := w.erase(w.work); err != nil {
		return fmt.Errorf("remove what an earlier build left: %w", err)
	}
	if err := os.MkdirAll(w.out, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(w.work, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(w.out, LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	w.log = log
	return err
}

// deliver writes the files beside the images and puts the whole folder in
// place of the build before it.
func (w *workspace) deliver(ctx context.Context, m Manifest, facts DiskFacts) error {
	if err := errors.Join(
		writeJSON(filepath.Join(w.out, ManifestName), m),
		writeJSON(filepath.Join(w.out, PackagesName), facts.Packages),
	); err != nil {
		return err
	}
	if err := writeChecksums(ctx, w.out, m.Outputs); err != nil {
		return err
	}
	if err := syncFiles(w.out); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(w.out, 0o755), w.owner.GiveFolder(w.out)); err != nil {
		return err
	}
	if err := w.refuseForeign(); err != nil { // what has come while the build ran
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, w.out, unix.AT_FDCWD, w.final, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(w.out, w.final)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that cannot exchange
		before := filepath.Join(w.work, "before")
		if err = os.Rename(w.final, before); err == nil {
			if err = os.Rename(w.out, w.final); err != nil {
				err = errors.Join(err, os.Rename(before, w.final))
			}
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(files.Sync(filepath.Dir(w.final)), os.RemoveAll(w.failed))
}

// close ends the work. The logs of a build that failed are kept in NAME.failed, and what
// screens showed; its images are not.
func (w *workspace) close(failure error) error {
	var problems []error
	if failure != nil {
		problems = append(problems, w.keepLogs(failure))
	}
	problems = append(problems, w.log.Close(), w.erase(w.work), w.lock.Unlock())
	return errors.Join(problems...)
}

// keepLogs makes the output what is kept of it: the logs and screens. It makes nothing new, since the
// disk may be full.
func (w *workspace) keepLogs(failure error) error {
	fmt.Fprintln(w.log, failure)
	if err := RefuseForeign(w.failed, "move it away"); err != nil {
		return err
	}
	names, err := fileNames(w.out)
	if err != nil {
		return err
	}
	for _, name := range names {
		if isKept(name) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(w.out, name)); err != nil {
			return err
		}
	}
	return errors.Join(os.Chmod(w.out, 0o755), w.owner.GiveFolder(w.out), os.RemoveAll(w.failed), os.Rename(w.out, w.failed))
}

// LogPath is where the log of a build lies after it has ended.
func LogPath(folder, name string, failed bool) string {
	if failed {
		name += definition.FailedSuffix
	}
	return filepath.Join(folder, name, LogName)
}

func writeJSON(path string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// writeChecksums writes SHA256SUMS for all other files but the log, which is
// still being written. The images' sums are known already.
func writeChecksums(ctx context.Context, folder string, known []image.File) error {
	names, err := fileNames(folder)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, name := range names {
		if name == LogName {
			continue
		}
		sum, err := "", error(nil)
		if i := slices.IndexFunc(known, func(f image.File) bool { return f.Name == name }); i >= 0 {
			sum = known[i].SHA256
		} else if sum, _, err = image.Digest(ctx, filepath.Join(folder, name)); err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%s  %s\n", sum, name)
	}
	return os.WriteFile(filepath.Join(folder, ChecksumsName), []byte(lines.String()), 0o644)
}

func fileNames(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	slices.Sort(names)
	return names, nil
}

// tellAndWriteOut tells, and has the kernel begin to write a finished disk that is a result out
// while it is checked: syncFiles then need not wait for it.
func (b Builder) tellAndWriteOut(plan Plan, space *workspace) func(Event) {
	if !slices.Contains(plan.Definition.Outputs, diskformat.Raw) {
		return b.Tell
	}
	return func(e Event) {
		if e.Kind == StageEnded && e.Stage == diskTitle && !e.Failed {
			go writeOut(filepath.Join(space.work, rawDiskName))
		}
		b.Tell(e)
	}
}

func writeOut(path string) {
	if file, err := os.Open(path); err == nil {
		_ = unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		_ = file.Close()
	}
}

// syncFiles makes the folder's content survive a power failure, before the
// rename that makes it the good one.
func syncFiles(folder string) error {
	names, err := fileNames(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return files.Sync(folder)
}
