package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for files of all users; make test runs this as root")
	}
}

var then = time.Unix(1_000_000_000, 0)

var contents = map[*tar.Header]string{} // of entries

// file is an entry of an archive. Its name ends in a slash where it is a folder, "a -> b" is a
// link, "a = b" another name of b.
func file(name string, content ...string) *tar.Header {
	h := &tar.Header{Name: name, Mode: 0o640, Uid: 5, Gid: 6, ModTime: then, Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{}}
	if from, to, is := strings.Cut(name, " -> "); is {
		h.Name, h.Linkname, h.Typeflag = from, to, tar.TypeSymlink
	}
	if from, to, is := strings.Cut(name, " = "); is {
		h.Name, h.Linkname, h.Typeflag = from, to, tar.TypeLink
	}
	if h.Typeflag == tar.TypeReg && strings.HasSuffix(name, "/") {
		h.Typeflag, h.Mode = tar.TypeDir, 0o750
	}
	for _, text := range content {
		contents[h], h.Size = text, int64(len(text))
	}
	return h
}

func archive(t *testing.T, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for _, h := range entries {
		err := out.WriteHeader(h)
		if err == nil {
			_, err = io.WriteString(out, contents[h])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpacked is a folder with the layers, inside another one that must stay as it is.
func unpacked(t *testing.T, layers ...[]byte) (root string, err error) {
	t.Helper()
	needRoot(t)
	outside := t.TempDir()
	root = filepath.Join(outside, "root")
	if err := errors.Join(os.Mkdir(root, 0o700), os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	l, err := NewLayers(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		if err == nil {
			sum := sha256.Sum256(layer)
			err = l.Add(bytes.NewReader(layer), "sha256:"+hex.EncodeToString(sum[:]))
		}
	}
	err = l.Close(err)
	entries, reading := os.ReadDir(outside)
	content, _ := os.ReadFile(filepath.Join(outside, "secret"))
	if reading != nil || len(entries) != 2 || string(content) != "secret" {
		t.Errorf("outside of the tree: %v, %q", entries, content)
	}
	return root, err
}

// show is what is in a tree, a line for each name.
func show(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		content := ""
		switch {
		case entry.Type() == fs.ModeSymlink:
			content, err = os.Readlink(path)
		case entry.Type().IsRegular():
			var all []byte
			all, err = os.ReadFile(path)
			content = string(all)
		case entry.IsDir():
			name += "/"
		}
		lines = append(lines, strings.TrimSpace(name+" "+content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines[1:], "\n")
}

func TestLayersLieAboveEachOther(t *testing.T) {
	below := archive(t,
		file("usr/"), file("usr/lib/"), file("lib -> usr/lib"), file("./usr/lib/a", "a"), file("usr/lib/b", "b"), file("etc/"), file("etc/keep", "1"), file("etc/gone", "2"),
		file("etc/gone.d/"), file("etc/gone.d/x", "x"), file("opt/old/"), file("opt/old/x", "x"), file("opt/old/sub/"), file("opt/old/sub/y", "y"), file("var/run -> /run"), file("run/"))
	root, err := unpacked(t, below, archive(t,
		file("opt/old/"), file("opt/old/.wh..wh..opq"), file("opt/old/new", "new"), file("opt/old/sub/z", "z"),
		file("etc/.wh.gone"), file("etc/gone.d/again", "again"), file("etc/.wh.gone.d"), file("etc/.wh.never"), file("nowhere/.wh.x"),
		file("lib/b", "B"), file("var/run/pid", "1"), file("etc/keep/"), file("etc/keep/file", "f"), file(".wh..wh.plnk"), file("usr/lib/c = /lib/a")))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"etc/", "etc/gone.d/", "etc/gone.d/again again", "etc/keep/", "etc/keep/file f", "lib usr/lib", "opt/", "opt/old/", "opt/old/new new", "opt/old/sub/", "opt/old/sub/z z",
		"run/", "run/pid 1", "usr/", "usr/lib/", "usr/lib/a a", "usr/lib/b B", "usr/lib/c a", "var/", "var/run /run",
	}, "\n")
	if got := show(t, root); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestFilesAreWhatTheArchiveSays(t *testing.T) {
	special := file("bin/ping", "p")
	special.Mode = 0o4755
	special.PAXRecords[attributePrefix+"user.a"] = "b"
	special.PAXRecords[attributePrefix+"security.selinux"] = "label"
	special.PAXRecords[attributePrefix+"security.capability"] = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	fifo := file("run/fifo")
	fifo.Typeflag = tar.TypeFifo
	device := file("dev/sda")
	device.Typeflag = tar.TypeBlock
	root, err := unpacked(t, archive(t, file("bin/"), special, file("bin/other = bin/ping"), fifo, device, file("bin/with\nnewline", "n"), file("implied/file", "f")))
	if err != nil {
		t.Fatal(err)
	}
	var stat, other unix.Stat_t
	if err := errors.Join(unix.Lstat(filepath.Join(root, "bin/ping"), &stat), unix.Lstat(filepath.Join(root, "bin/other"), &other)); err != nil {
		t.Fatal(err)
	}
	if stat.Mode != unix.S_IFREG|0o4755 || stat.Uid != 5 || stat.Gid != 6 || stat.Mtim.Sec != then.Unix() || stat.Ino != other.Ino {
		t.Errorf("%+v", stat)
	}
	value := make([]byte, 100)
	if n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), "security.capability", value); err != nil || n != 20 {
		t.Errorf("%d bytes of capabilities, %v", n, err)
	}
	if n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), "user.a", value); err != nil || string(value[:n]) != "b" {
		t.Errorf("%q, %v", value[:max(n, 0)], err)
	}
	for name, want := range map[string]struct {
		mode    fs.FileMode
		changed time.Time
	}{
		"": {fs.ModeDir | 0o755, time.Unix(0, 0)}, "bin": {fs.ModeDir | 0o750, then}, "implied": {fs.ModeDir | 0o755, time.Unix(0, 0)}, "run/fifo": {fs.ModeNamedPipe | 0o640, then}, "bin/with\nnewline": {0o640, then},
	} {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil || info.Mode() != want.mode || !info.ModTime().Equal(want.changed) {
			t.Errorf("%q: %v, %v, %v", name, err, info.Mode(), info.ModTime())
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "dev")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("devices of the machine's own: %v", err)
	}
}

