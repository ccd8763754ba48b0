//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// account is an ordinary user of the machine, who has subordinate ids and a home whose
// name is not plain.
type account struct {
	name, home string
	uid, gid   int
	vmctl      string // that the user may run
}

var (
	accounts     atomic.Int64 // that were made
	accountFiles sync.Mutex   // useradd does not wait for another
)

// newAccount makes a user who is gone with the test.
func newAccount(t *testing.T) account {
	t.Helper()
	base, err := os.MkdirTemp("", "vmctl-user-")
	if err != nil {
		t.Fatal(err)
	}
	a := account{name: fmt.Sprintf("vmctl-e2e-%d-%d", os.Getpid(), accounts.Add(1)), home: filepath.Join(base, "home of {{ x }} & 'ü'"), vmctl: filepath.Join(base, "vmctl")}
	t.Cleanup(func() {
		accountFiles.Lock()
		defer accountFiles.Unlock()
		_ = exec.Command("userdel", a.name).Run()
		_ = os.RemoveAll(base)
	})
	tool(t, "sh", "-c", `chmod 755 "$1" && cp "$2" "$1/vmctl" && touch /etc/subuid /etc/subgid`, "sh", base, vmctl)
	accountFiles.Lock()
	defer accountFiles.Unlock()
	tool(t, "useradd", "--create-home", "--home-dir", a.home, a.name)
	known, err := osuser.Lookup(a.name)
	if err != nil {
		t.Fatal(err)
	}
	a.uid, a.gid = int(number(t, known.Uid)), int(number(t, known.Gid))
	if content, _ := os.ReadFile("/etc/subuid"); !strings.Contains(string(content), a.name+":") {
		const free = 1 << 24 // above what useradd gives to others
		tool(t, "usermod", "--add-subuids", fmt.Sprintf("%d-%d", free, free+65535), "--add-subgids", fmt.Sprintf("%d-%d", free, free+65535), a.name)
	}
	return a
}

// number reads an id.
func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// command is vmctl as the user calls it, in the home.
func (a account) command(args ...string) *exec.Cmd {
	cmd := exec.Command(a.vmctl, args...)
	cmd.Dir = a.home
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + a.home, "USER=" + a.name}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	return cmd
}

