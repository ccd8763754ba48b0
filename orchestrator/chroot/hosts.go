package chroot

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

const (
	hostsFile = "/etc/hosts"
	ownMark   = "\t# while the image is built" // which tells our line from one of a layer's
)

// knowItself lets the tree resolve the machine's own name, as that will, where its hosts lack
// that. The release takes this out again: it is the name of one layer, and what stands on that
// may have another. It is no mount, over which no program could put a file of its own.
func knowItself(tree host.Tree, hostname string) (release func() error, err error) {
	none := func() error { return nil }
	path, err := tree.Path(hostsFile)
	if err != nil {
		return none, err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return none, nil
	} else if err != nil {
		return none, err
	}
	before, err := os.ReadFile(path)
	if err != nil || regexp.MustCompile(`(?m)^[^#\n]*\s`+regexp.QuoteMeta(hostname)+`(\s|$)`).Match(before) {
		return none, err
	}
	line := []byte(strings.TrimSuffix(debian.HostsLine(hostname), "\n") + ownMark + "\n")
	at := 0
	if bytes.HasPrefix(before, []byte("127.0.0.1")) { // the machine's own name comes after it
		at = bytes.IndexByte(before, '\n') + 1
	}
	with := bytes.Join([][]byte{before[:at], line, before[at:]}, nil)
	if err := os.WriteFile(path, with, info.Mode().Perm()); err != nil {
		return none, err
	}
	return func() error { return forget(tree, before, with, line, info.ModTime()) }, nil
}

// forget takes a line out of the file. One that nobody has changed is as it was before, with its
// time.
func forget(tree host.Tree, before, with, line []byte, changed time.Time) error {
	path, err := tree.Path(hostsFile) // which programs may have led elsewhere
	if err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	} else if err != nil {
		return err
	}
	found, err := os.ReadFile(path)
	switch {
	case err != nil:
		return err
	case bytes.Equal(found, with):
		return errors.Join(os.WriteFile(path, before, info.Mode().Perm()), os.Chtimes(path, time.Time{}, changed))
	}
	without := bytes.ReplaceAll(bytes.ReplaceAll(found, line, nil), []byte(ownMark), nil) // some layer may have changed the line itself
	if bytes.Equal(found, without) {
		return nil
	}
	return os.WriteFile(path, without, info.Mode().Perm())
}
