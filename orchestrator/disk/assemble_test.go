package disk

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// directly is a Filler for those who are real root themselves.
type directly struct {
	h  host.Host
	at string
}

// Reserve is what Assemble asks before it writes anything; noRoom is how one may answer.
func (d directly) Reserve(context.Context, int64) error {
	if d.at == noRoom {
		return errors.New(noRoom)
	}
	return nil
}

const noRoom = "no room"

func (d directly) Fill(ctx context.Context, part Partition, image, from string) error {
	return Fill(ctx, d.h, part, image, from, d.at)
}

func planOf(t *testing.T, size definition.Size, partitions ...definition.Partition) Plan {
	t.Helper()
	plan, err := New(definition.Disk{Size: size, Layout: definition.Layout{Partitions: partitions}}, func(string) string { return uuid.NewString() })
	must(t, err)
	return plan
}

// nested has a mount point below a mount point, in an order that is none.
func nested(t *testing.T, root, below, log string) Plan {
	return planOf(t, 2*definition.GiB,
		definition.Partition{Label: "log", Size: 301 * definition.MiB, Filesystem: log, Mount: "/var/log"},
		definition.Partition{Type: "bios"},
		definition.Partition{Label: "esp", Size: 64 * definition.MiB, Filesystem: "vfat", Mount: "/boot/efi"},
		definition.Partition{Label: "root", Filesystem: root, Mount: "/"},
		definition.Partition{Label: "swap", Size: 16 * definition.MiB, Filesystem: "swap"},
		definition.Partition{Label: "var", Size: 302 * definition.MiB, Filesystem: below, Mount: "/var"},
		definition.Partition{Size: 303 * definition.MiB, Filesystem: "xfs"},
	)
}

// folders is where a test works.
func folders(t *testing.T) (scratch, at string) {
	scratch, at = filepath.Join(t.TempDir(), "scratch"), filepath.Join(t.TempDir(), "at")
	must(t, os.Mkdir(scratch, 0o700), os.Mkdir(at, 0o700))
	return scratch, at
}

func local(t *testing.T) host.Host { return &host.Local{Log: t.Output()} }

func TestADiskHoldsWhatTheTreeHolds(t *testing.T) {
	needRoot(t)
	root := oddTree(t)
	for _, kinds := range [][3]string{{"ext4", "xfs", "btrfs"}, {"btrfs", "ext4", "xfs"}, {"xfs", "btrfs", "ext4"}} {
		t.Run(strings.Join(kinds[:], " "), func(t *testing.T) {
			t.Parallel()
			plan := nested(t, kinds[0], kinds[1], kinds[2])
			scratch, at := folders(t)
			file := filepath.Join(filepath.Dir(scratch), "disk.raw")
			h := local(t)
			must(t, Assemble(t.Context(), h, plan, root, file, scratch, directly{h, at}))
			must(t, Compare(t.Context(), h, plan, file, root, at, everyKind))
			for _, folder := range []string{scratch, at} {
				if left, _ := os.ReadDir(folder); len(left) > 0 {
					t.Errorf("left in %s: %v", folder, left)
				}
			}
			info, err := os.Stat(file)
			must(t, err)
			if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != plan.Size || used > 32<<20 {
				t.Errorf("the disk has %d of %d bytes and takes %d MiB", info.Size(), plan.Size, used>>20)
			}
		})
	}
}

