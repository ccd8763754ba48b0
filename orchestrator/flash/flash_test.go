package flash

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/host/hosttest"
)

func TestDisksThatAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ told, want string }{
		"sectors of 4096": {`"type": "disk", "log-sec": 4096`, "its sectors have 4096 bytes"},
		"partition":       {`"type": "part", "log-sec": 512`, "it is a partition"},
		"read-only":       {`"type": "disk", "log-sec": 512, "ro": true`, "it is read-only"},
		"mounted":         {`"type": "disk", "log-sec": 512, "path": "/dev/x", "mountpoints": ["/mnt"]`, "x on /mnt"},
		"free":            {`"type": "disk", "log-sec": 512, "mountpoints": [null]`, ""},
	} {
		fake := &hosttest.Fake{Outputs: map[string]string{"lsblk ": `{"blockdevices": [{` + tc.told + `}]}`}}
		err := (&Device{Path: "/dev/x"}).describe(t.Context(), fake)
		if tc.want == "" && err != nil || tc.want != "" && (fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(strings.Join(fake.Calls, ""), "LOG-SEC") {
			t.Errorf("not asked: %s", fake.Calls)
		}
	}
}

// startable says whether a machine, a kernel or a program may find a partition table, or boot code.
func startable(disk []byte) bool {
	zeros := make([]byte, 2*sectorSize)
	return !bytes.Equal(disk[:2*sectorSize], zeros) || !bytes.Equal(disk[len(disk)-sectorSize:], zeros[:sectorSize])
}

// powerless is a disk of which, at each moment, the power may fail: any of what was not synced is
// lost then.
type powerless struct {
	*testing.T
	stays, goal []byte
	pending     []func([]byte)
	moments     int
}

func (p *powerless) WriteAt(content []byte, at int64) (int, error) {
	content = bytes.Clone(content)
	p.pending = append(p.pending, func(disk []byte) { copy(disk[at:], content) })
	for lost := range 1 << len(p.pending) {
		left := bytes.Clone(p.stays)
		for i, write := range p.pending {
			if lost&(1<<i) == 0 {
				write(left)
			}
		}
		p.moments++
		inner := len(left) - sectorSize
		if startable(left) && !bytes.Equal(left[2*sectorSize:inner], p.goal[2*sectorSize:inner]) {
			p.Errorf("after %d writes, without %b, it has a table and lacks the rest", len(p.pending), lost)
		}
	}
	return len(content), nil
}

func (p *powerless) Sync() error {
	for _, write := range p.pending {
		write(p.stays)
	}
	p.pending = nil
	return nil
}

func TestNothingStartsBeforeAllElseIsThere(t *testing.T) {
	const size = 5*mib + 3*sectorSize
	goal := bytes.Repeat([]byte{'x'}, size)
	disk := &powerless{T: t, stays: bytes.Clone(goal), goal: goal}
	for _, e := range endsOf(size) {
		clear(disk.stays[e.start:e.end])
	}
	if err := settle(disk, bytes.NewReader(goal), size); err != nil || !bytes.Equal(disk.stays, goal) || disk.moments == 0 {
		t.Errorf("%v: not all is written", err)
	}
}

// watched is a host on which a file takes the place of the disk, and has no table whenever a
// command begins or ends.
type watched struct {
	host.Local
	*testing.T
	disk string
	fail string // the command that does
}

func (w *watched) Run(ctx context.Context, c host.Command) error {
	for i, word := range c.Args {
		word = strings.ReplaceAll(word, "host_device", "file")
		if word == "none" { // not on each file system
			word = "unsafe"
		}
		c.Args[i] = word
	}
	w.look(c)
	if w.fail != "" && strings.HasPrefix(c.String(), w.fail) {
		return errors.New("it fails")
	}
	err := w.Local.Run(ctx, c)
	w.look(c)
	return err
}

func (w *watched) look(c host.Command) {
	content, err := os.ReadFile(w.disk)
	if err != nil {
		w.Fatal(err)
	}
	if startable(content) {
		w.Errorf("the disk has a table at the time of %s", c)
	}
}

