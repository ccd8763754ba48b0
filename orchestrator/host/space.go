package host

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FreeSpace is the bytes that files of this user can still take on the file system that a
// file or folder is on.
func FreeSpace(path string) (bytes int64, err error) {
	stat, err := statfs(path)
	return freeOf(stat), err
}

// leastSpace is what a file system may still say that it has when it is full, in bytes.
const leastSpace = 256 << 10

// Full says whether next to nothing more can be written to the file system that a file or
// folder is on.
func Full(path string) bool {
	stat, err := statfs(path)
	return err == nil && stat.Blocks > 0 && freeOf(stat) < leastSpace
}

func freeOf(stat unix.Statfs_t) int64 {
	if os.Geteuid() == 0 {
		return int64(stat.Bfree) * stat.Bsize
	}
	return int64(stat.Bavail) * stat.Bsize
}

func statfs(path string) (stat unix.Statfs_t, err error) {
	if err := unix.Statfs(path, &stat); err != nil {
		return stat, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return stat, nil
}
