package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// console is a terminal that a program runs on.
type console struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	shown  bytes.Buffer
}

// newTerminal opens a pseudoterminal (pty(7)).
func newTerminal(t *testing.T) *console {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = slave.Close(), master.Close() })
	return &console{t: t, master: master, slave: slave}
}

// start runs vmctl with the console as its terminal.
func (c *console) start(env []string, args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := exec.Command("vmctl", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.slave, c.slave, c.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return cmd
}

// expect waits until the program has shown the text.
func (c *console) expect(text string) {
	c.t.Helper()
	buffer := make([]byte, 4096)
	for !strings.Contains(c.shown.String(), text) {
		if err := c.master.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			c.t.Fatal(err)
		}
		n, err := c.master.Read(buffer)
		c.shown.Write(buffer[:n])
		if err != nil {
			c.t.Fatalf("%q does not come: %v\n%s", text, err, &c.shown)
		}
	}
}

func (c *console) send(keys string) {
	c.t.Helper()
	if _, err := c.master.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

func (c *console) settings() unix.Termios {
	c.t.Helper()
	settings, err := unix.IoctlGetTermios(int(c.slave.Fd()), unix.TCGETS)
	if err != nil {
		c.t.Fatal(err)
	}
	return *settings
}

func ended(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok && err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// TestTerminalIsLeftAsItWas ends the question for a password in every way.
func TestTerminalIsLeftAsItWas(t *testing.T) {
	for name, end := range map[string]func(c *console, cmd *exec.Cmd){
		"Ctrl-C":        func(c *console, _ *exec.Cmd) { c.send("\x03") },
		"Ctrl-C twice":  func(c *console, _ *exec.Cmd) { c.send("\x03\x03") },
		"Ctrl-U Ctrl-D": func(c *console, _ *exec.Cmd) { c.send("\x15\x04") },
		"SIGTERM twice": func(_ *console, cmd *exec.Cmd) {
			_, _ = cmd.Process.Signal(syscall.SIGTERM), cmd.Process.Signal(syscall.SIGINT)
		},
		"SIGHUP": func(_ *console, cmd *exec.Cmd) { _ = cmd.Process.Signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newTerminal(t)
			before := c.settings()
			cmd := c.start(nil, "login", "registry.example", "--username", "alice")
			c.expect("Password for registry.example as alice: ")
			c.send("hunter2")
			end(c, cmd)
			if code := ended(t, cmd); code != 130 {
				t.Errorf("exit code %d", code)
			}
			if after := c.settings(); after != before {
				t.Errorf("the terminal was %+v and is %+v", before, after)
			}
			if strings.Contains(c.shown.String(), "hunter2") {
				t.Error("the password is shown")
			}
		})
	}
}

// TestLoginAsksAndWarns answers at the terminal, with and without a credential
// helper.
func TestLoginAsksAndWarns(t *testing.T) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:hunter2"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	bin := t.TempDir()
	helper := "#!/bin/sh\ncat > " + filepath.Join(bin, "stored") + "\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	for config, plain := range map[string]bool{"{}": true, `{"credsStore": "test"}`: false} {
		dir := t.TempDir()
		file := filepath.Join(dir, "config.json")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		c := newTerminal(t)
		before := c.settings()
		cmd := c.start([]string{"DOCKER_CONFIG=" + dir, "PATH=" + bin + ":" + os.Getenv("PATH")}, "login", host)
		c.expect("Username for " + host + ": ")
		c.send("alicia\x7f\x7fe\r")
		c.expect("Password for " + host + " as alice: ")
		c.send("hunter2\r")
		c.expect("logged in to " + host)
		if plain {
			c.expect("warning: the password lies in " + file + " in plain text")
		}
		if code := ended(t, cmd); code != 0 {
			t.Errorf("exit code %d\n%s", code, &c.shown)
		}
		if c.settings() != before {
			t.Error("the terminal is changed")
		}
		kept, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(kept), `"auth"`) != plain || strings.Contains(c.shown.String(), "warning") != plain || strings.Contains(c.shown.String(), "hunter2") {
			t.Errorf("with %s, %s is kept, %v; shown is\n%s", config, kept, err, &c.shown)
		}
		if _, err := os.Stat(filepath.Join(bin, "stored")); err != nil && !plain {
			t.Error("the helper is not asked to store it")
		}
	}
}
