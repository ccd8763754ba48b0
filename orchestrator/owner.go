package orchestrator

import (
	"os"
	"path/filepath"
	"strconv"
)

// owner is who gets the results of a build that sudo started: the user who
// called sudo, so that nothing needs root once the image is there.
type owner struct {
	uid, gid int
	known    bool
}

// caller is who called sudo, as sudo(8) says in the environment.
func caller() owner {
	uid, err := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 31)
	if err != nil || os.Geteuid() != 0 {
		return owner{}
	}
	gid, err := strconv.ParseUint(os.Getenv("SUDO_GID"), 10, 31)
	return owner{uid: int(uid), gid: int(gid), known: err == nil}
}

// give hands a folder of files over. Nobody else may be able to put links
// there at the same time.
func (o owner) give(folder string) error {
	if !o.known {
		return nil
	}
	names, err := fileNames(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Lchown(filepath.Join(folder, name), o.uid, o.gid); err != nil {
			return err
		}
	}
	return os.Lchown(folder, o.uid, o.gid)
}