func TestArchivesThatMeanHarm(t *testing.T) {
	device := file("srv/disk")
	device.Typeflag, device.Devmajor, device.Devminor = tar.TypeBlock, 8, 0
	stranger := file("x")
	stranger.Uid = math.MaxUint32
	odd := file("x")
	odd.Typeflag = 'Z'
	deep := file(strings.Repeat("d/", 600) + "x")
	for name, tc := range map[string]struct {
		entries []*tar.Header
		want    string // "" where it is harmless
		made    string
	}{
		"names that lead up":           {[]*tar.Header{file("../../secret", "x"), file("a/../../../b", "y")}, "", "b y\nsecret x"},
		"an absolute name":             {[]*tar.Header{file("/etc/passwd", "x")}, "", "etc/\netc/passwd x"},
		"a link that leads up":         {[]*tar.Header{file("a -> ../.."), file("a/secret", "x")}, "", "a ../..\nsecret x"},
		"an absolute link":             {[]*tar.Header{file("a -> /"), file("a/x", "x")}, "", "a /\nx x"},
		"a file through a link":        {[]*tar.Header{file("a -> ../secret"), file("a", "x")}, "", "a x"},
		"a whiteout through a link":    {[]*tar.Header{file("a -> ../.."), file("a/.wh.secret")}, "", "a ../.."},
		"an opaque link":               {[]*tar.Header{file("a -> ../.."), file("a/.wh..wh..opq"), file("b", "x")}, "", "b x"},
		"a link into /proc":            {[]*tar.Header{file("a -> /proc/self/root"), file("a/x", "x")}, "", ""},
		"another name of what is out":  {[]*tar.Header{file("a = ../secret")}, "no file that is there", ""},
		"another name through a link":  {[]*tar.Header{file("a -> .."), file("b = a/secret")}, "no file that is there", ""},
		"another name of itself":       {[]*tar.Header{file("a", "x"), file("a = a")}, "no file that is there", ""},
		"another name of a folder":     {[]*tar.Header{file("a/"), file("b = a")}, "no file that is there", ""},
		"links in a circle":            {[]*tar.Header{file("a -> b"), file("b -> a"), file("a/x", "x")}, "too many levels", ""},
		"a file below a file":          {[]*tar.Header{file("a", "x"), file("a/b", "x")}, "not a directory", ""},
		"a device":                     {[]*tar.Header{device}, "no device nodes", ""},
		"an owner that there is not":   {[]*tar.Header{stranger}, "belongs to nobody", ""},
		"a kind that nobody knows":     {[]*tar.Header{odd}, "no known kind", ""},
		"a whiteout of nothing":        {[]*tar.Header{file("a/.wh.")}, `removes ""`, ""},
		"a whiteout of what is above":  {[]*tar.Header{file("a/.wh...")}, `removes ".."`, ""},
		"folders that are too deep":    {[]*tar.Header{deep}, "more than 512 deep", ""},
		"a root that is no folder":     {[]*tar.Header{file(".", "x")}, "its root is no folder", ""},
		"a name that is far too long":  {[]*tar.Header{file(strings.Repeat("n", 300), "x")}, "name too long", ""},
		"a link in place of its root":  {[]*tar.Header{file("/ -> /etc")}, "its root is no folder", ""},
		"a name in place of its root":  {[]*tar.Header{file("a", "x"), file(". = a")}, "no file that is there", ""},
		"a whiteout of all":            {[]*tar.Header{file("a", "x"), file(".wh..wh..opq")}, "", "a x"},
		"a folder in place of a link":  {[]*tar.Header{file("a -> .."), file("a/"), file("a/secret", "x")}, "", "a/\na/secret x"},
		"a link that is left dangling": {[]*tar.Header{file("a -> nowhere"), file("a/x", "x")}, "file exists", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := unpacked(t, archive(t, tc.entries...))
			switch {
			case tc.want == "" && err != nil && name != "a link into /proc":
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("%v, want %q", err, tc.want)
			case tc.made != "" && show(t, root) != tc.made:
				t.Errorf("it made\n%s", show(t, root))
			}
		})
	}
}