func TestCompareFindsWhatChanged(t *testing.T) {
	needRoot(t)
	root := oddTree(t)
	plan := planOf(t, 512*definition.MiB,
		definition.Partition{Label: "esp", Size: 64 * definition.MiB, Filesystem: "vfat", Mount: "/boot/efi"},
		definition.Partition{Label: "var", Size: 64 * definition.MiB, Filesystem: "ext4", Mount: "/var"},
		definition.Partition{Filesystem: "ext4", Mount: "/"})
	scratch, at := folders(t)
	file, h := filepath.Join(filepath.Dir(scratch), "disk.raw"), local(t)
	must(t, Assemble(t.Context(), h, plan, root, file, scratch, directly{}), Compare(t.Context(), h, plan, file, root, at, everyKind))
	must(t, CompareUnmounted(t.Context(), h, plan, file, root, at))
	must(t, os.WriteFile(filepath.Join(root, "boot/efi/EFI/debian/grub.cfg"), []byte("CONFIGFILE\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(root, "boot/efi/new"), nil, 0o600), os.Chown(filepath.Join(root, "var/log/new\nline"), 77, 0))
	err := Compare(t.Context(), h, plan, file, root, at, everyKind)
	if fail.ExitCode(err) != fail.Build.ExitCode() {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"/boot/efi/EFI/debian/grub.cfg: SHA-256 is", "/boot/efi/new: is in the tree, but not on the disk", "/boot/efi: time is ", `/var/log/new\nline: owner is 77:0 in the tree, 0:0 on the disk`} {
		if !strings.Contains(fail.Tail(err), want) {
			t.Errorf("not told: %s in\n%s", want, fail.Tail(err))
		}
	}
	if !strings.Contains(err.Error(), "4 differences") {
		t.Errorf("error %v", err)
	}
}

// request is what Assemble in a jail asks of the outside.
type request struct {
	Part        Partition
	Image, From string
}

// asking is a Filler that hands requests out of the jail.
type asking struct{ requests, answers *os.File }

func (asking) Reserve(context.Context, int64) error { return nil }

func (a asking) Fill(_ context.Context, part Partition, image, from string) error {
	if err := json.NewEncoder(a.requests).Encode(request{part, image, "/proc/" + strconv.Itoa(os.Getpid()) + "/root" + from}); err != nil {
		return err
	}
	var answer string
	if err := json.NewDecoder(a.answers).Decode(&answer); err != nil || answer == "" {
		return err
	}
	return fail.New(fail.Build, "", "", "%s", answer)
}

const jailed = "VMCTL_TEST_JAILED" // folder with plan.json

// assembleInJail is the part of TestAJailAssemblesADisk that runs in a user namespace.
func assembleInJail(folder string) error {
	var plan Plan
	content, err := os.ReadFile(filepath.Join(folder, "plan.json"))
	if err == nil {
		err = json.Unmarshal(content, &plan)
	}
	if err != nil {
		return err
	}
	if err := unix.Mknod(filepath.Join(folder, "node"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))); err == nil {
		return errors.New("this is no jail: it makes devices")
	}
	filler := asking{os.NewFile(3, "requests"), os.NewFile(4, "answers")}
	h := &host.Local{Log: os.Stderr}
	return Assemble(context.Background(), h, plan, os.Getenv("TREE"), filepath.Join(folder, "disk.raw"), filepath.Join(folder, "scratch"), filler)
}

func TestAJailAssemblesADisk(t *testing.T) {
	needRoot(t)
	t.Parallel()
	root := oddTree(t)
	scratch, at := folders(t)
	folder, plan, h := filepath.Dir(scratch), nested(t, "ext4", "xfs", "btrfs"), local(t)
	content, err := json.Marshal(plan)
	must(t, err, os.WriteFile(filepath.Join(folder, "plan.json"), content, 0o644))

	requestsRead, requestsWrite, err := os.Pipe()
	must(t, err)
	answersRead, answersWrite, err := os.Pipe()
	must(t, err)
	ids := []syscall.SysProcIDMap{{Size: 1<<32 - 1}}
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), jailed+"="+folder, "TREE="+root)
	child.ExtraFiles = []*os.File{requestsWrite, answersRead}
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
	}
	child.Stdout, child.Stderr = t.Output(), t.Output()
	must(t, child.Start(), requestsWrite.Close(), answersRead.Close())
	for requests := json.NewDecoder(requestsRead); ; {
		var r request
		if requests.Decode(&r) != nil {
			break
		}
		answer := ""
		if err := Fill(t.Context(), h, r.Part, r.Image, r.From, at); err != nil {
			answer = err.Error() + fail.Tail(err)
		}
		must(t, json.NewEncoder(answersWrite).Encode(answer))
	}
	must(t, child.Wait())
	must(t, Compare(t.Context(), h, plan, filepath.Join(folder, "disk.raw"), root, at, everyKind))
}

// Two builds fill partitions of the same number at once.
func TestFillingOneDoesNotHinderAnother(t *testing.T) {
	needRoot(t)
	part := planOf(t, definition.GiB, definition.Partition{Filesystem: "btrfs", Mount: "/"}).Partitions[0]
	one, at := folders(t)
	other, away := folders(t)
	h, tree := local(t), t.TempDir()
	must(t, newSparse(filepath.Join(one, "partition-1"), part.Size), newSparse(filepath.Join(other, "partition-1"), part.Size))
	device, detach, err := h.AttachLoop(filepath.Join(one, "partition-1"), 0, part.Size)
	must(t, err)
	mkfs := part.kind().Mkfs(part.volume(), filesystem.Target{File: device, Size: part.Size}, "")
	must(t, h.Run(t.Context(), mkfs))
	unmount, err := h.Mount(host.Mount{Source: device, Target: at, Type: "btrfs"})
	must(t, err)
	part.UUID = uuid.NewString()
	err = Fill(t.Context(), h, part, filepath.Join(other, "partition-1"), tree, away)
	must(t, unmount(), detach(), err)
}
