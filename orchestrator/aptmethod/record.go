package aptmethod

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Where a file came from.
const (
	FromCache   = "cache"
	FromArchive = "archive"
	Missing     = "missing" // it did not come
)

// Fetched is a file that apt has asked for.
type Fetched struct {
	Name   string `json:"name"` // as apt calls its file
	URI    string `json:"uri"`
	Base   string `json:"base,omitempty"` // of the archive, where the file is below it
	SHA256 string `json:"sha256,omitempty"`
	Size   int64  `json:"size,omitempty"`
	List   bool   `json:"list,omitempty"` // of packages
	From   string `json:"from,omitempty"`
	Date   string `json:"date,omitempty"` // of a list that says it
}

// Kept is the name under which the folders hold the file.
func (f Fetched) Kept() string { return KeptName(f.SHA256, f.Name) }

// Elsewhere is the addresses of the file on mirrors of its archive.
func (f Fetched) Elsewhere(mirrors []string) []string {
	below, ok := strings.CutPrefix(f.URI, f.Base)
	if !ok || f.Base == "" {
		return nil
	}
	var all []string
	for _, mirror := range mirrors {
		all = append(all, strings.TrimSuffix(mirror, "/")+"/"+strings.TrimPrefix(below, "/"))
	}
	return all
}

// IsPackage says whether it is a package for dpkg.
func (f Fetched) IsPackage() bool { return !f.List && strings.HasSuffix(f.Name, ".deb") }

// KeptName is the name under which the folders hold a file.
func KeptName(sha256, name string) string { return sha256 + "-" + name }

const (
	longestName  = 180 // with a digest before and a suffix behind, a file system takes it
	digestDigits = 64
)

var (
	plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+~:%,=@-]*$`)
	plainSum  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// SplitKept is digest and name of a file as the folders hold it; ok says whether it is one.
func SplitKept(kept string) (sha256, name string, ok bool) {
	if len(kept) <= digestDigits+1 || kept[digestDigits] != '-' {
		return "", "", false
	}
	sha256, name = kept[:digestDigits], kept[digestDigits+1:]
	return sha256, name, plainSum.MatchString(sha256) && sound(name)
}

func sound(name string) bool { return len(name) <= longestName && plainName.MatchString(name) }

// RecordName is the file that Serve writes a line to for each file that was asked for.
const RecordName = "record"

const (
	mostFetched = 100_000
	largestLine = 4096 // bytes; what is appended at once comes whole
	largestText = mostFetched * largestLine
)

// note appends a line to the record. One that cannot be written is lost: the file is then
// fetched again another time.
func note(folder string, f Fetched) {
	if !sound(f.Name) {
		return
	}
	line, err := json.Marshal(f)
	if err != nil || len(line) >= largestLine {
		return
	}
	file, err := os.OpenFile(filepath.Join(folder, RecordName), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	_, _ = file.Write(append(line, '\n'))
	file.Close()
}

// ReadRecord is what was fetched, as the record of a folder says. The record may have been
// written by anybody: names and digests in it are plain, and nothing else is certain.
func ReadRecord(folder string) ([]Fetched, error) {
	file, err := os.OpenFile(filepath.Join(folder, RecordName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, largestText))
	if err != nil {
		return nil, err
	}
	var all []Fetched
	for line := range strings.Lines(string(content)) {
		var f Fetched
		if len(all) == mostFetched || json.Unmarshal([]byte(line), &f) != nil || !sound(f.Name) || f.Size < 0 {
			continue
		}
		if f.From == Missing || plainSum.MatchString(f.SHA256) {
			all = append(all, f)
		}
	}
	return all, nil
}

// nameOf is the name that apt gives to what a request asks for.
func nameOf(request message) string { return path.Base(request.get("Filename")) }

func isList(request message) bool { return request.get("Index-File") == "true" }
