//go:build e2e

package e2e

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator"
)

// collectionArchive writes a collection acme.motd with one role, as ansible-galaxy builds them.
func collectionArchive(t *testing.T, path, version string) {
	t.Helper()
	files := map[string]string{"roles/greet/tasks/main.yml": "- copy: {dest: /etc/of-collection, content: \"" + version + "\\n\"}\n"}
	listed := []map[string]any{{"name": ".", "ftype": "dir", "chksum_type": nil, "chksum_sha256": nil, "format": 1}}
	for name, content := range files {
		listed = append(listed, map[string]any{"name": name, "ftype": "file", "chksum_type": "sha256", "chksum_sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(content))), "format": 1})
	}
	encode := func(value any) string {
		content, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	files["FILES.json"] = encode(map[string]any{"files": listed, "format": 1})
	files["MANIFEST.json"] = encode(map[string]any{
		"collection_info": map[string]any{"namespace": "acme", "name": "motd", "version": version, "authors": []string{"acme"}, "readme": "README.md", "tags": []string{}, "dependencies": map[string]string{}, "license": []string{"MIT"}, "license_file": nil, "description": "", "repository": "", "documentation": "", "homepage": "", "issues": ""},
		"file_manifest_file": map[string]any{
			"name": "FILES.json", "ftype": "file", "chksum_type": "sha256", "chksum_sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(files["FILES.json"]))), "format": 1,
		},
		"format": 1,
	})
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zip := gzip.NewWriter(file)
	archive := tar.NewWriter(zip)
	for name, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if archive.Close() != nil || zip.Close() != nil {
		t.Fatal("the archive cannot be written")
	}
}

// gitRole makes a bare repository of a role which belongs to somebody else, with a tag.
func gitRole(t *testing.T, path string) (change func(content, tag string)) {
	t.Helper()
	work := t.TempDir()
	git := func(arguments ...string) {
		tool(t, "git", append([]string{"-C", work, "-c", "user.name=e2e", "-c", "user.email=e2e@example", "-c", "safe.directory=*"}, arguments...)...)
	}
	git("init", "--quiet", "--initial-branch=main")
	write(t, filepath.Join(work, "meta/main.yml"), "dependencies: []\n")
	tool(t, "git", "init", "--quiet", "--bare", "--initial-branch=main", path)
	return func(content, tag string) {
		write(t, filepath.Join(work, "tasks/main.yml"), "- copy: {dest: /etc/of-git, content: \""+content+"\\n\"}\n")
		git("add", ".")
		git("commit", "--quiet", "--message", content)
		git("tag", tag)
		tool(t, "chown", "--recursive", "root", path)
		git("push", "--quiet", path, "main", tag)
		tool(t, "chown", "--recursive", "nobody", path)
	}
}

// TestRequirementsAreInstalled builds with a role of a folder, one of a repository and a
// collection of an archive, none of which lies where Ansible looks.
func TestRequirementsAreInstalled(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	cache := filepath.Join(folder, "cache")
	change := gitRole(t, filepath.Join(folder, "elsewhere/gitted.git"))
	change("first", "v1")
	collectionArchive(t, filepath.Join(folder, "acme-motd-1.0.0.tar.gz"), "1.0.0")
	write(t, filepath.Join(folder, "elsewhere/shared/tasks/main.yml"), "- copy: {dest: /etc/of-folder, content: \"folder\\n\"}\n")
	requirements := func(version, more string) {
		write(t, filepath.Join(folder, "requirements.yml"), `roles:
  - {name: shared, src: elsewhere/shared}
  - {name: gitted, src: "file://`+folder+`/elsewhere/gitted.git", scm: git, version: `+version+`}
`+more+`collections:
  - acme-motd-1.0.0.tar.gz
`)
	}
	requirements("v1", "")
	write(t, filepath.Join(folder, "install.d/small/roles.yml"), "install:\n- roles: [shared]\n- roles: [gitted, acme.motd.greet]\n")
	write(t, filepath.Join(folder, "commands.d/small.yml"), "commands: [{run: 'cat /etc/of-*'}]\n")
	home := t.TempDir()
	in := caller{folder, []string{"HOME=" + home}}
	build := func(arguments ...string) result {
		return in.run(t, append([]string{"build", "small", "--no-test", "--format", "raw", "--cache", cache}, arguments...)...)
	}
	r := build()
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	holds := func(want string) {
		t.Helper()
		if got := in.good(t, "shell", "small", "--cache", cache, "--", "sh", "-c", "cat /etc/of-*").stdout; got != want {
			t.Errorf("in the image: %q, want %q", got, want)
		}
	}
	holds("1.0.0\nfolder\nfirst\n")
	var m orchestrator.Manifest
	readJSON(t, filepath.Join(folder, "images/small/build.json"), &m)
	var names []string
	for _, i := range m.Requirements {
		names = append(names, i.String())
	}
	if !slices.Equal(names, []string{"role gitted v1", "role shared", "collection acme.motd 1.0.0"}) || len(m.Requirements[0].SHA256) != 64 {
		t.Errorf("build.json has %+v", m.Requirements)
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
		t.Errorf("the home has %v, %v", left, err)
	}

	if r := build("--offline"); r.code != 0 || r.stages()["Requirements"] != "cached" || !strings.Contains(r.stderr, "unchanged") {
		t.Errorf("offline: %d\n%s", r.code, r.stderr)
	}
	change("second", "v2")
	requirements("v2", "")
	if r := build(); r.code != 0 || r.stages()["Requirements"] != "done" || !strings.Contains(r.stderr, "cached   install.d/small/roles.yml:2") || strings.Contains(r.stderr, "cached   install.d/small/roles.yml:3") {
		t.Errorf("another version: %d\n%s", r.code, r.stderr)
	}
	holds("1.0.0\nfolder\nsecond\n")
	requirements("v3", "")
	if r := build(); r.code != 4 || !strings.Contains(r.stderr, "requirements.yml:3: role gitted v3") {
		t.Errorf("a version that is not there: %d\n%s", r.code, r.stderr)
	}
	requirements("v2", "  - other.role\n")
	if r := build("--offline"); r.code != 4 || !strings.Contains(r.stderr, "the store lacks requirements.yml:4 role other.role") {
		t.Errorf("offline without: %d\n%s", r.code, r.stderr)
	}
	if r := in.run(t, "lint"); r.code != 0 {
		t.Errorf("lint: %s", r.stderr)
	}
}
