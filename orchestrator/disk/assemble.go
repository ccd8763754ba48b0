package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/filesystem"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/scope"
)

// Filler is what is asked of the outside of the jail: to fill file systems that only a
// kernel can fill, with real root's power, and for room.
type Filler interface {
	// Reserve waits until there is room for a disk that takes so many bytes at most while
	// it is made.
	Reserve(ctx context.Context, bytes int64) error
	// Fill makes the file system of part in the file image, which has part.Size
	// bytes, and copies the folder from into it.
	Fill(ctx context.Context, part Partition, image, from string) error
}

// Assemble makes file a sparse raw disk image of the plan with its file systems
// filled from the tree at root, in which every mount point is a folder. scratch is a
// folder on the same file system as file, for files in passing.
//
// It runs as root of a user namespace with mounts of its own: it bind-mounts, but
// neither mounts real file systems nor uses loop devices. What needs the kernel to
// mount is asked of filler.
func Assemble(ctx context.Context, h host.Host, plan Plan, root, file, scratch string, filler Filler) error {
	shares, err := plan.shares(root)
	if err != nil {
		return err
	}
	room, err := checkFit(shares)
	if err != nil {
		return err
	}
	if err := filler.Reserve(ctx, room); err != nil {
		return err
	}
	if err := Create(ctx, h, plan, file); err != nil {
		return err
	}
	// Side by side, but for those of the one helper outside.
	putting, together := errgroup.WithContext(ctx)
	putting.SetLimit(runtime.NumCPU())
	for _, s := range shares {
		if !s.byKernel() {
			putting.Go(func() error { return fail.Wrap(fail.Build, s.String(), s.put(together, h, file, scratch, filler)) })
		}
	}
	if err := putting.Wait(); err != nil {
		return err
	}
	for _, s := range shares {
		if s.byKernel() {
			if err := s.put(ctx, h, file, scratch, filler); err != nil {
				return fail.Wrap(fail.Build, s.String(), err)
			}
		}
	}
	return nil
}

// byKernel says whether only the kernel can put the share's files into its file system.
func (s share) byKernel() bool { return s.kind().Filling == filesystem.ByKernel && s.folder != "" }

// put makes the share's file system in the disk image, in place where its tools can.
func (s share) put(ctx context.Context, h host.Host, file, scratch string, filler Filler) (err error) {
	var stack scope.Stack
	defer stack.CloseInto(&err)
	folder := ""
	if s.folder != "" {
		folder = filepath.Join(scratch, fmt.Sprintf("view-%d", s.Number))
		release, err := s.show(h, folder, scratch)
		if err != nil {
			return err
		}
		stack.Push("take the view of the tree down", release)
	}
	image := filepath.Join(scratch, fmt.Sprintf("partition-%d", s.Number))
	target := s.target(file, image)
	if target.File == file {
		return s.make(ctx, h, target, folder)
	}
	if err := newSparse(image, s.Size); err != nil {
		return err
	}
	stack.Push("remove "+image, func() error { return os.Remove(image) })
	if s.byKernel() {
		err = filler.Fill(ctx, s.Partition, image, folder)
	} else {
		err = s.make(ctx, h, target, folder)
	}
	if err != nil {
		return err
	}
	return splice(ctx, image, file, s.Start)
}

// target is where the tools make the file system: in the disk image itself where they
// can fill it there, else in a file of its own, whose content is copied there.
func (p Partition) target(disk, own string) filesystem.Target {
	if p.kind().Filling == filesystem.ByMkfs {
		return filesystem.Target{File: disk, Offset: p.Start, Size: p.Size}
	}
	return filesystem.Target{File: own, Size: p.Size}
}

// make makes and fills a file system without mounting it, and checks what is in a file of its own. folder is "" where
// it stays empty.
func (s share) make(ctx context.Context, h host.Host, target filesystem.Target, folder string) error {
	kind := s.kind()
	if err := h.Run(ctx, kind.Mkfs(s.volume(), target, folder)); err != nil {
		return full(s.Partition, target.File, err)
	}
	if kind.Filling == filesystem.ByMtools && folder != "" {
		if err := copyFiles(ctx, h, target.File, folder); err != nil {
			return full(s.Partition, target.File, err)
		}
	}
	if kind.Finish != nil && folder != "" {
		if err := kind.Finish(target, folder); err != nil {
			return err
		}
	}
	if kind.Fsck == nil || kind.Filling == filesystem.ByMkfs { // CheckFilled does that
		return nil
	}
	return h.Run(ctx, kind.Fsck(target))
}

// CheckFilled has the file systems that are made in the disk image itself checked by their
// own tools.
func CheckFilled(ctx context.Context, h host.Host, plan Plan, file string) error {
	for _, part := range plan.Partitions {
		fs := part.kind()
		if fs == nil || fs.Fsck == nil || fs.Filling != filesystem.ByMkfs {
			continue
		}
		if err := h.Run(ctx, fs.Fsck(part.target(file, ""))); err != nil {
			return fail.Wrap(fail.Build, "check "+part.String(), err)
		}
	}
	return nil
}

