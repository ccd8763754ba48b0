package main

import (
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/btw-img/btw-img/orchestrator"
)

// content is a file or link as nfpm has it in its configuration.
type content struct {
	Src  string   `yaml:"src"`
	Dst  string   `yaml:"dst"`
	Info fileInfo `yaml:"file_info"`
}

type fileInfo struct {
	Mode  int       `yaml:"mode"`
	MTime time.Time `yaml:"mtime"`
}

// describe is nfpm's configuration for the package of what lies in the folder: the binary, its
// completions by the names of their shells, and its manual pages.
func describe(folder, version string, made time.Time) ([]byte, error) {
	pages, err := filepath.Glob(filepath.Join(folder, "*.1.gz"))
	if err != nil {
		return nil, err
	}
	add := func(contents []content, src, dst string, mode int) []content {
		return append(contents, content{src, dst, fileInfo{mode, made}})
	}
	contents := add(nil, filepath.Join(folder, "vmctl"), "/usr/bin/vmctl", 0o755)
	for _, page := range pages {
		contents = add(contents, page, "/usr/share/man/man1/"+filepath.Base(page), 0o644)
	}
	for shell, place := range map[string]string{
		"bash": "/usr/share/bash-completion/completions/vmctl",
		"fish": "/usr/share/fish/vendor_completions.d/vmctl.fish",
		"zsh":  "/usr/share/zsh/vendor-completions/_vmctl",
	} {
		contents = add(contents, filepath.Join(folder, shell), place, 0o644)
	}
	contents = add(contents, "README.md", "/usr/share/doc/vmctl/README.md", 0o644)
	contents = add(contents, "LICENSE", "/usr/share/doc/vmctl/copyright", 0o644) // Debian's name for it
	slices.SortFunc(contents, func(a, b content) int { return strings.Compare(a.Dst, b.Dst) })
	depends, recommends := dependencies()
	return yaml.Marshal(map[string]any{
		"name": "vmctl", "arch": runtime.GOARCH, "platform": "linux", "version": version, "version_schema": "none",
		"section": "admin", "priority": "optional", "maintainer": "The authors of btw-img", "license": "Apache-2.0",
		"description": "build Debian machine images that are proved to boot\nTwo small YAML files say what goes into an image; vmctl installs it,\ncustomises it with Ansible, and boots it on BIOS, UEFI and Secure Boot.",
		"mtime":       made, "disable_globbing": true, "depends": depends, "recommends": recommends, "contents": contents,
		"deb": map[string]any{"compression": "xz"},
	})
}

// dependencies is the packages that a usual build needs, and those that boot tests, other
// formats and file systems or other verbs need besides: what doctor looks for.
func dependencies() (depends, recommends []string) {
	depends = orchestrator.CommonlyNeeded().Packages()
	for _, name := range orchestrator.EverythingNeeded().Packages() {
		if !slices.Contains(depends, name) {
			recommends = append(recommends, name)
		}
	}
	return depends, recommends
}

var (
	sinceTag = regexp.MustCompile(`-(\d+)-g([0-9a-f]+)$`)
	release  = regexp.MustCompile(`^v?(\d+\..*)$`)
	foreign  = regexp.MustCompile(`[^A-Za-z0-9.+~]`)
)

// debianVersion is what git calls the commit as a version of Debian's, which grows from commit
// to commit: a candidate comes before its release, and what has no release before the first.
func debianVersion(described string, made time.Time) string {
	name, dirty := strings.CutSuffix(described, "-dirty")
	if tag := release.FindStringSubmatch(name); tag != nil {
		name = strings.ReplaceAll(sinceTag.ReplaceAllString(tag[1], "+$1.g$2"), "-", "~")
	} else {
		name = "0+git" + made.Format("20060102150405") + "." + name
	}
	if dirty {
		name += "+dirty"
	}
	return foreign.ReplaceAllString(strings.TrimRight(name, "."), ".")
}
