package main

import (
	"context"
	"net/url"
	"os"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// origin is where the definitions come from, as far as that is known: what
// GitLab tells its jobs, else what git knows of the folder. Both are empty where
// the folder is in no repository.
func origin(ctx context.Context, dir string) (repository, revision string) {
	if commit := os.Getenv("CI_COMMIT_SHA"); commit != "" {
		return os.Getenv("CI_PROJECT_URL"), commit
	}
	if host.Find("git") == "" {
		return "", ""
	}
	h := &host.Local{}
	git := func(args ...string) string {
		// The folder's owner need not be who builds.
		out, err := h.Output(ctx, host.Cmd("git", append([]string{"-c", "safe.directory=*", "-c", "core.fsmonitor=false", "--no-optional-locks", "-C", dir}, args...)...))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	if revision = git("rev-parse", "--verify", "--quiet", "HEAD"); revision == "" {
		return "", ""
	}
	if git("status", "--porcelain", "--", "install.d", "commands.d") != "" {
		revision += "-dirty"
	}
	return withoutUser(git("config", "--get", "remote.origin.url")), revision
}

// withoutUser removes the credential that a URL may hold. What is no URL of the
// web names a host or folder of its owner's, and is left out.
func withoutUser(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	u.User = nil
	return u.String()
}
