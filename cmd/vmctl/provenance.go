package main

import (
	"context"
	"crypto/sha1" // names git's objects
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// provenance is where the definitions come from, as far as that is known: what
// GitLab tells its jobs, else what git knows of the folder. Both are empty where
// the folder is in no repository, or in one that git does not trust.
func provenance(ctx context.Context, dir string) (repository, revision string) {
	if commit := os.Getenv("CI_COMMIT_SHA"); commit != "" {
		return os.Getenv("CI_PROJECT_URL"), commit
	}
	g := git{ctx, dir}
	commit, ok := g.output("rev-parse", "--verify", "--quiet", "HEAD")
	if !ok {
		return "", ""
	}
	revision = strings.TrimSpace(commit)
	if g.dirty() {
		revision += "-dirty"
	}
	remote, _ := g.output("config", "--get", "remote.origin.url")
	return withoutCredentials(strings.TrimSpace(remote)), revision
}

// git asks about the repository that holds a folder. It is often root who asks, in a
// folder that others can write. So only commands are used that run nothing which a
// repository configures (no filter, hook, monitor or transport), and git's own check
// of who owns the repository stays on.
type git struct {
	ctx context.Context
	dir string
}

func (g git) output(args ...string) (string, bool) {
	if host.Find("git") == "" {
		return "", false
	}
	c := host.Cmd("git", append([]string{"-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks", "-C", g.dir}, args...)...)
	c.Env = []string{"GIT_ALLOW_PROTOCOL=none", "GIT_NO_LAZY_FETCH=1", "GIT_TERMINAL_PROMPT=0"}
	for _, variable := range []string{"SUDO_UID"} { // whose repositories root may read, says git
		c.Env = append(c.Env, variable+"="+os.Getenv(variable))
	}
	out, err := (&host.Local{}).Output(g.ctx, c)
	return string(out), err == nil
}

// dirty says whether the definitions differ from the commit. Files are compared as
// they lie there: git would run filters to compare them. So those that a filter
// rewrites on checkout count as changed.
func (g git) dirty() bool {
	folders := []string{"--", "install.d", "commands.d", "roles"}
	if _, same := g.output(append([]string{"diff-index", "--cached", "--quiet", "HEAD"}, folders...)...); !same {
		return true
	}
	untracked, ok := g.output(append([]string{"ls-files", "-z", "--others", "--exclude-standard"}, folders...)...)
	if !ok || untracked != "" {
		return true
	}
	tracked, ok := g.output(append([]string{"ls-files", "-z", "--stage"}, folders...)...)
	if !ok {
		return true
	}
	for entry := range strings.SplitSeq(strings.TrimSuffix(tracked, "\x00"), "\x00") {
		about, name, _ := strings.Cut(entry, "\t")
		fields := strings.Fields(about)
		if len(fields) == 3 && fields[0] == "160000" { // a submodule, whose commit is what counts
			head, ok := git{g.ctx, filepath.Join(g.dir, name)}.output("rev-parse", "--verify", "--quiet", "HEAD")
			if ok && strings.TrimSpace(head) != fields[1] {
				return true
			}
			continue
		}
		if len(fields) == 3 && !asInIndex(filepath.Join(g.dir, name), fields[0], fields[1]) {
			return true
		}
	}
	return false
}

// asInIndex says whether a file has the mode and the object that git's index names
// (gitformat-index(5)).
func asInIndex(path, mode, object string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	var content []byte
	switch {
	case mode == "120000" && info.Mode()&os.ModeSymlink != 0:
		target, _ := os.Readlink(path)
		content = []byte(target)
	case strings.HasPrefix(mode, "100") && info.Mode().IsRegular() && (mode == "100755") == (info.Mode()&0o100 != 0):
		if content, err = os.ReadFile(path); err != nil {
			return false
		}
	default:
		return false
	}
	blob := append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...)
	sum := sha1.Sum(blob)
	if sum256 := sha256.Sum256(blob); len(object) == hex.EncodedLen(len(sum256)) {
		return hex.EncodeToString(sum256[:]) == object
	}
	return hex.EncodeToString(sum[:]) == object
}

// withoutCredentials removes the credentials that a URL may hold, in its query too. What is no URL of the
// web names a host or folder of its owner's, and is left out.
func withoutCredentials(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