// run runs vmctl as the user to its end.
func (a account) run(t *testing.T, args ...string) result {
	t.Helper()
	cmd := a.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	t.Logf("%s: vmctl %s took %.1f s", a.name, strings.Join(args, " "), r.took.Seconds())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

// good runs vmctl as the user and stops the test unless it ends well.
func (a account) good(t *testing.T, args ...string) result {
	t.Helper()
	r := a.run(t, args...)
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	return r
}

// TestAnOrdinaryUserBuilds from the first package to the disk, in turn with root.
func TestAnOrdinaryUserBuilds(t *testing.T) {
	a := newAccount(t)
	base := filepath.Dir(a.home)
	write(t, filepath.Join(a.home, "install.d/mine.yml"), "extends: debian\ninstall:\n  - {packages: [libcap2-bin]}\n  - files: [{path: /srv/file, content: x, owner: www-data, group: mail, mode: '0640'}]\n")
	write(t, filepath.Join(a.home, "commands.d/mine.yml"), "commands:\n  - run: install /bin/true /usr/local/bin/capable && setcap cap_net_raw+ep /usr/local/bin/capable\n  - run: perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(80, INADDR_ANY)) && listen(S, 1) or die $!'\n")
	if r := a.good(t, "doctor"); !strings.Contains(r.stdout, "jail: an ordinary user's") {
		t.Error(r.stdout)
	}

	t.Run("killed", func(t *testing.T) {
		cmd := a.command("build", "debian", "--no-test")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for begun := time.Now(); len(pids(base, "mmdebstrap"))+len(pids("mmdebstrap", "/run/vmctl/tree")) == 0; time.Sleep(50 * time.Millisecond) {
			if time.Since(begun) > time.Minute {
				t.Fatal("mmdebstrap does not run")
			}
		}
		time.Sleep(3 * time.Second) // it leaves files of several owners
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		nothingLeft(t, base)
	})

	t.Parallel()
	a.good(t, "build", "debian", "mine", "--no-test", "--format", "raw")
	nothingLeft(t, base)
	if foreign := strings.TrimSpace(tool(t, "find", filepath.Join(a.home, "images"), "!", "-user", a.name)); foreign != "" {
		t.Errorf("not the user's: %s", foreign)
	}
	mine := filepath.Join(a.home, "images/mine/mine-13-amd64.raw")
	plain := copyDisk(t, mine) // e2fsprogs expand names
	tool(t, "e2fsck", "-f", "-n", plain.root)
	for path, want := range map[string]string{"/etc/shadow": "User:     0   Group:    42", "/srv/file": "User:    33   Group:     8"} {
		if told := plain.stat(path); !strings.Contains(told, want) {
			t.Errorf("%s has not %q:\n%s", path, want, told)
		}
	}
	if told := plain.debugfs("ea_get -x /usr/local/bin/capable security.capability"); !strings.Contains(told, "01 00 00 02 00 20") {
		t.Errorf("a capability does not hold on every machine: %s", told)
	}

	t.Run("as root's", func(t *testing.T) {
		theirs := filepath.Join(a.home, "images/debian/debian-13-amd64.raw")
		roots := debianOf(t, filepath.Dir(theirs), "--no-test", "--format", "raw").image("raw")
		if digest(t, theirs) != digest(t, roots) {
			t.Errorf("the disks differ:\n%s", run(t, a.home, "diff", roots, theirs).stdout)
		}
	})
	t.Run("unchanged", func(t *testing.T) {
		if r := a.good(t, "build", "mine", "--no-test", "--format", "raw"); !strings.Contains(r.stderr, "unchanged") {
			t.Error(r.stderr)
		}
	})
	t.Run("shell", func(t *testing.T) {
		if r := a.good(t, "shell", "mine", "--", "stat", "-c", "%u:%g", "/srv/file"); r.stdout != "33:8\n" {
			t.Errorf("%q", r.stdout)
		}
	})
	t.Run("all that is done with an image", func(t *testing.T) {
		a.good(t, "lock", "mine")
		a.good(t, "build", "mine", "--no-test", "--format", "raw")
		a.good(t, "push", "mine", "oci:layout:13", "--force-untested")
		pulled := filepath.Join("pulled", filepath.Base(mine))
		a.good(t, "pull", "oci:layout:13", "-o", "pulled")
		if r := a.good(t, "diff", "images/mine", pulled); r.stdout != "equal\n" {
			t.Error(r.stdout)
		}
		a.good(t, "convert", pulled, "qcow2", "-o", "pulled")
		a.good(t, "test", strings.TrimSuffix(pulled, "raw")+"qcow2", "--firmware", "bios", "--timeout", "9m")
		nothingLeft(t, base)
		if foreign := strings.TrimSpace(tool(t, "find", filepath.Join(a.home, "pulled"), filepath.Join(a.home, "locks"), "!", "-user", a.name)); foreign != "" {
			t.Errorf("not the user's: %s", foreign)
		}
		if err := os.Remove(filepath.Join(a.home, "locks/mine.json")); err != nil {
			t.Error(err)
		}
	})
	t.Run("then root", func(t *testing.T) {
		caller{a.home, sudo(a.uid)}.good(t, "build", "mine", "--no-test", "--format", "raw")
		if foreign := strings.TrimSpace(tool(t, "find", filepath.Join(a.home, "images"), "!", "-user", a.name)); foreign != "" {
			t.Errorf("not the user's after root's build: %s", foreign)
		}
		a.good(t, "build", "mine", "--no-test", "--format", "raw", "--set", "disk.size=3G")
	})
	t.Run("the store", func(t *testing.T) {
		a.good(t, "cache", "verify")
		var keys []string
		a.good(t, "cache", "gc", "--cache-limit", "1M", "--json").read(t, &keys)
		if layers, _ := filepath.Glob(filepath.Join(a.home, ".cache/vmctl/layers/*")); len(keys) < 5 || len(layers) > 0 {
			t.Errorf("removed are %v, %v are left", keys, layers)
		}
		if work, _ := filepath.Glob(filepath.Join(a.home, ".cache/vmctl/work/*")); len(work) > 0 {
			t.Errorf("what the killed build left is still there: %v", work)
		}
	})
}