// An archive that is cut off, or damaged anywhere, ends in an error and in no panic.
func TestDamagedArchives(t *testing.T) {
	whole := archive(t, file("a/"), file("a/b", strings.Repeat("b", 2000)), file("c -> a"))
	if _, err := unpacked(t, whole); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, 700, 1600, 3000} {
		if _, err := unpacked(t, whole[:size]); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%d bytes of it: %v", size, err)
		}
	}
	for at := 0; at < len(whole); at += 97 {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0xff
		_, _ = unpacked(t, damaged)
	}
	if _, err := unpacked(t, append(bytes.Clone(whole), make([]byte, 2<<20)...)); err == nil || !strings.Contains(err.Error(), "something follows") {
		t.Errorf("with an endless end: %v", err)
	}
	needRoot(t)
	l, err := NewLayers(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(l.Add(bytes.NewReader(whole), "sha256:"+strings.Repeat("0", 64))); err == nil || !strings.Contains(err.Error(), "unpacked, its SHA-256 is") {
		t.Errorf("with another digest: %v", err)
	}
}

func TestThereIsALimitOnWhatGrows(t *testing.T) {
	needRoot(t)
	tr, err := openTree(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tr.close(nil) }()
	if err := tr.meet("/a", mostBytes); err != nil {
		t.Error(err)
	}
	if err := tr.meet("/a", 1); err == nil || !strings.Contains(err.Error(), "more than 256 GiB") {
		t.Error(err)
	}
	tr.bytes, tr.met = 0, mostFiles
	if err := tr.meet("/a", 0); err == nil || !strings.Contains(err.Error(), "more than 5000000 files") {
		t.Error(err)
	}
}

func TestDecompress(t *testing.T) {
	text := strings.Repeat("a text that is compressed. ", 10_000)
	var gzipped, zstandard bytes.Buffer
	z := gzip.NewWriter(&gzipped)
	s, err := zstd.NewWriter(&zstandard)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{z, s} {
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("xz")
	cmd.Stdin = strings.NewReader(text)
	xz, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, in io.Reader, out io.Writer) error {
		cmd := exec.CommandContext(ctx, "xz", "-dc")
		cmd.Stdin, cmd.Stdout = in, out
		return cmd.Run()
	}
	for name, packed := range map[string][]byte{"gzip": gzipped.Bytes(), "zstd": zstandard.Bytes(), "xz": xz, "none": []byte(text), "nothing": nil} {
		plain, err := Decompress(t.Context(), bytes.NewReader(packed), run)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(plain)
		if err != nil || string(got) != text && len(packed) > 0 || plain.Close() != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if name == "none" || name == "nothing" {
			continue
		}
		cut, err := Decompress(t.Context(), bytes.NewReader(packed[:len(packed)-3]), run)
		if err == nil {
			_, err = io.ReadAll(cut)
		}
		if err == nil {
			t.Errorf("%s that is cut off is no error", name)
		}
		if again, err := Decompress(t.Context(), bytes.NewReader(packed), run); err != nil || again.Close() != nil && name != "xz" {
			t.Errorf("%s that nobody reads: %v", name, err)
		}
	}
}

