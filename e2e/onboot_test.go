//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/aptmethod"
)

// TestEntriesInAGuest builds an image whose databases are filled in running servers. The image
// asks them itself: a unit that fails is told by the boot test.
func TestEntriesInAGuest(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("testdata/onboot")); err != nil {
		t.Fatal(err)
	}
	const password = "CANARY-of-the-database"
	if err := os.Setenv("SHOP_PASSWORD", password); err != nil { // which no other test reads
		t.Fatal(err)
	}
	r := good(t, folder, "build", "shop", "--format", "raw")
	if starts := strings.Count(r.stderr, "guest: up"); starts != 1 {
		t.Errorf("%d guests have started\n%s", starts, r.stderr)
	}
	// The role says which of its tasks need a server that runs.
	settings, up, asked := strings.Index(r.stderr, "changed  install.d/shop.yml:9 database : Settings"), strings.Index(r.stderr, "guest: up"), strings.Index(r.stderr, "changed  install.d/shop.yml:9 database : Role")
	if settings < 0 || settings > up || up > asked || strings.Count(r.stderr, "database : Settings") != 1 {
		t.Errorf("the role's tasks are not told, or not where they belong:\n%s", r.stderr)
	}

	t.Run("what is taken from it", func(t *testing.T) {
		in := func(command string) string {
			return good(t, folder, "shell", "shop", "--", "sh", "-c", command).stdout
		}
		for command, want := range map[string]string{
			"stat -c '%h %a' /usr/local/bin/capable":                "2 755\n",
			"stat -c '%s %b' /var/lib/sparse":                       "1073741824 0\n",
			"stat -c '%U %a' /srv/shop":                             "postgres 2750\n",
			"stat -c %Y /srv/shop/old":                              "978307200\n",
			"getcap /usr/local/bin/twin":                            "/usr/local/bin/twin cap_net_raw=ep\n",
			"cat /srv/shop/facts":                                   "2 systemd shop\n",
			"cat /etc/machine-id; ls /var/log/journal 2>&- | wc -l": "uninitialized\n0\n",
			"find / -xdev -name 'vmctl-a*' -o -name '*-vmctl'":      "",
			"hello --traditional":                                   "hello, world\n",
		} {
			if got := in(command); got != want {
				t.Errorf("%s: %q", command, got)
			}
		}
		tellsNot(t, folder, password)
		tellsNot(t, os.Getenv("VMCTL_CACHE"), password)
		if strings.Contains(r.stderr, password) {
			t.Error("the secret is told")
		}
	})

	t.Run("what it has downloaded", func(t *testing.T) {
		hello := fetchedBy(t, folder, "shop")
		if _, err := os.Stat(filepath.Join(os.Getenv("VMCTL_CACHE"), "downloads", hello.Kept())); err != nil {
			t.Error(err)
		}
	})

	t.Run("nothing has changed", func(t *testing.T) {
		r := good(t, folder, "build", "shop", "--format", "raw")
		if !strings.Contains(r.stderr, "unchanged") || len(r.stages()) != 1 {
			t.Errorf("it did something:\n%s", r.stderr)
		}
	})

	t.Run("a later entry has", func(t *testing.T) {
		path := filepath.Join(folder, "commands.d/shop.yml")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, strings.Replace(string(content), "#!/bin/sh -ex", "#!/bin/sh -e", 1))
		r := good(t, folder, "build", "shop", "--format", "raw", "--no-test")
		if strings.Contains(r.stderr, "guest: ") || !strings.Contains(r.stderr, "cached   commands.d/shop.yml:2 Stock") || r.stages()["Layer shop"] != "done" {
			t.Errorf("the guest's layer is not used:\n%s", r.stderr)
		}
	})

	t.Run("without network the roles have nothing to change", func(t *testing.T) {
		write(t, filepath.Join(folder, "install.d/again.yml"), "extends: shop\ninstall:\n  - roles: [database, catalogue]\n")
		write(t, filepath.Join(folder, "commands.d/again.yml"), "commands: [run: apt-get --yes install --reinstall hello]\n")
		r := good(t, folder, "build", "again", "--format", "raw", "--no-test", "--on", "boot", "--set", "firmware=[bios]", "--offline")
		for _, task := range []string{"database : Role", "catalogue : Catalogue", "catalogue : User"} {
			if !strings.Contains(r.stderr, "ok       install.d/again.yml:3 "+task) {
				t.Errorf("%s was not asked for", task)
			}
		}
		if strings.Contains(r.stderr, "changed  install.d/again.yml") {
			t.Errorf("a role has changed something:\n%s", r.stderr)
		}
		fetchedBy(t, folder, "again")
	})
}

