package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// workplace is a folder with definitions of builds from a tarball, and a store.
type workplace struct {
	t      *testing.T
	folder string
}

// inTree is the programs in the tarball.
var inTree = []string{"sh", "bash", "cat", "ls", "sleep", "stty", "tty", "touch", "readlink"}

// newWorkplace makes a tarball of programs of this machine, and a build of it that fails
// once it has its layers: it has no packages. broken's tarball ends too early.
func newWorkplace(t *testing.T) workplace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to build")
	}
	w := workplace{t, t.TempDir()}
	tree := filepath.Join(w.folder, "tree")
	w.write("tree/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
	w.write("tree/etc/os-release", "ID=tiny\n")
	w.write("install.d/tiny.yml", "source: {tarball: {path: ../tiny.tar}}\n")
	w.write("install.d/broken.yml", "source: {tarball: {path: ../broken.tar}}\n")
	for _, name := range inTree {
		w.copyProgram(name, tree)
	}
	w.tool("tar", "--create", "--file", "tiny.tar", "--directory", "tree", ".")
	w.write("last", strings.Repeat("x", 1<<20))
	w.tool("cp", "tiny.tar", "broken.tar")
	w.tool("tar", "--append", "--file", "broken.tar", "last")
	if err := os.Truncate(filepath.Join(w.folder, "broken.tar"), w.size("tiny.tar")+1<<19); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w workplace) write(name, content string) {
	w.t.Helper()
	path := filepath.Join(w.folder, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

func (w workplace) size(name string) int64 {
	w.t.Helper()
	info, err := os.Stat(filepath.Join(w.folder, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return info.Size()
}

func (w workplace) tool(name string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = w.folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// copyProgram copies a program with its libraries.
func (w workplace) copyProgram(name, tree string) {
	w.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		w.t.Fatal(err)
	}
	files := []string{path}
	for field := range strings.FieldsSeq(w.tool("ldd", path)) {
		if filepath.IsAbs(field) {
			files = append(files, field)
		}
	}
	for _, file := range files {
		target := filepath.Join(tree, file)
		if file == path {
			target = filepath.Join(tree, "bin", name)
		}
		content, err := os.ReadFile(file)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(target), 0o755)); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(target, content, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w workplace) args(verb string, args ...string) []string {
	return append([]string{verb, "--definitions", w.folder, "--cache", filepath.Join(w.folder, "store")}, args...)
}

// console starts vmctl on a terminal.
func (w workplace) console(verb string, args ...string) (*console, *exec.Cmd) {
	w.t.Helper()
	c := newTerminal(w.t)
	if err := unix.IoctlSetWinsize(int(c.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99}); err != nil {
		w.t.Fatal(err)
	}
	return c, c.start([]string{"TERM=vt100"}, w.args(verb, args...)...)
}

// prompt is that of a shell in these tests, as the line that sets it does not show it.
const prompt = "ready42 "

// sleeping starts a command that says when it has the terminal.
const sleeping = "sh -c 'echo in$((1+1)); exec sleep 1000'\r"

// prompt waits for a shell and gives it a prompt.
func (c *console) prompt() {
	c.t.Helper()
	c.expect("# ")
	c.dialogue([][2]string{{"PS1='ready$((6*7)) '\r", prompt}})
}

// dialogue sends keys and waits for what is shown because of them.
func (c *console) dialogue(steps [][2]string) {
	c.t.Helper()
	for _, step := range steps {
		c.shown.Reset()
		c.send(step[0])
		c.expect(step[1])
	}
}

// clean makes sure that nothing is left of what was being made.
func (w workplace) clean() {
	w.t.Helper()
	if left, err := os.ReadDir(filepath.Join(w.folder, "store/work")); err != nil || len(left) > 0 {
		w.t.Errorf("left in the store: %v, %v", left, err)
	}
}

// run runs vmctl without a terminal.
func (w workplace) run(stdin, verb string, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := exec.Command("vmctl", w.args(verb, args...)...)
	cmd.ExtraFiles = []*os.File{os.Stdin} // which nothing is to inherit
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = w.folder, strings.NewReader(stdin), &out, &errs
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	code = ended(w.t, cmd)
	return out.String(), errs.String(), code
}

// build makes the layers of the build "tiny".
func (w workplace) build() {
	w.t.Helper()
	_, stderr, code := w.run("", "build", "tiny", "--no-test")
	if code != 4 || !strings.Contains(stderr, "Layer tiny") {
		w.t.Fatalf("exit code %d\n%s", code, stderr)
	}
}

func TestShellRunsACommandOnTheCallersStreams(t *testing.T) {
	w := newWorkplace(t)
	if _, stderr, code := w.run("", "shell", "tiny"); code != 2 || !strings.Contains(stderr, "run 'vmctl build tiny' first") {
		t.Errorf("without a build: exit code %d\n%s", code, stderr)
	}
	w.build()
	for _, tc := range []struct {
		name, stdin, stdout, stderr string
		command                     []string
		code                        int
	}{
		{name: "the tree", command: []string{"cat", "/etc/os-release"}, stdout: "ID=tiny\n", stderr: "tree of tiny after Source;"},
		{name: "streams", command: []string{"sh", "-c", "cat; echo error >&2"}, stdin: "input", stdout: "input", stderr: "error\n"},
		{name: "exit code", command: []string{"sh", "-c", "exit 42"}, code: 42},
		{name: "signal", command: []string{"sh", "-c", "kill -TERM $$"}, code: 128 + 15},
		{name: "unknown command", command: []string{"no-such-command"}, code: 127, stderr: "no-such-command"},
		{name: "words as they are", command: []string{"ls", "-d", "--", "/etc", "*"}, code: 2, stdout: "/etc\n", stderr: "*"},
		{name: "change", command: []string{"touch", "/etc/changed"}},
		{name: "no change lasts", command: []string{"ls", "/etc/changed"}, code: 2, stderr: "No such file"},
		{name: "other descriptors", command: []string{"sh", "-c", "ls /proc/$$/fd"}, stdout: "0\n1\n2\n"},
		{name: "root's shell", stdin: "echo $0 $SHELL; exit 3", stdout: "/bin/bash /bin/bash\n", code: 3},
		{name: "what is left running", command: []string{"sh", "-c", "sleep 1000 & echo done"}, stdout: "done\n"},
	} {
		args := []string{"tiny"}
		if tc.command != nil {
			args = append(append(args, "--"), tc.command...)
		}
		stdout, stderr, code := w.run(tc.stdin, "shell", args...)
		if code != tc.code || stdout != tc.stdout || !strings.Contains(stderr, tc.stderr) {
			t.Errorf("%s: exit code %d\n%s\n%s", tc.name, code, stdout, stderr)
		}
	}
	w.clean()
}

// TestShellHasTheTerminal uses what only a terminal of one's own has.
// TestShellOnlyReadsItsInput has a program of the tree open it again, for writing.
func TestShellOnlyReadsItsInput(t *testing.T) {
	w := newWorkplace(t)
	w.build()
	w.write("input", "as it was\n")
	input, err := os.Open(filepath.Join(w.folder, "input"))
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	cmd := exec.Command("vmctl", w.args("shell", "tiny", "--", "sh", "-c", "cat; echo changed >/proc/self/fd/0")...)
	cmd.Dir, cmd.Stdin = w.folder, input
	if out, _ := cmd.Output(); string(out) != "as it was\n" {
		t.Errorf("it reads %q", out)
	}
	if content, err := os.ReadFile(input.Name()); string(content) != "as it was\n" {
		t.Errorf("its input is %q, %v", content, err)
	}
}

func TestShellHasTheTerminal(t *testing.T) {
	w := newWorkplace(t)
	w.build()
	c, cmd := w.console("shell", "tiny")
	before := c.settings()
	c.expect("tree of tiny after Source")
	c.prompt()
	c.dialogue([][2]string{
		{"tty; echo $TERM\r", "/dev/pts/0\r\nvt100\r\n" + prompt},
		{"stty size\r", "\n33 99\r\n" + prompt},
		{sleeping, "in2\r\n"},
		{"\x03", prompt},
		{"echo code$?\r", "code130\r\n" + prompt},
		{sleeping, "in2\r\n"},
		{"\x1a", "Stopped"},
		{"\r", prompt},
		{"sleep 1000 < /dev/tty & jobs\r", "Running"},
	})
	if err := unix.IoctlSetWinsize(int(c.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 88}); err != nil {
		t.Fatal(err)
	}
	c.dialogue([][2]string{{"\r", prompt}, {"sleep 0.3; stty size\r", "\n44 88\r\n" + prompt}, {"exit\r", "stopped jobs"}, {"\r", prompt}})
	c.send("exit 7\r")
	if code := ended(t, cmd); code != 7 {
		t.Errorf("exit code %d\n%s", code, &c.shown)
	}
	if after := c.settings(); after != before {
		t.Errorf("the terminal was %+v and is %+v", before, after)
	}
	w.clean()
}

func TestShellEndsWithVmctl(t *testing.T) {
	w := newWorkplace(t)
	w.build()
	c, cmd := w.console("shell", "tiny")
	before := c.settings()
	c.expect("tree of tiny")
	c.prompt()
	c.dialogue([][2]string{{sleeping, "in2\r\n"}})
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := ended(t, cmd); code != 130 {
		t.Errorf("exit code %d\n%s", code, &c.shown)
	}
	if after := c.settings(); after != before {
		t.Errorf("the terminal was %+v and is %+v", before, after)
	}
	w.clean()
}

// TestFailedBuildOpensAShell looks for what the stages that fail have done.
func TestFailedBuildOpensAShell(t *testing.T) {
	w := newWorkplace(t)
	w.build()
	for name, tc := range map[string]struct{ failure, keys, shown string }{
		"tiny":   {"dpkg-query", "cat /etc/fstab; ls /usr/sbin/policy-rc.d\r", " / ext4 "},
		"broken": {"Unexpected EOF", "cat /etc/os-release\r", "ID=tiny"},
	} {
		c, cmd := w.console("build", name, "--no-test", "-o", filepath.Join(w.folder, "images"), "--on-error=shell")
		c.expect(tc.failure)
		c.expect("a shell in the tree as the failure left it")
		c.prompt()
		c.dialogue([][2]string{
			{tc.keys, tc.shown}, {sleeping, "in2\r\n"}, {"\x03", prompt}, {"echo code$?\r", "code130\r\n" + prompt}, {"touch /left; exit\r", "vmctl: "},
		})
		if code := ended(t, cmd); code != 4 {
			t.Errorf("%s: exit code %d\n%s", name, code, &c.shown)
		}
	}
	if _, _, code := w.run("", "shell", "tiny", "--", "ls", "/left"); code != 2 {
		t.Error("what was done after the failure is left")
	}
	w.clean()
}
