package files_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

func TestRootWorksOnlyWhereNobodyElseCanWrite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("other users' folders can be made by root alone; make test runs this as root")
	}
	const caller, stranger = 54321, 54322
	for name, tc := range map[string]struct {
		caller  int // of sudo; 0 for none
		prepare string
		folder  string
		problem string
	}{
		"root's":                       {0, "mkdir a", "a", ""},
		"not there yet":                {0, "mkdir a", "a/b/c", ""},
		"the caller's":                 {caller, "mkdir -p a/b; chown -R 54321:54321 a; chmod g+w a", "a/b", ""},
		"the caller's, without sudo":   {0, "mkdir -p a/b; chown 54321:54321 a", "a/b", "belongs to somebody else"},
		"somebody else's":              {caller, "mkdir -p a/b; chown 54322 a", "a/b", "belongs to somebody else"},
		"somebody else's further down": {caller, "mkdir -p a/b; chown 54322 a/b", "a/b", "belongs to somebody else"},
		"everybody's":                  {caller, "mkdir -p a/b; chmod o+w a", "a/b", "by everybody"},
		"a group's":                    {caller, "mkdir -p a/b; chgrp 54322 a; chmod g+w a", "a/b", "by its group"},
		"below a sticky one":           {caller, "mkdir -p a/b; chmod 1777 a; chown 54321 a/b", "a/b", ""},
		"a sticky one itself":          {caller, "mkdir a; chmod 1777 a", "a", "by others"},
		"up through a link":            {caller, "mkdir -p a b/c; chown 54322 b; ln -s ../b/c a/l", "a/l/../../a", "belongs to somebody else"},
		"planted in a sticky one":      {caller, "mkdir -p a/b; chmod 1777 a; chown 54322 a/b", "a/b", "belongs to somebody else"},
		"planted link":                 {caller, "mkdir a b; chmod 1777 a; ln -s ../b a/l; chown -h 54322 a/l", "a/l", "belongs to somebody else"},
		"root's link":                  {0, "mkdir -p a b/c; ln -s ../b a/l", "a/l/c", ""},
		"link to somebody else's":      {0, "mkdir a b; ln -s ../b a/l; chown 54322 b", "a/l", "belongs to somebody else"},
		"link in a circle":             {0, "ln -s l l", "l", "too many levels"},
		"a file":                       {0, "touch a", "a", "is no folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SUDO_UID", "")
			if tc.caller != 0 {
				t.Setenv("SUDO_UID", strconv.Itoa(tc.caller))
				t.Setenv("SUDO_GID", strconv.Itoa(tc.caller))
			}
			dir := t.TempDir()
			shell(t, dir, tc.prepare)
			err := files.Trusted(dir + "/" + tc.folder) // not cleaned
			if tc.problem == "" && err != nil || tc.problem != "" && (err == nil || !strings.Contains(err.Error(), tc.problem)) {
				t.Errorf("error %v", err)
			}
			if strings.Contains(tc.problem, " ") && tc.problem != "too many levels" && fail.ExitCode(err) != 3 {
				t.Errorf("exit code %d", fail.ExitCode(err))
			}
		})
	}
}

func TestAFolderThatSomebodyElseMakesFirstIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("other users' folders can be made by root alone; make test runs this as root")
	}
	t.Setenv("SUDO_UID", "")
	dir := t.TempDir()
	shell(t, dir, "mkdir shared; chmod 1777 shared")
	folder := filepath.Join(dir, "shared", "images")
	if err := files.Trusted(folder); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, "mkdir shared/images; chown 54322 shared/images")
	if err := files.Prepare(folder, files.Caller()); fail.ExitCode(err) != 3 {
		t.Errorf("error %v", err)
	}
	if err := files.Prepare(filepath.Join(dir, "shared", "own", "images"), files.Caller()); err != nil {
		t.Error(err)
	}
}

func TestAJobOfGitLabHasItsFolderForItself(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir -p project/images; chmod -R 777 project")
	t.Setenv("SUDO_UID", "")
	t.Setenv("GITLAB_CI", "true")
	t.Setenv("CI_PROJECT_DIR", filepath.Join(dir, "project"))
	if err := files.Trusted(filepath.Join(dir, "project", "images")); err != nil {
		t.Error(err)
	}
	if err := files.Trusted(filepath.Join(dir, "project", "..", "other")); err != nil && os.Geteuid() != 0 {
		t.Error(err)
	}
}
