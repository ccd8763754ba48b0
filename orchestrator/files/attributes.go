package files

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes is the extended attributes that a file itself has wherever it is, access lists
// and capabilities among them. Others, such as the labels of SELinux, come from the host, or
// cannot be seen in a user namespace (trusted). It is empty where the file system has none.
func Attributes(path string) (map[string]string, error) {
	names, err := sized(func(buffer []byte) (int, error) { return unix.Llistxattr(path, buffer) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "list the attributes of", Path: path, Err: err}
	}
	var found map[string]string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !OfTheFile(name) {
			continue
		}
		value, err := sized(func(buffer []byte) (int, error) { return unix.Lgetxattr(path, name, buffer) })
		if err != nil {
			return nil, &os.PathError{Op: "read " + name + " of", Path: path, Err: err}
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = string(value)
	}
	return found, nil
}

// OfTheFile says so of an attribute.
func OfTheFile(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

// sized calls read twice: to learn the size, and to fill a buffer of it.
func sized(read func([]byte) (int, error)) ([]byte, error) {
	size, err := read(nil)
	if err != nil || size == 0 {
		return nil, err
	}
	buffer := make([]byte, size)
	size, err = read(buffer)
	return buffer[:max(size, 0)], err
}
