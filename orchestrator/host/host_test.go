package host_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

func TestCommandReadsBackInAShell(t *testing.T) {
	c := host.Cmd("grub-mkimage", "--config", "it's here", "", "a=b")
	if got, want := c.String(), `grub-mkimage --config 'it'\''s here' '' a=b`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := c.In("/mnt/x").String(), `chroot /mnt/x grub-mkimage --config 'it'\''s here' '' a=b`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// tool puts a script on PATH under the name.
func tool(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestRunKeepsTheLastLinesAndTheLog(t *testing.T) {
	tool(t, "mmdebstrap", `i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); done; echo "E: no such suite" >&2; exit 25`)
	var log bytes.Buffer
	err := (&host.Local{Log: &log}).Run(t.Context(), host.Cmd("mmdebstrap", "trixy"))
	if fail.ExitCode(err) != fail.Build.ExitCode() || !strings.Contains(err.Error(), "mmdebstrap: exit status 25") {
		t.Errorf("error %v", err)
	}
	tail := fail.Tail(err)
	if !strings.Contains(tail, "E: no such suite") || strings.Contains(tail, "line 1\n") || strings.Count(tail, "\n") > 20 {
		t.Errorf("tail %q", tail)
	}
	for _, want := range []string{"+ mmdebstrap trixy\n", "line 0\n", "E: no such suite"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q", want)
		}
	}
}

func TestRunPassesNoSecretsOn(t *testing.T) {
	t.Setenv("CI_JOB_TOKEN", "hunter2")
	t.Setenv("http_proxy", "http://proxy:3128")
	out, err := (&host.Local{}).Output(t.Context(), host.Cmd("env"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "hunter2") {
		t.Error("a token of the caller's environment reached a tool")
	}
	if !strings.Contains(string(out), "http_proxy=http://proxy:3128") {
		t.Error("the proxy did not reach the tool")
	}
}

func TestRunSaysWhichToolIsMissing(t *testing.T) {
	err := (&host.Local{}).Run(t.Context(), host.Cmd("no-such-tool"))
	if fail.ExitCode(err) != fail.Host.ExitCode() || !strings.Contains(err.Error(), "no-such-tool") || !strings.Contains(fail.Hint(err), "doctor") {
		t.Errorf("error %v, hint %q", err, fail.Hint(err))
	}
}

func TestCancelKillsTheWholeGroup(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- (&host.Local{}).Run(ctx, host.Cmd("sh", "-c", "sleep 1000 & echo $! >"+pids+"; wait"))
	}()
	var pid string
	for pid == "" {
		content, _ := os.ReadFile(pids)
		pid = strings.TrimSpace(string(content))
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	for range 200 {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %s outlived its group", pid)
}

func TestTreeStaysInside(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	tree := host.Tree(root)
	if err := os.Symlink("/usr/lib", filepath.Join(root, "lib")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "evil")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/lib/a": "usr/lib/a", "/evil/b": strings.TrimPrefix(outside, "/") + "/b", "/../../c": "c"} {
		if err := tree.Write(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, want)); err != nil {
			t.Errorf("Write(%q): %v", name, err)
		}
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a link led outside the tree")
	}
}

func TestGlobsMayHaveWildcardsInEveryElement(t *testing.T) {
	tree := host.Tree(t.TempDir())
	for _, name := range []string{"/boot/a/x/seed", "/boot/b/x/seed", "/boot/c/y/seed", "/boot/file"} {
		if err := tree.Write(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]string{
		"/boot/*/x/seed": "/boot/a/x/seed /boot/b/x/seed", "/*/[bc]/?/seed": "/boot/b/x/seed /boot/c/y/seed", "/boot/file/*": "", "/no/*": "", "/boot/f*": "/boot/file",
	} {
		if names, err := tree.Glob(pattern); err != nil || strings.Join(names, " ") != want {
			t.Errorf("%s: %v, %v", pattern, names, err)
		}
	}
}

func TestTreeReplacesAndRemovesLinksThemselves(t *testing.T) {
	root := t.TempDir()
	tree := host.Tree(root)
	if err := tree.Write("/run/real", []byte("keep"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/etc/written", "/etc/removed"} {
		if err := tree.Symlink("/run/real", name); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Write("/etc/written", []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove("/etc/rem*", "/no/such/*"); err != nil {
		t.Fatal(err)
	}
	content, err := tree.Read("/run/real")
	if err != nil || string(content) != "keep" {
		t.Errorf("the link's target is %q, %v", content, err)
	}
	if tree.Exists("/etc/removed") || tree.Readlink("/etc/written") != "" {
		t.Error("a link is left")
	}
}
