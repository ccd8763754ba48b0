package proof

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What Collect leaves.
const (
	keptFor   = 90 * 24 * time.Hour // after the last use
	keptBytes = 64 << 20            // in all: some hundred proofs
	writing   = time.Hour           // what is not finished by then never will be
)

// Collect removes the proofs that were not used for long, those that were not used for
// longest where all together take too much room, and what writers left that were killed.
func (p Proofs) Collect() (freed int64, err error) {
	entries, err := os.ReadDir(p.folder)
	if err != nil {
		return 0, err
	}
	var proofs []fs.FileInfo
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			proofs = append(proofs, info)
		}
	}
	slices.SortFunc(proofs, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var size int64
	var problems []error
	for _, info := range proofs {
		age := time.Since(info.ModTime())
		size += info.Size()
		if !strings.HasPrefix(info.Name(), unfinished) && age < keptFor && size <= keptBytes ||
			strings.HasPrefix(info.Name(), unfinished) && age < writing {
			continue
		}
		size -= info.Size()
		if err := os.Remove(filepath.Join(p.folder, info.Name())); err == nil {
			freed += info.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return freed, errors.Join(problems...)
}
