package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

const mostLinks = 40 // as many as the kernel follows (path_resolution(7))

// Prepare makes a folder and those above it where there are none, hands over what it
// makes to the owner, and is why root must not write there, or nil. It is to be called
// right before the folder is used: what is trusted then stays so.
func Prepare(folder string, owner Owner) error {
	// Before, since root makes nothing for others; and after, since somebody may have
	// been faster.
	if err := Trusted(folder); err != nil {
		return err
	}
	if err := owner.MakeFolders(folder); err != nil {
		return err
	}
	return Trusted(folder)
}

// Trusted is why root must not write below a folder, or nil: somebody else could
// swap what root has just made there for something of his own, and root would follow.
// Root trusts folders that nobody but root and the caller of sudo can write, all the
// way down from /. Of a sticky folder, such as /tmp, it trusts what is theirs in it,
// but not the folder itself. A folder that is not there yet is trusted where those
// above it are. Other users than root lend nobody anything, also where they are root of
// a user namespace, and a job of GitLab has its folder for itself.
func Trusted(folder string) error {
	if os.Geteuid() != 0 || ordinaryOutside() || jobsOwn(folder) {
		return nil
	}
	if !filepath.IsAbs(folder) {
		working, err := os.Getwd()
		if err != nil {
			return err
		}
		folder = working + "/" + folder // not cleaned: what .. leads to depends on links
	}
	caller := Caller()
	at, left := "/", elements(folder)
	for links := 0; ; {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if problem, hint := caller.distrust(at, info, len(left) == 0); problem != "" {
			return fail.New(fail.Host, "", hint, "root does not work in %s: %s %s", folder, at, problem)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			if links++; err != nil || links > mostLinks {
				return errors.Join(err, &fs.PathError{Op: "follow", Path: at, Err: syscall.ELOOP})
			}
			at, left = filepath.Dir(at), append(elements(target), left...)
			if filepath.IsAbs(target) {
				at = "/"
			}
			continue
		}
		if len(left) == 0 {
			return nil
		}
		at, left = filepath.Join(at, left[0]), left[1:] // at has no link in it, so .. is its parent
	}
}

// ordinaryOutside says whether root of this user namespace is an ordinary user of the one
// around it.
var ordinaryOutside = sync.OnceValue(func() bool {
	content, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside uint32 // of the first ids; user_namespaces(7)
	if _, scanning := fmt.Sscan(string(content), &inside, &outside); err != nil || scanning != nil {
		return false
	}
	return inside == 0 && outside != 0
})

// jobsOwn says whether a folder belongs to the job of GitLab that runs. Its runners
// give everybody all rights there, in a container that has no other users.
func jobsOwn(folder string) bool {
	project := os.Getenv("CI_PROJECT_DIR")
	if os.Getenv("GITLAB_CI") != "true" || project == "" || os.Getenv("SUDO_UID") != "" {
		return false
	}
	project, err := filepath.EvalSymlinks(project)
	if err != nil {
		return false
	}
	for { // the part of the folder that is there
		real, err := filepath.EvalSymlinks(folder)
		if err == nil {
			if real, err = filepath.Abs(real); err != nil {
				return false
			}
			inside, err := filepath.Rel(project, real)
			return err == nil && filepath.IsLocal(inside)
		}
		if !errors.Is(err, fs.ErrNotExist) || folder == filepath.Dir(folder) {
			return false
		}
		folder = filepath.Dir(folder)
	}
}

func elements(absolute string) []string {
	return strings.FieldsFunc(absolute, func(r rune) bool { return r == filepath.Separator })
}

// distrust is who else can change what root would use, "" for nobody, and what to do
// about it. last says that root is to write into it.
func (o Owner) distrust(path string, info fs.FileInfo, last bool) (problem, hint string) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "has no owner that can be told", elsewhere
	}
	const group, others = 0o020, 0o002
	sticky := info.Mode()&fs.ModeSticky != 0
	mend := elsewhere + ", or run: chmod go-w " + path
	switch {
	case stat.Uid != 0 && (!o.known || int(stat.Uid) != o.uid):
		return "belongs to somebody else", fmt.Sprintf("%s; where user %d is you, set SUDO_UID=%d and SUDO_GID=%d as sudo does", elsewhere, stat.Uid, stat.Uid, stat.Gid)
	case info.Mode()&fs.ModeSymlink != 0 || sticky && !last:
		return "", ""
	case !info.IsDir():
		return "is no folder", elsewhere
	case sticky && stat.Mode&(group|others) != 0:
		return "can be written by others", "name a folder in it, such as " + filepath.Join(path, "images")
	case stat.Mode&others != 0:
		return "can be written by everybody", mend
	case stat.Mode&group != 0 && !o.private(stat.Gid):
		return "can be written by its group", mend
	case stat.Mode&group != 0 && hasACL(path):
		return "can be written by those whom its access control list names", elsewhere + ", or run: setfacl -b " + path
	}
	return "", ""
}

const elsewhere = "choose another folder"

// private says whether a group is root's or the caller's own, as Debian makes one for
// each user, with nobody else in it.
func (o Owner) private(gid uint32) bool {
	if gid != 0 && (!o.known || int(gid) != o.gid || o.gid != o.uid) {
		return false
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.Split(strings.TrimSpace(line), ":") // group(5): name, password, number, members
		if len(fields) == 4 && fields[2] == strconv.FormatUint(uint64(gid), 10) && strings.Trim(fields[3], ",") != "" && fields[3] != fields[0] && fields[3] != "root" {
			return false
		}
	}
	return true
}

// hasACL says whether a folder has an access control list (acl(5)), of which the
// group's permissions show no more than the sum.
func hasACL(path string) bool {
	_, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return err == nil
}
