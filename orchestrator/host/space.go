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

// Full says whether next to nothing more can be written by this user to the file system
// that a file or folder is on.
func Full(path string) bool {
	stat, err := statfs(path)
	return err == nil && stat.Blocks > 0 && freeOf(stat) < leastSpace
}

// FullForOthers is Full for users who are not root.
func FullForOthers(path string) bool {
	stat, err := statfs(path)
	return err == nil && stat.Blocks > 0 && int64(stat.Bavail)*stat.Bsize < leastSpace
}

// ext4Kept is what ext4 has for itself and tells as free, in bytes: 4096 of its clusters.
const ext4Kept = 4096 * 4096

func freeOf(stat unix.Statfs_t) int64 {
	others := int64(stat.Bavail) * stat.Bsize
	if os.Geteuid() == 0 {
		return max(others, int64(stat.Bfree)*stat.Bsize-ext4Kept)
	}
	return others
}

func statfs(path string) (stat unix.Statfs_t, err error) {
	if err := unix.Statfs(path, &stat); err != nil {
		return stat, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return stat, nil
}