// copyFiles puts all that is in the folder into a FAT file system, in the order of names:
// mcopy by itself takes the order in which a folder happens to be read.
func copyFiles(ctx context.Context, h host.Host, image, folder string) error {
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if name != "." {
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if err := h.Run(ctx, mmd(image, name, info.ModTime())); err != nil {
				return err
			}
		}
		files, err := filesIn(path)
		if err != nil {
			return err
		}
		for some := range slices.Chunk(files, 500) {
			if err := h.Run(ctx, mcopy(image, name, some...)); err != nil {
				return err
			}
		}
		return nil
	})
}

// filesIn is the paths of what is in the folder and is none itself, by their names.
func filesIn(folder string) (paths []string, err error) {
	entries, err := os.ReadDir(folder)
	for _, entry := range entries {
		if !entry.IsDir() {
			paths = append(paths, filepath.Join(folder, entry.Name()))
		}
	}
	return paths, err
}

// mcopy puts files into a folder of a FAT file system, "." for its root.
func mcopy(image, folder string, files ...string) host.Command {
	return mtool("mcopy", slices.Concat([]string{"-Q", "-m", "-i", image}, files, []string{mtoolsPattern(folder) + "/"})...)
}

// mmd makes a folder in a FAT file system as one that was changed then.
func mmd(image, folder string, changed time.Time) host.Command {
	command := mtool("mmd", "-i", image, "::/"+folder)
	first := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // that FAT has
	command.Env = append(command.Env, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", max(changed.Unix(), first.Unix())))
	return command
}

// mtoolsPattern is the pattern that a folder alone matches.
func mtoolsPattern(folder string) string {
	if folder == "." {
		return "::"
	}
	return "::/" + strings.NewReplacer("[", `\[`, "\\", `\\`).Replace(folder)
}

// copyTree copies a folder with owners, modes, times, attributes, links and holes.
func copyTree(from, at string) host.Command {
	return host.Cmd("cp", "--archive", "--sparse=auto", "--no-target-directory", from, at)
}

// mtool is a call of mtools, which read FAT's local times in UTC wherever they run.
func mtool(name string, args ...string) host.Command {
	command := host.Cmd(name, args...)
	command.Env = []string{"MTOOLS_SKIP_CHECK=1", "TZ=UTC"}
	return command
}

// full says so where a tool failed because the partition is, in spite of checkFit; or the
// file system of the image in the file, of which tools say the same.
func full(part Partition, file string, err error) error {
	if err == nil {
		return nil
	}
	if host.Full(file) {
		return &fail.Error{Kind: fail.Host, Hint: hintSpace, Tail: fail.Tail(err), Err: fmt.Errorf("no space left for the disk: %w", err)}
	}
	for _, complaint := range []string{"No space left on device", "Could not allocate", "Disk full"} {
		if strings.Contains(fail.Tail(err), complaint) {
			return &fail.Error{Kind: fail.Build, Hint: enlarge, Tail: fail.Tail(err), Err: fmt.Errorf("%s is too small: it is full", definition.Size(part.Size))}
		}
	}
	return err
}

func newSparse(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return noSpace(errors.Join(f.Truncate(size), f.Close()))
}

// Fill makes the file system of part in the file image and copies the folder from
// into it, by way of the kernel; at is an empty folder to mount on. It needs real
// root.
func Fill(ctx context.Context, h host.Host, part Partition, image, from, at string) (err error) {
	defer func() { err = full(part, image, err) }()
	device, detach, err := h.AttachLoop(image, 0, part.Size)
	if err != nil {
		return err
	}
	var stack scope.Stack
	stack.Push("detach "+device, detach)
	defer stack.CloseInto(&err)
	kind, target := part.kind(), filesystem.Target{File: device, Size: part.Size}
	if err := h.Run(ctx, kind.Mkfs(part.volume(), target, "")); err != nil {
		return err
	}
	if err := fillMounted(ctx, h, part, device, from, at); err != nil {
		return err
	}
	if kind.Fsck == nil {
		return nil
	}
	return h.Run(ctx, kind.Fsck(target))
}

// fillMounted copies the folder. What the file system used in passing becomes a hole
// again.
func fillMounted(ctx context.Context, h host.Host, part Partition, device, from, at string) (err error) {
	kind := part.kind()
	unmount, err := h.Mount(host.Mount{Source: device, Target: at, Type: kind.Name, Flags: unix.MS_NOATIME | unix.MS_NOSUID | unix.MS_NODEV, Data: kind.FillOptions})
	if err != nil {
		return err
	}
	var stack scope.Stack
	stack.Push("unmount "+at, unmount)
	defer stack.CloseInto(&err)
	if err := h.Run(ctx, copyTree(from, at)); err != nil {
		return err
	}
	if err := h.Run(ctx, host.Cmd("sync", "--file-system", at)); err != nil {
		return err
	}
	return h.Run(ctx, host.Cmd("fstrim", at))
}

// splice copies the content of an image into a disk image, at start. What is zero
// stays a hole.
func splice(ctx context.Context, image, disk string, start int64) (err error) {
	from, err := os.Open(image)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = noSpace(errors.Join(err, to.Close())) }()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	return files.CopySparse(ctx, to, start, from, 0, info.Size())
}
