package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/host"
)

func run(t *testing.T, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", argv, err, out)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// edited is a disk of a small tree, as it was and as debugfs has left it, and a copy of the
// tree.
func edited(t *testing.T, requests ...string) (tree string, before, after Snapshot) {
	t.Helper()
	folder := t.TempDir()
	tree, disk := filepath.Join(folder, "tree"), filepath.Join(folder, "disk")
	for name, content := range map[string]string{"etc/kept": "kept", "etc/edited": "old", "etc/gone": "gone", "srv/old/a": "a", "srv/old/b": "b", "var/log/x": "noise"} {
		writeFile(t, filepath.Join(tree, name), content)
	}
	if err := os.Link(filepath.Join(tree, "etc/kept"), filepath.Join(tree, "etc/twin")); err != nil {
		t.Fatal(err)
	}
	command := MakeDisk(tree, disk, 16<<20)
	run(t, append([]string{command.Path}, command.Args...)...)
	file, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	look := func() Snapshot {
		s, clean, err := Look(file)
		if err != nil || !clean {
			t.Fatalf("clean %t, %v", clean, err)
		}
		return s
	}
	before = look()
	for _, request := range requests {
		run(t, "debugfs", "-w", "-R", request, disk)
	}
	return tree, before, look()
}

func TestWhatAGuestHasChangedIsDoneToTheTree(t *testing.T) {
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "new"), "new content")
	sparse := filepath.Join(folder, "sparse")
	writeFile(t, sparse, "begin")
	if err := os.Truncate(sparse, 4<<20); err != nil {
		t.Fatal(err)
	}
	own := []string{fmt.Sprintf("uid %d", os.Getuid()), fmt.Sprintf("gid %d", os.Getgid())}
	requests := []string{
		"rm /etc/edited", "write " + filepath.Join(folder, "new") + " /etc/edited", "sif /etc/edited mode 0100640",
		"rm /etc/gone", "rm /srv/old/a", "rm /srv/old/b", "rmdir /srv/old",
		"mkdir /srv/new", "mkdir /srv/new/deep", "sif /srv/new mode 040750", "write " + sparse + " /srv/new/deep/sparse",
		"symlink /srv/new/link /etc/kept", "ea_set /etc/edited user.colour blue",
		"ln /etc/edited /etc/second", "sif /etc/edited links_count 2",
		"rm /var/log/x", "write " + sparse + " /var/log/y",
	}
	for _, name := range []string{"/etc/edited", "/srv/new", "/srv/new/deep", "/srv/new/deep/sparse", "/srv/new/link"} {
		for _, owner := range own {
			requests = append(requests, "sif "+name+" "+owner)
		}
	}
	tree, before, after := edited(t, requests...)
	changes := Changes(before, after, func(name string) bool { return strings.HasPrefix(name, "/var/log") })
	var told []string
	for _, c := range changes {
		told = append(told, fmt.Sprintf("%s %t %s", c.Path, c.Inode != nil, c.Link))
	}
	want := []string{
		"/etc/edited true ", "/etc/gone false ", "/etc/second true /etc/edited", "/srv/new true ", "/srv/new/deep true ", "/srv/new/deep/sparse true ", "/srv/new/link true ", "/srv/old false ",
	}
	if !slices.Equal(told, want) {
		t.Errorf("changes: %q", told)
	}
	if err := Apply(t.Context(), changes, after, tree); err != nil {
		t.Fatal(err)
	}
	var stat, second, holes unix.Stat_t
	in := func(name string) string { return filepath.Join(tree, name) }
	if err := errors.Join(unix.Stat(in("etc/edited"), &stat), unix.Stat(in("etc/second"), &second), unix.Stat(in("srv/new/deep/sparse"), &holes)); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(in("etc/edited")); string(content) != "new content" || stat.Mode&0o777 != 0o640 || stat.Ino != second.Ino {
		t.Errorf("%q, %v, %o", content, err, stat.Mode)
	}
	if content, err := os.ReadFile(in("srv/new/deep/sparse")); len(content) != 4<<20 || !bytes.HasPrefix(content, []byte("begin\x00")) || holes.Blocks > 64 {
		t.Errorf("%d bytes in %d blocks, %v", len(content), holes.Blocks, err)
	}
	if info, err := os.Stat(in("srv/new")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
	if target, err := os.Readlink(in("srv/new/link")); target != "/etc/kept" {
		t.Errorf("link to %q, %v", target, err)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(in("etc/edited"), "user.colour", value); err != nil || string(value[:n]) != "blue" {
		t.Errorf("attribute: %q, %v", value, err)
	}
	for _, name := range []string{"etc/gone", "srv/old"} {
		if _, err := os.Lstat(in(name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if content, err := os.ReadFile(in("var/log/x")); string(content) != "noise" {
		t.Errorf("what is skipped: %q, %v", content, err)
	}
	for name, most := range map[string]int64{"/etc/edited": 11, "/etc/second": 10, "/etc": 1 << 20, "/srv/new/link": 1 << 20, "/etc/gone": 1 << 20} {
		target := filepath.Join(folder, "copy of "+path.Base(name))
		size, err := after.Copy(t.Context(), name, target, most)
		content, _ := os.ReadFile(target)
		if taken := name == "/etc/edited"; err != nil || taken != (size == 11) || taken != (string(content) == "new content") {
			t.Errorf("a copy of %s: %d bytes, %q, %v", name, size, content, err)
		}
	}
}

// The state of a service is one: what the start has made of it is taken where more is.
func TestTheStateOfAServiceIsTakenWhole(t *testing.T) {
	_, pristine, up := edited(t, "mkdir /var/lib", "mkdir /var/lib/db", "mkdir /var/lib/db/made", "mkdir /var/lib/idle", "mkdir /etc/made")
	off := maps.Clone(up)
	off["/var/lib/db/more"] = off["/var/lib/db/made"]
	var names []string
	for _, change := range SinceUp(pristine, up, off, func(string) bool { return false }) {
		names = append(names, change.Path)
	}
	if !slices.Equal(names, []string{"/var/lib/db", "/var/lib/db/made", "/var/lib/db/more"}) {
		t.Errorf("%q", names)
	}
	if changes := SinceUp(pristine, up, up, func(string) bool { return false }); len(changes) > 0 {
		t.Errorf("nothing has changed: %v", changes)
	}
}

// A folder that the start has made belongs to what an entry puts there, and a link that the
// tree has in its place leads nowhere.
func TestFoldersOfTheGuestAreMade(t *testing.T) {
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "new"), "new")
	_, before, after := edited(t, "mkdir /srv/made", "write "+filepath.Join(folder, "new")+" /srv/made/file")
	before["/srv/made"] = after["/srv/made"]
	outside, tree := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "srv"), 0o755), os.Symlink(outside, filepath.Join(tree, "srv/made"))); err != nil {
		t.Fatal(err)
	}
	changes := Changes(before, after, func(string) bool { return false })
	if len(changes) != 1 || changes[0].Path != "/srv/made/file" {
		t.Fatalf("%+v", changes)
	}
	if os.Getuid() != 0 {
		for _, inode := range after { // debugfs makes root's
			inode.UID, inode.GID = uint32(os.Getuid()), uint32(os.Getgid())
		}
	}
	if err := Apply(t.Context(), changes, after, tree); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(tree, "srv/made")); err != nil || !info.IsDir() {
		t.Errorf("%v, %v", info, err)
	}
	if inside, err := os.ReadDir(outside); err != nil || len(inside) > 0 {
		t.Errorf("outside: %v, %v", inside, err)
	}
}

