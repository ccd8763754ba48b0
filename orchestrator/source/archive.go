package source

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Release is one file of a Debian archive that names every package of a suite by its
// digest: InRelease, or Release where the archive has no other.
type Release struct {
	URL    string `json:"url"`
	SHA256 string `json:"sha256"`
}

const (
	listsFolder = "/var/lib/apt/lists/"
	inRelease   = "InRelease"
	release     = "Release"
)

// Archive is the state of the archives that the tree at root came from, by its own
// lists. One that these do not tell is like no other.
func Archive(root string) ([]Release, error) {
	tree := host.Tree(root)
	sources, err := tree.Read(sourcesFile)
	if err != nil {
		return nil, err
	}
	var releases []Release
	for _, suite := range suiteURLs(string(sources)) {
		one := Release{suite + inRelease, "unknown " + rand.Text()}
		for _, name := range []string{inRelease, release} {
			content, err := tree.Read(listsFolder + listName(suite+name))
			if err == nil {
				one = Release{suite + name, sum(content)}
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		releases = append(releases, one)
	}
	return releases, nil
}

// Date is that of the newest archive that the tree at root came from, by its own lists;
// the zero time where these do not tell.
func Date(root string) (newest time.Time, err error) {
	tree := host.Tree(root)
	sources, err := tree.Read(sourcesFile)
	if err != nil {
		return newest, err
	}
	for _, suite := range suiteURLs(string(sources)) {
		for _, name := range []string{inRelease, release} {
			content, err := tree.Read(listsFolder + listName(suite+name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return newest, err
			}
			if date := releaseDate(string(content)); date.After(newest) {
				newest = date
			}
			break
		}
	}
	return newest, nil
}

// releaseDate is the field Date of a Release file, which names UTC.
func releaseDate(content string) time.Time {
	for line := range strings.Lines(content) {
		if value, found := strings.CutPrefix(line, "Date: "); found {
			date, err := time.Parse("Mon, 2 Jan 2006 15:04:05 MST", strings.TrimSpace(value))
			if err == nil {
				return date.UTC()
			}
		}
	}
	return time.Time{}
}

// suiteURLs is the addresses of the suites of sources in deb822.
func suiteURLs(sources string) []string {
	var addresses []string
	uri := ""
	for line := range strings.Lines(sources) {
		field, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch field {
		case "URIs":
			uri = strings.TrimSuffix(value, "/")
		case "Suites":
			for suite := range strings.FieldsSeq(value) {
				addresses = append(addresses, uri+"/dists/"+suite+"/")
			}
		}
	}
	return addresses
}

// listName is how apt calls its copy of a file (URItoFileName of libapt-pkg).
func listName(address string) string {
	_, address, _ = strings.Cut(address, "://")
	var name strings.Builder
	for _, b := range []byte(address) {
		switch {
		case b == '/':
			name.WriteByte('_')
		case b <= ' ' || b >= 0x7f || strings.IndexByte("\\|{}[]<>\"^~_=!@#$%&*", b) >= 0:
			fmt.Fprintf(&name, "%%%02x", b)
		default:
			name.WriteByte(b)
		}
	}
	return name.String()
}

// aptHelper is apt's own tool to fetch files, with apt's settings.
const aptHelper = "/usr/lib/apt/apt-helper"

// Current says whether the archives are still in the state that was remembered. folder
// is for files in passing.
func Current(ctx context.Context, h host.Host, remembered []Release, folder string) (bool, error) {
	if len(remembered) == 0 {
		return false, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return false, err
	}
	args := []string{"-o", "Acquire::Retries=1", "download-file"}
	for _, release := range remembered {
		args = append(args, release.URL, filepath.Join(folder, listName(release.URL)))
	}
	if err := h.Run(ctx, host.Cmd(aptHelper, args...)); err != nil {
		return false, told(err)
	}
	for _, release := range remembered {
		content, err := os.ReadFile(filepath.Join(folder, listName(release.URL)))
		if err != nil {
			return false, err
		}
		if sum(content) != release.SHA256 {
			return false, nil
		}
	}
	return true, nil
}

// Fetch fetches a file that must have the SHA-256, with apt's settings.
func Fetch(ctx context.Context, h host.Host, address, path, sha256 string) error {
	return told(h.Run(ctx, host.Cmd(aptHelper, "-o", "Acquire::Retries=1", "download-file", address, path, "SHA256:"+sha256)))
}

// Listed is the digests of the packages that the lists of a tree know.
func Listed(root string) (map[string]bool, error) {
	tree := host.Tree(root)
	names, err := tree.Glob(listsFolder + "*_Packages")
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, name := range names {
		content, err := tree.Read(name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			if digest, ok := strings.CutPrefix(line, "SHA256: "); ok {
				listed[strings.TrimSpace(digest)] = true
			}
		}
	}
	return listed, nil
}

// told is the error with the reason that apt gives, where it does.
func told(err error) error {
	if err == nil {
		return nil
	}
	for line := range strings.Lines(fail.Tail(err)) {
		if reason, ok := strings.CutPrefix(strings.TrimSpace(line), "E: "); ok {
			return fmt.Errorf("%s: %w", reason, err)
		}
	}
	return err
}

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}
