//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// smallInstaller writes kernel and initrd of an installer of the test's own: the kernel is that
// of the shipped build, the initrd holds a program and the modules that it loads.
func smallInstaller(t *testing.T, folder string) {
	t.Helper()
	d := openDisk(t, debian(t).image("raw"))
	var release string
	for _, name := range d.ls("/boot") {
		if version, is := strings.CutPrefix(name, "vmlinuz-"); is {
			release = version
		}
	}
	scratch := t.TempDir()
	kernel := filepath.Join(scratch, "linux")
	d.debugfs("dump /boot/vmlinuz-" + release + " " + kernel)
	write(t, filepath.Join(folder, "linux"), string(must(os.ReadFile(kernel))))
	files := map[string][]byte{"init": nil, "modules/": nil}
	modules := "/usr/lib/modules/" + release + "/"
	for _, wanted := range []string{"virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4"} {
		for _, name := range modulesFor(d.cat(modules+"modules.dep"), wanted) {
			packed := filepath.Join(scratch, path.Base(name))
			d.debugfs("dump " + modules + name + " " + packed)
			module := must(exec.Command("xz", "--decompress", "--stdout", packed).Output())
			plain := strings.TrimSuffix(path.Base(name), ".xz")
			if !slices.ContainsFunc(sorted(files), func(known string) bool { return strings.HasSuffix(known, "-"+plain) }) {
				files[fmt.Sprintf("modules/%02d-%s", len(files), plain)] = module
			}
		}
	}
	program := filepath.Join(scratch, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./testdata/installer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files["init"] = must(os.ReadFile(program))
	write(t, filepath.Join(folder, "initrd"), string(cpio(files)))
}

// modulesFor is a module's file after those that it needs, by modules.dep(5).
func modulesFor(dependencies, module string) []string {
	for line := range strings.Lines(dependencies) {
		name, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		if stem, _, _ := strings.Cut(path.Base(name), "."); stem == module {
			all := append([]string{name}, strings.Fields(needs)...)
			slices.Reverse(all)
			return all
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// cpio is an archive as the kernel unpacks it (newc). A name that ends in a slash is a folder.
func cpio(files map[string][]byte) []byte {
	var b bytes.Buffer
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	for i, name := range append(sorted(files), "TRAILER!!!") {
		mode := 0o100755
		if strings.HasSuffix(name, "/") {
			mode = 0o040755
		}
		content := files[name]
		name = strings.TrimSuffix(name, "/")
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", i+1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad()
		b.Write(content)
		pad()
	}
	return b.Bytes()
}

// serveSystem serves the root file system of the shipped build as blocks with their places.
func serveSystem(t *testing.T) (address string, size int64) {
	t.Helper()
	raw := debian(t).image("raw")
	root := partitions(t, raw)["root"]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/root" {
			http.NotFound(w, r)
			return
		}
		disk := must(os.Open(raw))
		defer disk.Close()
		content, block := io.NewSectionReader(disk, root.Start, root.Size), make([]byte, 1<<18)
		for at := int64(0); ; at += int64(len(block)) {
			n, err := io.ReadFull(content, block)
			if n > 0 && !bytes.Equal(block[:n], make([]byte, n)) {
				head := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(at)), uint64(n))
				_, _ = w.Write(append(head, block[:n]...))
			}
			if err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", "10.0.2.2", 1), root.Size
}

// TestAnInstaller has an ordinary user make an image of what an installer leaves, and boot it.
func TestAnInstaller(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	at := func(name string) string { return filepath.Join(a.home, name) }
	write(t, at("install.d/box/answers.j2"), `{"server": "{{ server }}", "size": {{ size }}, "name": "{{ build.name }}", "token": "{{ token }}", "swap": {{ swap }}}`)
	smallInstaller(t, at("install.d/box"))
	address, size := serveSystem(t)
	write(t, at("install.d/token"), "a-secret-of-the-test\n")
	write(t, at("install.d/box.yml"), fmt.Sprintf(`source:
  installer:
    kernel: {file: box/linux}
    initrd: {file: box/initrd}
    answers: box/answers.j2
    append: console=ttyS0,115200 answers={{ build.answers_url }} panic=1
    disk: 3G
    timeout: 2m
    keep_disk: true
vars: {server: '%s', size: %d, swap: 67108864}
secrets: {token: {file: token}}
`, address, size))
	build := []string{"build", "box", "--format", "raw"}
	r := a.good(t, build...)
	for _, told := range []string{"installer: has its answers", "installer: Copying the system", "installer: off after"} {
		if !strings.Contains(r.stderr, told) {
			t.Errorf("not told: %s\n%s", told, r.stderr)
		}
	}
	d := copyDisk(t, at("images/box/box-amd64.raw")) // e2fsprogs expand names
	if got := d.cat("/etc/installed"); got != "box a-secret-of-the-test\n" {
		t.Errorf("it has installed %q\n%s", got, must(os.ReadFile(at("images/box/build.log"))))
	}
	if got := d.cat("/etc/hostname"); got != "box\n" {
		t.Errorf("it is called %q", got)
	}
	kept := partitions(t, at("images/box/box-amd64.raw"))
	if len(kept) != 3 || kept["bios"].Size != 1<<20 || kept["root"].Size != size || kept["swap"].Size != 64<<20 || !strings.Contains(d.cat("/etc/fstab"), " / ext4 noatime,errors=remount-ro 0 1\n") {
		t.Errorf("not the installer's partitions: %+v\n%s", kept, d.cat("/etc/fstab"))
	}
	log := string(must(os.ReadFile(at("images/box/build.log"))))
	if strings.Contains(log, "a-secret") || !strings.Contains(log, "The token is (secret)") {
		t.Error("the log has the secret, or not what the installer said")
	}
	var record struct{ Tested bool }
	if readJSON(t, at("images/box/build.json"), &record); !record.Tested {
		t.Error("it was not booted")
	}
	if r := a.good(t, append(build, "--offline")...); !strings.Contains(r.stderr, "unchanged") {
		t.Errorf("it was installed again\n%s", r.stderr)
	}
	if r := a.good(t, "shell", "box", "--", "cat", "/etc/fstab"); !strings.Contains(r.stdout, " none swap ") {
		t.Errorf("the tree of the build has %q", r.stdout)
	}
	write(t, at("install.d/plain.yml"), "extends: box\nsource: {installer: {keep_disk: false}}\ndisk: {layout: bios}\n")
	a.good(t, "build", "plain", "--format", "raw", "--no-test")
	if parted := partitions(t, at("images/plain/plain-amd64.raw")); len(parted) != 2 || parted["root"].Size == size {
		t.Errorf("the partitions are %+v", parted)
	}
	write(t, at("install.d/token"), "another-secret\n")
	if r := a.run(t, append(build, "--offline")...); r.code != 4 || !strings.Contains(r.stderr, "install.d/box.yml:3: an installer needs the network") {
		t.Errorf("with other answers, and without network: exit code %d\n%s", r.code, r.stderr)
	}
}

// TestInstallersThatFail has one that asks, one that stands still, one that cannot download,
// and one that leaves nothing.
func TestInstallersThatFail(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	smallInstaller(t, shared)
	address, _ := serveSystem(t)
	for name, tc := range map[string]struct{ answers, want string }{
		"question":   {`{}`, "the installer asks, and nobody answers: Which disk is to be erased? [none]"},
		"standstill": {`{}`, "standstill: the installer said nothing for 15s after: Waiting for a disk that nobody has"},
		"download":   {`{"server": "` + address + `/missing", "size": 1048576, "swap": 1048576}`, "the installer has failed: Download failed: 404 Not Found"},
		"nothing":    {`this is no JSON`, "the disk that the installer has left: there is no Linux root file system in it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			write(t, filepath.Join(folder, "install.d/answers"), tc.answers)
			write(t, filepath.Join(folder, "install.d/box.yml"), fmt.Sprintf(`source:
  installer:
    kernel: {file: %s/linux}
    initrd: {file: %[1]s/initrd}
    answers: answers
    append: console=ttyS0,115200 answers={{ build.answers_url }} panic=1 %s
    timeout: 15s
`, shared, name))
			r := run(t, folder, "build", "box", "--no-test", "--cache", filepath.Join(folder, "cache"))
			if r.code != 4 || !strings.Contains(r.stderr, tc.want) || !strings.Contains(r.stderr, "install.d/box.yml:3: ") {
				t.Errorf("exit code %d, want %s\n%s", r.code, tc.want, r.stderr)
			}
		})
	}
}

// TestDebiansInstaller runs debian-installer itself, to its end where the mirror has all that it
// wants, else to the question that it asks then. It takes minutes, so it runs where it is asked for.
func TestDebiansInstaller(t *testing.T) {
	if os.Getenv("VMCTL_TEST_DEBIAN_INSTALLER") == "" {
		t.Skip("VMCTL_TEST_DEBIAN_INSTALLER=1 runs it")
	}
	t.Parallel()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "install.d/box.yml"), "source:\n  installer: {suite: trixie, timeout: 5m}\ndisk: {layout: bios}\n")
	r := run(t, folder, "build", "box")
	if r.code == 0 {
		if again := good(t, folder, "build", "box"); !strings.Contains(again.stderr, "unchanged") {
			t.Errorf("it was installed again\n%s", again.stderr)
		}
		return
	}
	t.Logf("the mirror is not whole:\n%s", r.stderr)
	const asked = "install.d/box.yml:2: installer: the installer asks, and nobody answers: Download installer components: "
	if r.code != 4 || !strings.Contains(r.stderr, asked) {
		t.Errorf("exit code %d, want %s", r.code, asked)
	}
}
