//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestWriteADisk writes a build with cloud-init onto a disk that is larger and full of other
// things, with a seed, and boots it: it has the seed's name then, and a root that has grown. It
// also obeys the part of the image's own seed that the other one leaves.
func TestWriteADisk(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write(t, filepath.Join(folder, "install.d/rack.yml"), `extends: debian-cloud
secrets: {word: {file: word}}
cloudinit:
  user-data: {hostname: not-this}
  vendor-data:
    bootcmd: ["echo FROM THE IMAGE '{{ word }}' $(stat -c %a /var/lib/cloud/seed/nocloud/vendor-data) >/dev/ttyS0"]
`)
	write(t, filepath.Join(folder, "install.d/word"), `"it\s": {secret}`+"\n")
	write(t, filepath.Join(folder, "install.d/wrong.yml"), "extends: rack\ncloudinit:\n  user-data: {packages: {a: 1}}\n")
	if r := run(t, folder, "build", "wrong", "--no-test"); r.code != 4 || !strings.Contains(r.stderr, "install.d/wrong.yml:3: cloud-init: schema of user-data") {
		t.Errorf("what the schema refuses: exit code %d\n%s", r.code, r.stderr)
	}
	good(t, folder, "build", "rack", "--no-test", "--format", "raw,qcow2")
	image, raw := filepath.Join(folder, "images/rack/rack-13-amd64.qcow2"), filepath.Join(folder, "images/rack/rack-13-amd64.raw")
	if info, err := os.Stat(image); err != nil || info.Size() > 150e6 {
		t.Errorf("%v, %v", info, err)
	}
	backing := filepath.Join(folder, "device")
	tool(t, "sh", "-c", `head -c 200M /dev/urandom >"$1" && truncate -s 3G "$1" && mkfs.ext4 -q -F -L old "$1"`, "sh", backing)
	device := strings.TrimSpace(tool(t, "losetup", "--find", "--show", backing))
	t.Cleanup(func() { tool(t, "losetup", "--detach", device) })
	before := digest(t, backing)

	t.Run("what is refused", func(t *testing.T) {
		at := t.TempDir()
		write(t, filepath.Join(folder, "user.yml"), "#cloud-config\nruncmd:\n  - echo SEEDED $(hostname) $(($(df --output=size --block-size=100M / | tail -n 1))) >/dev/ttyS0\n")
		good(t, folder, "seed", "seed.iso", "--hostname", "rack-1", "--user-data", "user.yml")
		tool(t, "truncate", "-s", "100M", filepath.Join(folder, "small"))
		small := strings.TrimSpace(tool(t, "losetup", "--find", "--show", filepath.Join(folder, "small")))
		defer func() { tool(t, "losetup", "--detach", small) }()
		large := strings.TrimSpace(tool(t, "losetup", "--find", "--show", "--sector-size", "4096", backing))
		defer func() { tool(t, "losetup", "--detach", large) }()
		for name, tc := range map[string]struct {
			args []string
			want string
		}{
			"nobody is asked": {[]string{image, device}, "--yes"},
			"a file":          {[]string{image, backing, "--yes"}, "it is no disk"},
			"nothing":         {[]string{image, "/dev/none", "--yes"}, "no such file"},
			"too small":       {[]string{image, small, "--yes"}, "are needed"},
			"sectors of 4096": {[]string{image, large, "--yes"}, "its sectors have 4096 bytes"},
			"no seed":         {[]string{image, device, "--yes", "--seed", image}, "it is no seed"},
			"no image":        {[]string{"none", device, "--yes"}, "neither an image nor a build"},
		} {
			if r := run(t, folder, append([]string{"write"}, tc.args...)...); r.code != 2 || !strings.Contains(r.stderr, tc.want) {
				t.Errorf("%s: exit code %d\n%s", name, r.code, r.stderr)
			}
		}
		tool(t, "mount", "-o", "ro,noload", device, at)
		if r := run(t, folder, "write", image, device, "--yes"); r.code != 2 || !strings.Contains(r.stderr, "in use") {
			t.Errorf("a mounted disk: exit code %d\n%s", r.code, r.stderr)
		}
		tool(t, "umount", at)
		if digest(t, backing) != before {
			t.Fatal("what was refused has changed the disk")
		}
	})

	t.Run("without a partition table", func(t *testing.T) {
		bare := filepath.Join(folder, "bare.raw")
		write(t, bare, strings.Repeat("no table\n", 1<<18))
		tool(t, "truncate", "-s", "4M", bare)
		good(t, folder, "write", bare, device, "--yes")
		tool(t, "cmp", "--bytes=4194304", bare, backing)
		if r := run(t, folder, "write", bare, device, "--yes", "--seed", "seed.iso"); r.code != 2 || !strings.Contains(r.stderr, "no GPT") {
			t.Errorf("a seed without a place: exit code %d\n%s", r.code, r.stderr)
		}
	})

	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGKILL: -1} {
		t.Run("ended by "+signal.String(), func(t *testing.T) {
			cmd := command(folder, "write", image, device, "--yes")
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for lines := bufio.NewScanner(stderr); lines.Scan() && lines.Text() != "reading back"; {
			}
			_ = cmd.Process.Signal(signal)
			_, _ = io.Copy(io.Discard, stderr)
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != code {
				t.Errorf("exit code %d", got)
			}
			for _, from := range []string{"0", "3071M"} {
				tool(t, "cmp", "--ignore-initial="+from+":0", "--bytes=1M", backing, "/dev/zero")
			}
		})
	}

	r := good(t, folder, "write", image, device, "--yes", "--seed", "seed.iso")
	if !strings.Contains(r.stderr, "onto "+device+", 3.0 GiB") {
		t.Errorf("it does not tell onto what it writes:\n%s", r.stderr)
	}
	if told := tool(t, "sfdisk", "--verify", backing); !strings.Contains(told, "No errors") {
		t.Error(told)
	}
	if told := tool(t, "sgdisk", "--verify", backing); !strings.Contains(told, "No problems found") {
		t.Error(told)
	}
	written, of := partitions(t, backing), partitions(t, raw)
	seed := written["cidata"]
	if delete(written, "cidata"); fmt.Sprint(written) != fmt.Sprint(of) {
		t.Errorf("the partitions are %v, want %v", written, of)
	}
	root := of["root"]
	if seed.Start < root.Start+root.Size || seed.Start+seed.Size < 3<<30-3<<20 {
		t.Errorf("the seed is at %+v", seed)
	}
	tool(t, "cmp", fmt.Sprintf("--ignore-initial=%d", of["bios"].Start), fmt.Sprintf("--bytes=%d", root.Start+root.Size-of["bios"].Start), backing, raw)
	if told := tool(t, "blkid", "--probe", "--offset", fmt.Sprint(seed.Start), "--output", "value", "--match-tag", "LABEL", backing); strings.TrimSpace(told) != "cidata" {
		t.Errorf("the seed's label is %q", told)
	}
	iso, err := os.Stat(filepath.Join(folder, "seed.iso"))
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "cmp", fmt.Sprintf("--ignore-initial=%d:0", seed.Start), fmt.Sprintf("--bytes=%d", iso.Size()), backing, filepath.Join(folder, "seed.iso"))

	good(t, folder, "test", backing, "--firmware", "bios", "--logs", "logs")
	console := tool(t, "cat", filepath.Join(folder, "logs/boot-bios.log"))
	if want := `FROM THE IMAGE "it\s": {secret} 600`; !strings.Contains(console, want) {
		t.Errorf("the console lacks %s:\n%s", want, console)
	}
	if !regexp.MustCompile(`SEEDED rack-1 2[789]\b`).MatchString(console) {
		t.Errorf("the machine has not obeyed its seed, or not grown:\n%s", console)
	}
}
