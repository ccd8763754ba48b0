package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// Tree is the root of an image's file system, seen from the host. Its methods
// take paths as the image sees them and follow symlinks inside the tree only,
// absolute ones too.
type Tree string

// Path is the host's path of name in the tree, all symlinks resolved inside it.
func (t Tree) Path(name string) (string, error) {
	return securejoin.SecureJoin(string(t), name)
}

// entry is the host's path of name with the folders resolved but not the last
// element, so that a link itself can be read, replaced or removed.
func (t Tree) entry(name string) (string, error) {
	dir, err := t.Path(filepath.Dir(name))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(name)), nil
}

// Exists says whether name is there, following links.
func (t Tree) Exists(name string) bool {
	path, err := t.Path(name)
	if err != nil {
		return false
	}
	_, err = os.Lstat(path)
	return err == nil
}

// Lstat describes name itself, a link where it is one.
func (t Tree) Lstat(name string) (os.FileInfo, error) {
	path, err := t.entry(name)
	if err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// Read is the content of name.
func (t Tree) Read(name string) ([]byte, error) {
	path, err := t.Path(name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// Write makes name a file with the content and mode, and its folders. A link
// at name is replaced, not followed.
func (t Tree) Write(name string, content []byte, mode os.FileMode) error {
	path, err := t.entry(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// MkdirAll makes the folder name and its parents.
func (t Tree) MkdirAll(name string) error {
	path, err := t.Path(name)
	if err != nil {
		return err
	}
	return os.MkdirAll(path, 0o755)
}

// Symlink makes name a link to target, in place of what was there.
func (t Tree) Symlink(target, name string) error {
	path, err := t.entry(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// Readlink is the target of the link name, "" where it is none.
func (t Tree) Readlink(name string) string {
	path, err := t.entry(name)
	if err != nil {
		return ""
	}
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return target
}

// Remove removes what matches the patterns (filepath.Match), folders with
// their content; links are removed, not followed. No match is no error.
func (t Tree) Remove(patterns ...string) error {
	var problems []error
	for _, pattern := range patterns {
		matches, err := t.Glob(pattern)
		problems = append(problems, err)
		for _, name := range matches {
			problems = append(problems, t.RemoveAll(name))
		}
	}
	return errors.Join(problems...)
}

// RemoveAll removes name, whatever it is called; a link itself, a folder with its
// content.
func (t Tree) RemoveAll(name string) error {
	path, err := t.entry(name)
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// Empty removes all that is in the folder name.
func (t Tree) Empty(name string) error {
	inside, err := t.matching(name, "*")
	problems := []error{err}
	for _, name := range inside {
		problems = append(problems, t.RemoveAll(name))
	}
	return errors.Join(problems...)
}

// Glob is the names in the tree that match the pattern (filepath.Match), sorted.
// Each of its elements may hold wildcards; links to folders are followed inside
// the tree.
func (t Tree) Glob(pattern string) ([]string, error) {
	names := []string{"/"}
	for element := range strings.SplitSeq(strings.Trim(filepath.Clean("/"+pattern), "/"), "/") {
		var below []string
		for _, folder := range names {
			found, err := t.matching(folder, element)
			if err != nil {
				return nil, err
			}
			below = append(below, found...)
		}
		names = below
	}
	return names, nil
}

// matching is the names in a folder of the tree that match one element of a
// pattern. What is no folder holds none.
func (t Tree) matching(folder, element string) ([]string, error) {
	path, err := t.Path(folder)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		match, err := filepath.Match(element, entry.Name())
		if err != nil {
			return nil, err
		}
		if match {
			names = append(names, filepath.Join(folder, entry.Name()))
		}
	}
	return names, nil
}
