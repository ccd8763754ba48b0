package orchestrator

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// makeRunWritable lets the jail make stageFolder where /run is somebody else's, as it is
// for root of an ordinary user's jail: by a /run of its own, in which all that was there
// still is.
func makeRunWritable(h host.Host) error {
	run := filepath.Dir(stageFolder)
	if err := unix.Faccessat(unix.AT_FDCWD, run, unix.W_OK, unix.AT_EACCESS); err == nil {
		return nil
	}
	before, err := unix.Open(run, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: run, Err: err}
	}
	folder := os.NewFile(uintptr(before), run)
	defer folder.Close()
	entries, err := folder.ReadDir(-1)
	if err != nil {
		return err
	}
	if err := memory(h, run); err != nil {
		return err
	}
	for _, entry := range entries {
		err := showAgain(before, entry, filepath.Join(run, entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has gone meanwhile
			return err
		}
	}
	return nil
}

// showAgain gives what lies in an open folder its name again, over which something else
// was mounted.
func showAgain(folder int, entry fs.DirEntry, path string) error {
	switch {
	case entry.Type()&fs.ModeSymlink != 0:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(folder, entry.Name(), target)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: path, Err: err}
		}
		return os.Symlink(string(target[:n]), path)
	case entry.IsDir():
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
	}
	mount, err := unix.OpenTree(folder, entry.Name(), unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &fs.PathError{Op: "open the tree", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(mount) }()
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "mount on", Path: path, Err: err}
	}
	return nil
}

// hideHome gives the jail's tools an empty home where root's is somebody else's, which they
// may not look into.
func hideHome(h host.Host) error {
	const home = "/root" // as host.CleanEnv has it
	err := unix.Faccessat(unix.AT_FDCWD, home, unix.R_OK|unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, unix.EACCES) {
		return memory(h, home)
	}
	return nil
}