// imageOf is a disk of 6 MiB with a GPT and a partition full of noise, in a format.
func imageOf(t *testing.T, format string) (content []byte, file *os.File) {
	t.Helper()
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
	content = make([]byte, 6*mib)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content[mib : 5*mib])
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "label: gpt\nstart=2048, size=8192, type=linux, name=root\n", "sfdisk", "-q", raw)
	tool(t, "", "qemu-img", "convert", "-f", "raw", "-O", diskformat.Named(format).QEMU, raw, path)
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if file, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return content, file
}

func tool(t *testing.T, input, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(host.Find(name), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestWrite(t *testing.T) {
	for _, program := range []string{"qemu-img", "sfdisk"} {
		if host.Find(program) == "" {
			t.Skip("needs " + program + "; make test installs it")
		}
	}
	for name, tc := range map[string]struct {
		format string
		size   int64
		seed   bool
		fail   string
	}{
		"same size":        {format: diskformat.Raw, size: 6 * mib},
		"a bit larger":     {format: diskformat.Raw, size: 6*mib + 3*sectorSize},
		"larger":           {format: diskformat.QCOW2, size: 12 * mib, seed: true},
		"fails":            {format: diskformat.Raw, size: 12 * mib, fail: "qemu-img compare"},
		"fails at its end": {format: diskformat.Raw, size: 12 * mib, fail: "sfdisk --quiet --verify"},
	} {
		t.Run(name, func(t *testing.T) {
			content, image := imageOf(t, tc.format)
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, int(tc.size)), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			job := Job{Image: image, Format: tc.format, Size: 6 * mib, Tell: func(string) {}}
			seed := bytes.Repeat([]byte("seed"), mib/4+1)
			if tc.seed {
				at := filepath.Join(t.TempDir(), "seed")
				if err := os.WriteFile(at, seed, 0o600); err != nil {
					t.Fatal(err)
				}
				if job.Seed, err = os.Open(at); err != nil {
					t.Fatal(err)
				}
				defer job.Seed.Close()
			}
			err = (&Device{Path: path, Size: tc.size, file: file}).Write(t.Context(), &watched{T: t, disk: path, fail: tc.fail}, job)
			got, reading := os.ReadFile(path)
			if reading != nil {
				t.Fatal(reading)
			}
			if tc.fail != "" {
				if err == nil || startable(got) {
					t.Errorf("%v; the disk has a table: %t", err, startable(got))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[mib:5*mib], content[mib:5*mib]) || tc.size == job.Size && !bytes.Equal(got, content) {
				t.Error("the disk holds something else")
			}
			if told := tool(t, "", "sfdisk", "--verify", path); !strings.Contains(told, "No errors") || strings.Contains(told, "backup GPT") {
				t.Error(told)
			}
			if last := binary.LittleEndian.Uint64(got[sectorSize+32:]); int64(last+1)*sectorSize != tc.size {
				t.Errorf("the copy of the table is said to be in sector %d", last)
			}
			if at := 9 * mib; tc.seed && (!bytes.Equal(got[at:at+len(seed)], seed) || !strings.Contains(tool(t, "", "sfdisk", "--dump", path), `start=       18432, size=        4096`)) {
				t.Errorf("the seed is not in its partition: %s", tool(t, "", "sfdisk", "--dump", path))
			}
		})
	}
}

func TestADamagedDiskIsNoticed(t *testing.T) {
	disk := make([]byte, 3*mib)
	for name, tc := range map[string]struct {
		wanted []byte
		same   bool
	}{"same": {make([]byte, 2*mib), true}, "other": {append(make([]byte, 2*mib-1), 1), false}} {
		if err := holds(bytes.NewReader(disk), extent{mib, 3 * mib}, bytes.NewReader(tc.wanted)); (err == nil) != tc.same {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := holds(bytes.NewReader(disk[:2*mib]), extent{mib, 3 * mib}, bytes.NewReader(make([]byte, 2*mib))); !errors.Is(err, io.EOF) {
		t.Errorf("a disk that ends too early: %v", err)
	}
}