func TestTheNewestKernelIsChosen(t *testing.T) {
	root := t.TempDir()
	if _, err := NewestKernel(root); err == nil {
		t.Error("there is none")
	}
	for _, version := range []string{"6.9.1-amd64", "6.12.9-amd64", "6.12.10-amd64"} {
		writeFile(t, filepath.Join(root, "boot/vmlinuz-"+version), "")
		writeFile(t, filepath.Join(root, "boot/initrd.img-"+version), "")
	}
	kernel, err := NewestKernel(root)
	if err != nil || kernel.Image != filepath.Join(root, "boot/vmlinuz-6.12.10-amd64") || kernel.Initramfs != filepath.Join(root, "boot/initrd.img-6.12.10-amd64") {
		t.Errorf("%+v, %v", kernel, err)
	}
}

func TestAGuestsTreeIsFurnished(t *testing.T) {
	root := t.TempDir()
	const id = "0123456789abcdef0123456789abcdef"
	if err := Furnish(root, id); err == nil || !strings.Contains(err.Error(), "python3") {
		t.Errorf("without Python: %v", err)
	}
	for name, content := range map[string]string{"usr/bin/python3": "", "usr/bin/systemctl": "", "etc/machine-id": "uninitialized\n"} {
		writeFile(t, filepath.Join(root, name), content)
	}
	if err := Furnish(root, id); err != nil {
		t.Fatal(err)
	}
	if content, _ := host.Tree(root).Read(machineID); string(content) != id+"\n" {
		t.Errorf("machine id %q", content)
	}
	for _, name := range []string{unitFile, programFile} {
		if !host.Tree(root).Exists(name) {
			t.Errorf("there is no %s", name)
		}
	}
}