// Disk images come in archives and compressed, and zeros are holes.
func TestDiskImages(t *testing.T) {
	disk := append(make([]byte, 1<<20), []byte("the end of the disk")...)
	packed := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Stdin = bytes.NewReader(disk)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	run := func(ctx context.Context, in io.Reader, out io.Writer) error {
		cmd := exec.CommandContext(ctx, "xz", "-dc")
		cmd.Stdin, cmd.Stdout = in, out
		return cmd.Run()
	}
	xz := packed("xz")
	tarred := archive(t, file("readme", "x"), file("disk.raw", string(disk)), file("more", "x"))
	for name, tc := range map[string]struct {
		content  []byte
		unpacked bool
		problem  string
	}{
		"raw": {disk, false, ""}, "xz": {xz, true, ""}, "gzip": {packed("gzip"), true, ""}, "zstd": {packed("zstd"), true, ""}, "tar": {tarred, true, ""}, "empty": {nil, false, ""},
		"xz that is cut off":         {xz[:len(xz)/2], true, "damaged"},
		"gzip that is cut off":       {packed("gzip")[:200], true, "damaged"},
		"tar that is cut off":        {tarred[:1<<20], true, "damaged"},
		"tar without a disk":         {archive(t, file("x", "x")), true, "there is no disk image in the archive"},
		"tar with two":               {archive(t, file("a.raw", "x"), file("b.qcow2", "x")), true, `several disk images, "a.raw" and "b.qcow2"`},
		"tar with a link for a disk": {archive(t, file("a.raw -> /etc/shadow")), true, "there is no disk image"},
	} {
		t.Run(name, func(t *testing.T) {
			path, to := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(path, tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			in, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			unpacked, err := DiskImage(t.Context(), in, run, to, []string{".raw", ".qcow2"})
			if tc.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tc.problem) {
					t.Errorf("%v, want %s", err, tc.problem)
				}
				return
			}
			if err != nil || unpacked != tc.unpacked {
				t.Fatalf("%t, %v", unpacked, err)
			}
			if !unpacked {
				return
			}
			var stat unix.Stat_t
			got, err := os.ReadFile(to)
			if err != nil || !bytes.Equal(got, disk) || unix.Stat(to, &stat) != nil || stat.Blocks > 128+16 {
				t.Errorf("%d bytes in %d blocks, %v", len(got), stat.Blocks, err)
			}
		})
	}
}

// describe is all that a tree is, a line for each name.
func describe(t *testing.T, root string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(root, path)
		value := make([]byte, 10)
		n, _ := unix.Lgetxattr(path, "user.a", value)
		lines = append(lines, fmt.Sprintf("%q %s %d:%d %d links %q %s", name, info.Mode(), stat.Uid, stat.Gid, stat.Nlink, value[:max(n, 0)], info.ModTime().Truncate(time.Second)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestATreeOfADisk(t *testing.T) {
	needRoot(t)
	from, path := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	at := func(name string) string { return filepath.Join(from, name) }
	err := errors.Join(os.MkdirAll(at("etc"), 0o755), os.WriteFile(at("etc/fstab"), []byte("/dev/sda1 / ext4 defaults\n"), 0o644), os.Mkdir(at("dev"), 0o755),
		unix.Mknod(at("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mkfifo(at("fifo"), 0o600), os.Symlink("/../../etc", at("link")),
		os.WriteFile(at("suid"), bytes.Repeat([]byte("x"), 100_000), 0o644), os.Chown(at("suid"), 7, 8), os.Chmod(at("suid"), os.ModeSetuid|0o711), os.Link(at("suid"), at("same")),
		unix.Setxattr(at("suid"), "user.a", []byte("b"), 0), os.WriteFile(at("with\nnewline"), nil, 0o600),
		os.Chtimes(at("suid"), then, then), os.Chtimes(at("etc"), then, then), os.WriteFile(path, nil, 0o600), os.Truncate(path, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-d", from, path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	system, err := rawdisk.OpenSystem(disk, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := Disk(t.Context(), system, root); err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := errors.Join(Folder(t.Context(), from, copied), os.Remove(at("dev/null"))); err != nil {
		t.Fatal(err)
	}
	if folder := describe(t, copied); !slices.Equal(folder, describe(t, root)) {
		t.Errorf("of a folder:\n%s", strings.Join(folder, "\n"))
	}
	want, got := describe(t, from), describe(t, root)
	for i := range want {
		if strings.HasPrefix(want[i], `"dev"`) {
			want[i], got[i] = "", "" // whose time is of now
		}
	}
	if !slices.Equal(want, got) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	content, err := os.ReadFile(filepath.Join(root, "same"))
	if err != nil || !bytes.Equal(content, bytes.Repeat([]byte("x"), 100_000)) {
		t.Errorf("%d bytes, %v", len(content), err)
	}

	if err := unix.Mknod(at("etc/disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-d", from, path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if system, err = rawdisk.OpenSystem(disk, 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := Folder(t.Context(), from, t.TempDir()); fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), "no device nodes") {
		t.Errorf("a device in a folder: %v", err)
	}
	if err := Disk(t.Context(), system, t.TempDir()); fail.ExitCode(err) != 4 || !strings.Contains(err.Error(), `"/etc/disk": the tree of an image can have no device nodes`) {
		t.Errorf("a device: %v", err)
	}
}
