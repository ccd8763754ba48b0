package host

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/text"
)

// Command is one call of a tool, as a value: planned and tested without
// running it.
type Command struct {
	Path   string    // name to look up in PATH, or a path
	Args   []string  // without the tool's own name
	Env    []string  // KEY=VALUE, added to CleanEnv
	Dir    string    // working folder; empty means the caller's
	Stdin  string    // text for standard input; empty means none at all
	Input  io.Reader // standard input in place of Stdin; nil for none
	Output io.Writer // standard output, in place of the log; nil for none
	Root   string    // run inside this tree (chroot); empty means the host
}

// Cmd makes a Command from its argv.
func Cmd(path string, args ...string) Command {
	return Command{Path: path, Args: args}
}

// In is the same command, run inside the tree at root.
func (c Command) In(root string) Command {
	c.Root = root
	return c
}

// Name is the tool's name, for messages.
func (c Command) Name() string { return filepath.Base(c.Path) }

// Argv is what gets executed, with chroot in front where Root is set.
func (c Command) Argv() []string {
	argv := append([]string{c.Path}, c.Args...)
	if c.Root != "" {
		argv = append([]string{"chroot", c.Root}, argv...)
	}
	return argv
}

// String is the argv, quoted so that a shell would read it back.
func (c Command) String() string {
	words := c.Argv()
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = text.Word(w)
	}
	return strings.Join(quoted, " ")
}

const adminPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// passedOn is what of the caller's environment reaches tools: how the network is
// reached, and the time that reproducible-builds.org says to use.
var passedOn = []string{
	"SOURCE_DATE_EPOCH",
	"http_proxy", "https_proxy", "ftp_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}

// CleanEnv is the environment that every tool gets, in the tree and outside: one
// fixed PATH, home and locale, and from the caller's environment passedOn alone. So
// no secret of a CI job and no habit of a shell reaches a maintainer script.
func CleanEnv() []string {
	env := []string{
		"PATH=" + adminPath,
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh",
		"LANG=C.UTF-8", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
	}
	for _, key := range passedOn {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	return env
}

func searchPath(path string) string {
	folders := filepath.SplitList(path)
	for _, dir := range filepath.SplitList(adminPath) {
		if !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	folders = slices.DeleteFunc(folders, func(dir string) bool { return dir == "" })
	return strings.Join(folders, ":")
}

// Find looks a tool up in the caller's PATH and the system's folders; "" means that
// it is missing.
func Find(tool string) string {
	if filepath.IsAbs(tool) {
		return executable(tool)
	}
	for _, dir := range filepath.SplitList(searchPath(os.Getenv("PATH"))) {
		if path := executable(filepath.Join(dir, tool)); path != "" {
			return path
		}
	}
	return ""
}

func executable(path string) string {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return path
	}
	return ""
}