// fakeGuest is an agent that prints what it is given, and the command as an error.
func fakeGuest(t *testing.T, port net.Conn) {
	t.Helper()
	_ = frame{frameUp, []byte(`{"state":"running"}`)}.write(port)
	for {
		f, err := readFrame(port)
		if err != nil {
			return
		}
		switch f.letter {
		case frameRun:
			_ = frame{frameError, f.content}.write(port)
		case frameInput:
			_ = frame{frameOutput, f.content}.write(port)
		case frameEnd:
			_ = frame{frameExit, []byte("3")}.write(port)
		case frameKill:
		default:
			_ = frame{letter: frameDone}.write(port)
		}
	}
}

func TestCommandsOfSeveralClientsFollowEachOther(t *testing.T) {
	ours, theirs := net.Pipe()
	go fakeGuest(t, theirs)
	agent := Connect(t.Context(), ours, nil)
	if state, err := agent.Up(); err != nil || state.State != "running" {
		t.Fatal(state, err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go agent.Serve(listener)
	results := make(chan string)
	for range 3 {
		go func() {
			client, err := net.Dial("unix", listener.Addr().String())
			if err != nil {
				results <- err.Error()
				return
			}
			defer client.Close()
			said := ""
			for range 5 {
				for _, f := range []frame{{frameRun, []byte("{}")}, {frameInput, []byte("a")}, {frameInput, []byte("b")}, {letter: frameEnd}} {
					_ = f.write(client)
				}
				for {
					f, err := readFrame(client)
					if err != nil {
						results <- err.Error()
						return
					}
					said += string(f.letter) + string(f.content)
					if f.letter == frameExit {
						break
					}
				}
			}
			results <- said
		}()
	}
	gone, err := net.Dial("unix", listener.Addr().String()) // amid its command
	if err != nil {
		t.Fatal(err)
	}
	_ = frame{frameRun, []byte("{}")}.write(gone)
	gone.Close()
	for range 3 {
		if said := <-results; said != strings.Repeat("e{}oaobX3", 5) {
			t.Errorf("said %q", said)
		}
	}
	var output bytes.Buffer
	if code, err := agent.Run("true", &output); code != 3 || err != nil || !strings.Contains(output.String(), `"true"`) {
		t.Errorf("%d, %v, %s", code, err, &output)
	}
	if err := errors.Join(agent.Freeze(), agent.Thaw(), agent.Off()); err != nil {
		t.Error(err)
	}
	theirs.Close()
	if _, err := agent.Run("true", io.Discard); err == nil {
		t.Error("a guest that is gone has answered")
	}
}

// What the guest wants it gets at any time, before it is up and amid commands.
func TestAGuestGetsWhatTheBuilderKeeps(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 20<<10) // more than a part
	ours, theirs := net.Pipe()
	kept := func(sha256 string, into []byte, offset int64) (int, error) {
		if sha256 != "one" {
			return 0, errors.New("there is none")
		}
		return strings.NewReader(content).ReadAt(into, offset)
	}
	agent := Connect(t.Context(), ours, kept)
	want := func(sha256 string) (got string) {
		for {
			_ = frame{frameWanted, fmt.Appendf(nil, `{"sha256":%q,"offset":%d}`, sha256, len(got))}.write(theirs)
			part, err := readFrame(theirs)
			if err != nil || part.letter != framePart {
				t.Errorf("%q, %v", part.letter, err)
				return got
			}
			if len(part.content) == 0 {
				return got
			}
			got += string(part.content)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		early, other := want("one"), want("two")
		_ = frame{frameUp, []byte(`{"state":"running"}`)}.write(theirs)
		order, _ := readFrame(theirs)
		amid := want("one")
		_ = frame{letter: frameDone}.write(theirs)
		if early != content || other != "" || amid != content || order.letter != frameFreeze {
			t.Errorf("%d bytes before, %d of what there is not, %d amid %q", len(early), len(other), len(amid), order.letter)
		}
		_ = frame{frameWanted, []byte("nonsense")}.write(theirs)
	}()
	if state, err := agent.Up(); err != nil || state.State != "running" {
		t.Fatal(state, err)
	}
	if err := agent.Freeze(); err != nil {
		t.Error(err)
	}
	if _, err := agent.Up(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("it goes on with an agent that talks nonsense: %v", err)
	}
	<-done
}

func TestFramesHaveALimit(t *testing.T) {
	if _, err := readFrame(strings.NewReader("o\xff\xff\xff\xff")); err == nil {
		t.Error("4 GiB are taken")
	}
}

func TestSnapshotsHaveEveryName(t *testing.T) {
	_, before, _ := edited(t)
	names := slices.Sorted(maps.Keys(before))
	want := []string{"/", "/etc", "/etc/edited", "/etc/gone", "/etc/kept", "/etc/twin", "/lost+found", "/srv", "/srv/old", "/srv/old/a", "/srv/old/b", "/var", "/var/log", "/var/log/x"}
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}
