package product

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// small is work on a disk with few files.
func small(t *testing.T) *work {
	t.Helper()
	root, raw := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for name, content := range map[string]string{"etc/fstab": "", "etc/one": "content", "etc/other": "elsewhere"} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Link(filepath.Join(root, "etc/one"), filepath.Join(root, "etc/two")), os.WriteFile(raw, nil, 0o600), os.Truncate(raw, 16<<20))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mkfs.ext4", "-q", "-F", "-d", root, raw)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &work{Subject: Subject{Disk: raw, Size: 16 << 20}, ctx: t.Context()}
}

type entry struct {
	header  tar.Header
	content []byte
}

// What an archive has otherwise than the disk is found, whatever it is.
func TestArchivesThatAreNotTheTree(t *testing.T) {
	w := small(t)
	var whole bytes.Buffer
	if err := w.writeTree(&whole, allAttributes); err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for reader := tar.NewReader(bytes.NewReader(whole.Bytes())); ; {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		content, reading := io.ReadAll(reader)
		if err = errors.Join(err, reading); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{*h, content})
	}
	at := func(all []entry, name string) *entry {
		return &all[slices.IndexFunc(all, func(e entry) bool { return e.header.Name == name })]
	}
	for name, tc := range map[string]struct {
		change func(all []entry) []entry
		want   string
	}{
		"nothing": {func(all []entry) []entry { return all }, ""},
		"a byte":  {func(all []entry) []entry { at(all, "etc/other").content[3] ^= 1; return all }, "content"},
		"the end": {func(all []entry) []entry {
			e := at(all, "etc/other")
			e.content = e.content[:3]
			e.header.Size = 3
			return all
		}, "bytes"},
		"the mode":  {func(all []entry) []entry { at(all, "etc/").header.Mode = 0o777; return all }, "mode"},
		"the owner": {func(all []entry) []entry { at(all, "./").header.Uid = 4711; return all }, "owner"},
		"the time":  {func(all []entry) []entry { at(all, "etc/other").header.ModTime = time.Unix(7, 0); return all }, "1970"},
		"the kind":  {func(all []entry) []entry { at(all, "etc/other").header.Typeflag = tar.TypeFifo; return all }, "type"},
		"a link":    {func(all []entry) []entry { at(all, "etc/two").header.Linkname = "etc/other"; return all }, "another file"},
		"an attribute": {func(all []entry) []entry {
			at(all, "etc/other").header.PAXRecords = map[string]string{xattrPrefix + "user.x": "y"}
			return all
		}, "attributes"},
		"a copy in place of a link": {func(all []entry) []entry {
			one, two := at(all, "etc/one"), at(all, "etc/two")
			two.header.Typeflag, two.header.Linkname, two.header.Size, two.content = tar.TypeReg, "", one.header.Size, one.content
			return all
		}, "file of its own"},
		"one less": {func(all []entry) []entry { return all[:len(all)-1] }, "lacks"},
		"one more": {func(all []entry) []entry {
			return append(all, entry{tar.Header{Name: "more", Typeflag: tar.TypeDir}, nil})
		}, `"more"`},
		"one twice": {func(all []entry) []entry { return append(all, *at(all, "etc/other")) }, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := make([]entry, len(entries))
			for i, e := range entries {
				changed[i] = entry{e.header, bytes.Clone(e.content)}
			}
			var archive bytes.Buffer
			writer := tar.NewWriter(&archive)
			for _, e := range tc.change(changed) {
				e.header.Format = tar.FormatPAX
				if err := writer.WriteHeader(&e.header); err != nil {
					t.Fatal(err)
				}
				if e.header.Typeflag == tar.TypeReg {
					if _, err := writer.Write(e.content); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := writer.Close(); err != nil {
				t.Fatal(err)
			}
			err := w.compareTree(&archive, allAttributes)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	if err := w.compareTree(bytes.NewReader(whole.Bytes()[:2000]), allAttributes); err == nil {
		t.Error("an archive that is cut off passes")
	}
}

func TestEachFormatHasAWriter(t *testing.T) {
	for _, f := range format.All() {
		if !f.Disk && writers[f.Name] == nil {
			t.Errorf("nobody writes %s", f.Name)
		}
		if f.Suffix == "" || f.About == "" {
			t.Errorf("%+v", f)
		}
	}
	for name := range writers {
		if format.Named(name).Name == "" {
			t.Errorf("%s is in no table", name)
		}
	}
}

func TestFirstEntry(t *testing.T) {
	const menu = "set default=0\nmenuentry 'Debian' --class debian $id {\n\tload_video\n\tlinux\t/vmlinuz-6 root=UUID=1 ro quiet $vt_handoff\n\tinitrd\t/early.img /initrd.img-6\n}\n"
	for name, tc := range map[string]struct {
		config string
		want   menuEntry
		line   string
	}{
		"usual":        {menu, menuEntry{"/vmlinuz-6", []string{"root=UUID=1", "ro", "quiet"}, []string{"/early.img", "/initrd.img-6"}}, "root=UUID=1 ro quiet console=hvc0"},
		"no initramfs": {"linux /k\nmenuentry 'x' {\n\tinitrd /other\n", menuEntry{kernel: "/k"}, "console=hvc0"},
		"has it":       {"linux /k console=hvc0 console=ttyS0\ninitrd /i", menuEntry{"/k", []string{"console=hvc0", "console=ttyS0"}, []string{"/i"}}, "console=hvc0 console=ttyS0"},
	} {
		t.Run(name, func(t *testing.T) {
			entry, err := firstEntry(tc.config)
			if err != nil || !reflect.DeepEqual(entry, tc.want) || entry.commandLine() != tc.line {
				t.Errorf("%+v, %q, %v", entry, entry.commandLine(), err)
			}
		})
	}
	if _, err := firstEntry("menuentry 'x' {\n\tchainloader +1\n}\n"); fail.ExitCode(err) != fail.Usage.ExitCode() {
		t.Errorf("error %v", err)
	}
}

func TestReferences(t *testing.T) {
	for name, want := range map[string]string{"debian": "debian:13", "a:b, {{ x }}": "a-b-x:13", "--": "image:13", "Web.Server_2": "web.server_2:13"} {
		w := work{Subject: Subject{Name: name, Version: "13"}}
		if got := w.reference(); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

// The table is read also of a disk that is named from the folder at hand.
func TestTheTableOfADiskWithARelativeName(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := errors.Join(os.WriteFile("disk.raw", nil, 0o600), os.Truncate("disk.raw", 8<<20), os.Mkdir("scratch", 0o700)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", "disk.raw")
	cmd.Stdin = strings.NewReader("label: gpt\nstart=2048, size=2048, name=\"a b\"\n")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk, err := os.Open("disk.raw")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	w := &work{Subject: Subject{Disk: "disk.raw", Size: 8 << 20, Base: "x"}, ctx: t.Context(), host: &host.Local{}, folder: ".", scratch: "scratch"}
	if err := w.tableFiles(disk); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("x.partitions.sfdisk")
	if err != nil || !strings.Contains(string(script), "\n1 : start=") || strings.Contains(string(script), "device") || strings.Contains(string(script), "last-lba") {
		t.Errorf("%v\n%s", err, script)
	}
}
