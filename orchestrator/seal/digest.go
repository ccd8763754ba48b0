package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// content is what is digested of one file, under its name in the tree.
type content struct {
	Name     string
	Mode     uint32
	UID, GID uint32
	Device   uint64
	Seconds  int64
	Nanos    int64
	Target   string            // of a link
	Same     string            // the first name of the same file
	SHA256   string            // of a regular file
	Extended map[string]string // attributes
}

// Digest identifies all that is in the tree at root, whatever its folder, its layers and
// the order of its folders are. Of times it holds those of changes alone.
func Digest(root string) (string, error) {
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	first := map[[2]uint64]string{}
	buffer := make([]byte, 1<<20)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		one, err := describe(path, name, first, buffer)
		if err != nil {
			return err
		}
		return encoder.Encode(one)
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

func describe(path, name string, first map[[2]uint64]string, buffer []byte) (content, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return content{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	one := content{Name: name, Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, Seconds: stat.Mtim.Sec, Nanos: stat.Mtim.Nsec}
	if info.Mode()&fs.ModeDevice != 0 {
		one.Device = stat.Rdev
	}
	if !info.IsDir() && stat.Nlink > 1 {
		id := [2]uint64{stat.Dev, stat.Ino}
		if same, known := first[id]; known {
			one.Same = same
			return one, nil
		}
		first[id] = name
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		one.Target, err = os.Readlink(path)
	case info.Mode().IsRegular():
		one.SHA256, err = fileDigest(path, buffer)
	}
	if err != nil {
		return content{}, err
	}
	one.Extended, err = extended(path)
	return one, err
}

func fileDigest(path string, buffer []byte) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{file}, buffer); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// extended is the attributes of a file, in hexadecimal.
func extended(path string) (map[string]string, error) {
	found, err := files.Attributes(path)
	for name, value := range found {
		found[name] = hex.EncodeToString([]byte(value))
	}
	return found, err
}
