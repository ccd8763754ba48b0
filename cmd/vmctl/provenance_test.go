package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repositoryOf is a repository whose configuration runs a program for all that git
// offers to run, with one definition in it. The program leaves a file behind.
func repositoryOf(t *testing.T) (dir, evidence string) {
	t.Helper()
	dir, evidence = t.TempDir(), filepath.Join(t.TempDir(), "evidence")
	for _, variable := range []string{"CI_COMMIT_SHA", "SUDO_UID"} {
		t.Setenv(variable, "")
	}
	script := filepath.Join(t.TempDir(), "run")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >>"+evidence+"\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	commands := `set -e
git init -q .
git config user.name a; git config user.email a@example.org
mkdir install.d
echo 'extends: debian' >install.d/x.yml
git add . && git commit -q -m one
git config remote.origin.url https://alice:hunter2@git.example/defs
for kind in clean smudge process; do git config filter.x.$kind ` + script + `; done
echo '* filter=x' >.git/info/attributes
git config core.fsmonitor ` + script + `
git config diff.external ` + script + `
git config core.sshCommand ` + script + `
git config core.pager ` + script + `
for hook in post-index-change fsmonitor-watchman; do cp ` + script + ` .git/hooks/$hook; done`
	cmd := exec.Command("sh", "-c", commands)
	// Where git itself runs the tests, as in a rebase, GIT_DIR names another repository.
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CEILING_DIRECTORIES=" + filepath.Dir(dir)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir, evidence
}

func TestTheProvenanceRunsNothingThatARepositoryConfigures(t *testing.T) {
	dir, evidence := repositoryOf(t)
	file := filepath.Join(dir, "install.d", "x.yml")
	for _, change := range []struct{ name, content, ending string }{
		{"touched", "extends: debian\n", ""}, {"changed", "extends: webserver\n", "-dirty"},
	} {
		if err := os.WriteFile(file, []byte(change.content), 0o644); err != nil {
			t.Fatal(err)
		}
		repository, revision := provenance(t.Context(), dir)
		if repository != "https://git.example/defs" || len(strings.TrimSuffix(revision, change.ending)) != 40 {
			t.Errorf("%s: %q, %q", change.name, repository, revision)
		}
	}
	if err := os.WriteFile(file, []byte("extends: debian\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "install.d", "new.yml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, revision := provenance(t.Context(), dir); !strings.HasSuffix(revision, "-dirty") {
		t.Errorf("with a file more: %q", revision)
	}
	if ran, err := os.ReadFile(evidence); err == nil {
		t.Errorf("the repository's own programs ran:\n%s", ran)
	}
}

func TestTheProvenanceHoldsNoCredentials(t *testing.T) {
	for remote, want := range map[string]string{
		"https://git.example/a/b.git":                     "https://git.example/a/b.git",
		"https://me:hunter2@git.example:8443/a?t=hunter2": "https://git.example:8443/a",
		"https://git.example/a#hunter2":                   "https://git.example/a",
		"git@git.example:a/b.git":                         "",
	} {
		if got := withoutCredentials(remote); got != want {
			t.Errorf("%s: %q", remote, got)
		}
	}
}

func TestTheProvenanceOfARepositoryOfSomebodyElseIsUnknown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a repository to somebody else needs root; make test runs it as root")
	}
	dir, _ := repositoryOf(t)
	if out, err := exec.Command("chown", "-R", "12345:12345", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	below := filepath.Join(dir, "install.d")
	for _, folder := range []string{dir, below} {
		if repository, revision := provenance(t.Context(), folder); repository != "" || revision != "" {
			t.Errorf("%s: %q, %q", folder, repository, revision)
		}
	}
	t.Setenv("SUDO_UID", "12345")
	if _, revision := provenance(t.Context(), dir); revision == "" {
		t.Error("a repository of who called sudo is unknown, too")
	}
}

func TestASubmoduleCountsByItsCommit(t *testing.T) {
	dir, _ := repositoryOf(t)
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	_, commit := provenance(t.Context(), dir)
	git("init", "-q", "roles/sub")
	git("-C", "roles/sub", "commit", "-q", "--allow-empty", "-m", "one")
	_, sub := provenance(t.Context(), filepath.Join(dir, "roles/sub"))
	git("-c", "core.fsmonitor=false", "update-index", "--add", "--cacheinfo", "160000,"+sub+",roles/sub")
	git("-c", "core.fsmonitor=false", "commit", "-q", "-m", "a role")
	if _, revision := provenance(t.Context(), dir); strings.HasSuffix(revision, "-dirty") || revision == commit {
		t.Errorf("clean, but %q", revision)
	}
	git("-C", "roles/sub", "commit", "-q", "--allow-empty", "-m", "two")
	if _, revision := provenance(t.Context(), dir); !strings.HasSuffix(revision, "-dirty") {
		t.Errorf("another commit of the submodule, but %q", revision)
	}
}