// fetchedBy is the package hello as the layer of a build has recorded it.
func fetchedBy(t *testing.T, folder, build string) aptmethod.Fetched {
	t.Helper()
	var m orchestrator.Manifest
	readJSON(t, filepath.Join(folder, "images", build, "build.json"), &m)
	for _, stage := range m.Fetched {
		for _, f := range stage.Files {
			if stage.Stage == "Layer "+build && strings.HasPrefix(f.Name, "hello_") {
				return f
			}
		}
	}
	t.Fatalf("the record of %s has no hello: %+v", build, m.Fetched)
	return aptmethod.Fetched{}
}

// tellsNot searches every file below a folder.
func tellsNot(t *testing.T, folder, secret string) {
	t.Helper()
	searched := 0
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // other builds use the store, too
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if searched++; bytes.Contains(content, []byte(secret)) {
			t.Errorf("%s tells the secret", path)
		}
		return err
	})
	if err != nil || searched == 0 {
		t.Errorf("%d files searched, %v", searched, err)
	}
}

// TestAGuestEndsWithItsBuild kills, fails and interrupts builds that have a guest of a small
// tree of a tarball.
func TestAGuestEndsWithItsBuild(t *testing.T) {
	t.Parallel()
	folder := smallBuild(t)
	name := fmt.Sprintf("ends-%d", os.Getpid()) // which no other guest on this machine has
	marked := "systemd.hostname=" + name
	write(t, filepath.Join(folder, "install.d/small/name.yml"), "hostname: "+name+"\n")
	gone := func(t *testing.T) {
		t.Helper()
		nothingLeft(t, folder)
		if guests := pids(marked); len(guests) > 0 {
			t.Errorf("guests are left: %v", guests)
		}
	}
	commands := func(text string) { write(t, filepath.Join(folder, "commands.d/small.yml"), "commands:\n"+text) }

	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "interrupted": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			commands("  - {on: boot, run: sleep 1000}\n")
			b := start(t, folder, "--no-test")
			for range 3000 {
				if len(pids(marked)) > 0 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if len(pids(marked)) == 0 {
				t.Fatalf("no guest has started\n%s", b.stderr)
			}
			time.Sleep(2 * time.Second)
			if err := b.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if code := b.code(); code != map[syscall.Signal]int{syscall.SIGKILL: -1, syscall.SIGINT: 130}[signal] {
				t.Errorf("exit code %d\n%s", code, b.stderr)
			}
			gone(t)
		})
	}

	t.Run("a command fails", func(t *testing.T) {
		commands("  - run: touch /first\n  - on: boot\n    run: |\n      systemctl is-active dbus.socket systemd-journald || true\n      logger the guest was here\n      echo of no use >&2\n      exit 7\n")
		r := run(t, folder, "build", "small", "--no-test", "--cache", filepath.Join(folder, "cache"))
		if r.code != 4 || !strings.Contains(r.stderr, "commands.d/small.yml:3") || !strings.Contains(r.stderr, "exit status 7") || !strings.Contains(r.stderr, "of no use") {
			t.Errorf("exit code %d\n%s", r.code, r.stderr)
		}
		log, err := os.ReadFile(filepath.Join(folder, "images/small.failed/build.log"))
		if err != nil || !bytes.Contains(log, []byte("the guest was here")) {
			t.Errorf("the journal is not in the log: %v", err)
		}
		gone(t)
	})

	t.Run("the tree does not start", func(t *testing.T) {
		commands("  - run: rm /usr/sbin/init; printf '#!/bin/sh\\nexit 1\\n' >/usr/sbin/init; chmod 755 /usr/sbin/init\n  - {on: boot, run: 'true'}\n")
		r := run(t, folder, "build", "small", "--no-test", "--cache", filepath.Join(folder, "cache"))
		if r.code != 4 || !strings.Contains(r.stderr, "commands.d/small.yml:3") || !strings.Contains(r.stderr, "guest for on: boot") || !strings.Contains(r.stderr, "kernel panic: Attempted to kill init") {
			t.Errorf("exit code %d\n%s", r.code, r.stderr)
		}
		gone(t)
	})

	t.Run("no Python", func(t *testing.T) {
		commands("  - run: rm /usr/bin/python3\n    creates: /never\n  - {on: boot, run: 'true'}\n")
		r := run(t, folder, "build", "small", "--no-test", "--cache", filepath.Join(folder, "cache"))
		if r.code != 4 || !strings.Contains(r.stderr, "commands.d/small.yml:4") || !strings.Contains(r.stderr, "python3") {
			t.Errorf("exit code %d\n%s", r.code, r.stderr)
		}
		gone(t)
	})
}
