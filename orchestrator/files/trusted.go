package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

const mostLinks = 40 // as many as the kernel follows (path_resolution(7))

// Trusted is why root must not write below a folder, or nil: somebody else could
// swap what root has just made there for something of his own, and root would follow.
// Root trusts folders that nobody but root and the caller of sudo can write, all the
// way down from /. Of a sticky folder, such as /tmp, it trusts what is theirs in it,
// but not the folder itself. What is not there yet is made by root. Other users than
// root lend nobody anything, and a job of GitLab has its folder for itself.
func Trusted(folder string) error {
	if os.Geteuid() != 0 || jobsOwn(folder) {
		return nil
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	caller := Caller()
	at, left := "/", elements(absolute)
	for links := 0; ; {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if problem := caller.distrust(info, len(left) == 0); problem != "" {
			return fail.New(fail.Host, "", "choose another folder, or mend that one with chown and chmod go-w", "root does not work in %s: %s %s", folder, at, problem)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			if links++; err != nil || links > mostLinks {
				return errors.Join(err, &fs.PathError{Op: "follow", Path: at, Err: syscall.ELOOP})
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			at, left = "/", append(elements(target), left...)
			continue
		}
		if len(left) == 0 {
			return nil
		}
		at, left = filepath.Join(at, left[0]), left[1:]
	}
}

// jobsOwn says whether a folder belongs to the job of GitLab that runs. Its runners
// give everybody all rights there, in a container that has no other users.
func jobsOwn(folder string) bool {
	project := os.Getenv("CI_PROJECT_DIR")
	if os.Getenv("GITLAB_CI") != "true" || project == "" || os.Getenv("SUDO_UID") != "" {
		return false
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return false
	}
	inside, err := filepath.Rel(project, absolute)
	return err == nil && filepath.IsLocal(inside)
}

func elements(absolute string) []string {
	return strings.FieldsFunc(absolute, func(r rune) bool { return r == filepath.Separator })
}

// distrust is who else can change what root would use, "" for nobody. last says that
// root is to write into it.
func (o Owner) distrust(info fs.FileInfo, last bool) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "has no owner that can be told"
	}
	const group, others = 0o020, 0o002
	sticky := info.Mode()&fs.ModeSticky != 0 && !last
	switch {
	case stat.Uid != 0 && (!o.known || int(stat.Uid) != o.uid):
		return "belongs to somebody else"
	case info.Mode()&fs.ModeSymlink != 0 || sticky:
		return ""
	case !info.IsDir():
		return "is no folder"
	case stat.Mode&others != 0:
		return "can be written by everybody"
	case stat.Mode&group != 0 && stat.Gid != 0 && !o.private(stat.Gid):
		return "can be written by its group"
	}
	return ""
}

// private says whether a group is the caller's own, as Debian makes one for each user.
func (o Owner) private(gid uint32) bool {
	return o.known && int(gid) == o.gid && o.gid == o.uid
}
