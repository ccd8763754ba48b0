package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

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
	d := digesting{encoder: json.NewEncoder(sum), first: map[[2]uint64]string{}}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if err := d.add(path, name); err != nil {
			return err
		}
		if len(d.paths) == batch {
			return d.write()
		}
		return nil
	})
	if err == nil {
		err = d.write()
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}

// batch is how many files are looked at before what they are is written.
const batch = 4096

// digesting writes what files are in the order of their names, and reads them side by side.
type digesting struct {
	encoder *json.Encoder
	first   map[[2]uint64]string // of the names of a file
	paths   []string             // of the batch
	all     []content
}

// add is all of a file but what has to be read.
func (d *digesting) add(path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	one := content{Name: name, Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, Seconds: stat.Mtim.Sec, Nanos: stat.Mtim.Nsec}
	if info.Mode()&fs.ModeDevice != 0 {
		one.Device = stat.Rdev
	}
	if !info.IsDir() && stat.Nlink > 1 {
		id := [2]uint64{stat.Dev, stat.Ino}
		if same, known := d.first[id]; known {
			one.Same = same
		} else {
			d.first[id] = name
		}
	}
	d.paths, d.all = append(d.paths, path), append(d.all, one)
	return nil
}

// write reads the files of the batch and writes what all are.
func (d *digesting) write() error {
	err := files.Each(len(d.all), func(i int) error { return d.all[i].read(d.paths[i]) })
	if err != nil {
		return err
	}
	for _, one := range d.all {
		if err := d.encoder.Encode(one); err != nil {
			return err
		}
	}
	d.paths, d.all = d.paths[:0], d.all[:0]
	return nil
}

// read is what is in a file, unless another name has told.
func (c *content) read(path string) (err error) {
	if c.Same != "" {
		return nil
	}
	switch c.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		c.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		c.SHA256, err = fileDigest(path)
	}
	if err != nil {
		return err
	}
	c.Extended, err = extended(path)
	return err
}

// buffers are what files are read into.
var buffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

func fileDigest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	buffer := buffers.Get().(*[1 << 20]byte)
	defer buffers.Put(buffer)
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{file}, buffer[:]); err != nil {
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
