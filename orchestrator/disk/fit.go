package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// usage is what a share needs of its file system.
type usage struct {
	bytes int64 // whole blocks
	files int64
}

// fits says whether the content goes into the room. A little more than it takes is
// asked for, since file systems keep notes of what is where.
func (u usage) fits(room filesystem.Room) bool {
	return u.bytes+u.bytes/128+256<<10 <= room.Bytes && (room.Files == 0 || u.files <= room.Files)
}

// checkFit refuses partitions that cannot hold their shares, and is the bytes that the
// disk takes at most while it is made: what is not filled in place lies there twice.
func checkFit(shares []share) (room int64, err error) {
	var problems []error
	twice := int64(0)
	for _, s := range shares {
		used, err := s.checkFit()
		problems = append(problems, err)
		room += used.bytes
		if s.kind().Filling != filesystem.ByMkfs {
			twice = max(twice, used.bytes)
		}
	}
	return room + twice, scope.Join(problems...)
}

// checkFit refuses a partition that cannot hold its share, and says what it needs.
func (s share) checkFit() (usage, error) {
	fs := s.kind()
	if fs.Filling == filesystem.Never || s.folder == "" {
		return usage{}, nil
	}
	used, err := s.measure(fs.Room(s.Size))
	if err != nil || used.fits(fs.Room(s.Size)) {
		return used, err
	}
	need := definition.MiB
	for !used.fits(fs.Room(int64(need))) {
		need *= 2
	}
	for step := need / 4; step >= definition.MiB; step /= 2 { // need fits, and half of it does not
		if used.fits(fs.Room(int64(need - step))) {
			need -= step
		}
	}
	return used, fail.New(fail.Build, "", enlarge, "%s of %s is too small: its content needs about %s", s, definition.Size(s.Size), need)
}

const enlarge = "enlarge it in disk.layout or disk.size"

// measured is a file of a share.
type measured struct {
	path             string
	info             fs.FileInfo
	data, attributes int64 // bytes
}

// measure adds up the share.
func (s share) measure(room filesystem.Room) (usage, error) {
	var used usage
	blocks := func(size int64) { used.bytes += (size + room.Block - 1) / room.Block * room.Block }
	all, folders, err := s.list()
	if err == nil {
		err = files.Each(len(all), func(i int) error { return all[i].look() })
	}
	for _, one := range all {
		used.files++
		switch mode := one.info.Mode(); {
		case mode.IsRegular():
			blocks(one.data)
		case mode.IsDir():
			folders[one.path] += 32
		case mode&fs.ModeSymlink != 0 && one.info.Size() > room.Inline:
			blocks(one.info.Size())
		}
		if one.attributes > room.Inline {
			blocks(one.attributes)
		}
	}
	delete(folders, filepath.Dir(s.folder))
	for _, size := range folders {
		blocks(size)
	}
	return used, err
}

// list is the files of the share, each once whatever names it has, and the bytes that names
// take in its folders.
func (s share) list() (all []measured, folders map[string]int64, err error) {
	seen := map[[2]uint64]bool{} // files with several names
	folders = map[string]int64{}
	err = s.walk(func(path string, info fs.FileInfo) error {
		stat := info.Sys().(*syscall.Stat_t)
		folders[filepath.Dir(path)] += 16 + int64(len(info.Name()))
		if !info.IsDir() && stat.Nlink > 1 {
			id := [2]uint64{stat.Dev, stat.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		all = append(all, measured{path: path, info: info})
		return nil
	})
	return all, folders, err
}

// look finds out what the file holds.
func (m *measured) look() (err error) {
	if m.info.Mode().IsRegular() {
		if m.data, err = dataSize(m.path, m.info.Sys().(*syscall.Stat_t)); err != nil {
			return err
		}
	}
	attributes, err := files.Attributes(m.path)
	for name, value := range attributes {
		m.attributes += int64(len(name) + len(value))
	}
	return err
}

// walk calls visit for all that is in the share, its root folder and the mount
// points below too.
func (s share) walk(visit func(path string, info fs.FileInfo) error) error {
	skip := map[string]bool{}
	for _, below := range s.nested {
		skip[filepath.Join(s.folder, below)] = true
	}
	return filepath.WalkDir(s.folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := visit(path, info); err != nil {
			return err
		}
		if skip[path] {
			return filepath.SkipDir
		}
		return nil
	})
}

// dataSize is the bytes of a file less its holes.
func dataSize(path string, stat *syscall.Stat_t) (int64, error) {
	if stat.Blocks*512 >= stat.Size {
		return stat.Size, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	size := int64(0)
	err = eachData(file, func(from, to int64) error { size += to - from; return nil })
	return size, err
}

// eachData calls do for each stretch of the file that is no hole.
func eachData(file *os.File, do func(from, to int64) error) error {
	for to := int64(0); ; {
		from, err := unix.Seek(int(file.Fd()), to, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "seek data in", Path: file.Name(), Err: err}
		}
		if to, err = unix.Seek(int(file.Fd()), from, unix.SEEK_HOLE); err != nil {
			return &os.PathError{Op: "seek a hole in", Path: file.Name(), Err: err}
		}
		if err := do(from, to); err != nil {
			return err
		}
	}
}
