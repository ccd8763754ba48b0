//go:build e2e

// Package e2e drives the built binary on the real thing: Debian's archive,
// mmdebstrap, Ansible, GRUB, QEMU, Docker. It needs root.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator"
)

var (
	vmctl  string // the binary under test
	shared string // folder for images that several tests read
)

func TestMain(m *testing.M) {
	os.Exit(setUp(m))
}

func setUp(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the end-to-end tests build images and need root: use sudo make test")
		return 1
	}
	if vmctl = os.Getenv("VMCTL"); vmctl == "" {
		fmt.Fprintln(os.Stderr, "VMCTL must name the vmctl binary: use sudo make test")
		return 1
	}
	var err error
	if shared, err = os.MkdirTemp("", "vmctl-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(shared)
	// The store of this run: the machine's own may hold what another binary made.
	if err := os.Setenv("VMCTL_CACHE", filepath.Join(shared, "cache")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { stopDocker() }()
	return m.Run()
}

// result is how a run of vmctl ended.
type result struct {
	code           int
	stdout, stderr string
	took           time.Duration
}

// read reads what --json printed.
func (r result) read(t *testing.T, into any) {
	t.Helper()
	document := struct{ Result any }{into}
	if err := json.Unmarshal([]byte(r.stdout), &document); err != nil {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
}

func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(vmctl, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// caller runs vmctl in a folder, with variables besides this process's own: a test that
// sets its own cannot run beside others.
type caller struct {
	dir string
	env []string
}

// run runs vmctl to its end.
func (c caller) run(t *testing.T, args ...string) result {
	t.Helper()
	cmd := command(c.dir, args...)
	cmd.Env = append(os.Environ(), c.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Logf("vmctl %s: exit code %d after %.1f s", strings.Join(args, " "), r.code, r.took.Seconds())
	return r
}

// good runs vmctl and stops the test unless it ends well.
func (c caller) good(t *testing.T, args ...string) result {
	t.Helper()
	r := c.run(t, args...)
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.stderr)
	}
	return r
}

// run runs vmctl in dir to its end.
func run(t *testing.T, dir string, args ...string) result {
	t.Helper()
	return caller{dir: dir}.run(t, args...)
}

// good runs vmctl in dir and stops the test unless it ends well.
func good(t *testing.T, dir string, args ...string) result {
	t.Helper()
	return caller{dir: dir}.good(t, args...)
}

// tool runs another program to its end and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// built is a build that several tests share.
type built struct {
	folder   string // with the images
	manifest orchestrator.Manifest
	result   result
	packages packageScripts // that ran before there was a disk
}

func (b built) image(format string) string {
	for _, output := range b.manifest.Outputs {
		if output.Format == format {
			return filepath.Join(b.folder, output.Name)
		}
	}
	return ""
}

var debianOnce = sync.OnceValues(func() (built, error) {
	cmd := command(shared, "build", "debian", "--format", "raw,qcow2,vmdk", "-o", shared)
	start := time.Now()
	packages, stderr, err := watch(cmd)
	if err != nil {
		return built{}, fmt.Errorf("build debian: %w\n%s", err, stderr)
	}
	b := built{folder: filepath.Join(shared, "debian"), result: result{stderr: stderr, took: time.Since(start)}, packages: packages}
	content, err := os.ReadFile(filepath.Join(b.folder, "build.json"))
	if err != nil {
		return b, err
	}
	return b, json.Unmarshal(content, &b.manifest)
})

// debian is the shipped build, made once and tested on three firmwares.
func debian(t *testing.T) built {
	t.Helper()
	b, err := debianOnce()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// debianOf is the shipped build that was made of the same archives as the build in a folder: that
// of debian, or, where they have changed since, as they do some times a day, one that is made
// now with these arguments.
func debianOf(t *testing.T, folder string, args ...string) built {
	t.Helper()
	var other orchestrator.Manifest
	readJSON(t, filepath.Join(folder, "build.json"), &other)
	b := debian(t)
	if slices.Equal(b.manifest.Archives, other.Archives) {
		return b
	}
	t.Log("the archives have changed")
	b = built{folder: filepath.Join(t.TempDir(), "debian")}
	good(t, t.TempDir(), append([]string{"build", "debian", "-o", filepath.Dir(b.folder)}, args...)...)
	readJSON(t, filepath.Join(b.folder, "build.json"), &b.manifest)
	return b
}

// partition is where a partition of a raw image lies, in bytes.
type partition struct {
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	Name  string
}

// partitions reads the partition table back with sfdisk.
func partitions(t *testing.T, raw string) map[string]partition {
	t.Helper()
	var table struct {
		PartitionTable struct {
			Partitions []partition `json:"partitions"`
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal([]byte(tool(t, "sfdisk", "--json", raw)), &table); err != nil {
		t.Fatal(err)
	}
	byName := map[string]partition{}
	for _, p := range table.PartitionTable.Partitions {
		p.Start, p.Size = p.Start*512, p.Size*512
		byName[p.Name] = p
	}
	return byName
}

// disk is a raw image whose ext4 root is read and changed with debugfs, with
// no mount in the way.
type disk struct {
	t    *testing.T
	raw  string
	root string // as debugfs names it
}

func openDisk(t *testing.T, raw string) disk {
	t.Helper()
	return disk{t, raw, fmt.Sprintf("%s?offset=%d", raw, partitions(t, raw)["root"].Start)}
}

func (d disk) debugfs(request string) string {
	d.t.Helper()
	out, err := exec.Command("debugfs", "-R", request, d.root).Output()
	if err != nil {
		d.t.Fatalf("debugfs %s: %v", request, err)
	}
	return string(out)
}

// cat is the content of a file, "" where there is none.
func (d disk) cat(path string) string { return d.debugfs("cat " + path) }

// stat is what debugfs says of a path, "" where there is none.
func (d disk) stat(path string) string { return d.debugfs("stat " + path) }

// ls is the names in a folder.
func (d disk) ls(path string) []string {
	var names []string
	for _, line := range strings.Split(d.debugfs("ls -p "+path), "\n") {
		if fields := strings.Split(line, "/"); len(fields) > 5 && fields[5] != "." && fields[5] != ".." {
			names = append(names, fields[5])
		}
	}
	return names
}

// edit runs debugfs requests that change the disk.
func (d disk) edit(requests ...string) {
	d.t.Helper()
	cmd := exec.Command("debugfs", "-w", "-f", "-", d.root)
	cmd.Stdin = strings.NewReader(strings.Join(requests, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("debugfs: %v\n%s", err, out)
	}
}

// replace writes a file of the disk anew.
func (d disk) replace(path, content string) {
	d.t.Helper()
	source := filepath.Join(d.t.TempDir(), "content")
	write(d.t, source, content)
	d.edit("rm "+path, fmt.Sprintf("write %s %s", source, path))
}

// copyDisk is a sparse copy of a raw image.
func copyDisk(t *testing.T, raw string) disk {
	t.Helper()
	target := filepath.Join(t.TempDir(), "disk.raw")
	tool(t, "cp", "--sparse=always", raw, target)
	return openDisk(t, target)
}
