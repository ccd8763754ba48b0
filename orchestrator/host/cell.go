package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A cell is where the programs of a tree run: a mount namespace that has nothing but the
// tree, with the jail's own devices and kernel file systems, without the capabilities,
// calls and sockets that reach beyond it (wall.go, seccomp.go). The jail around it has the
// tools, the builder's files and the power to mount; its root is the cell's root by number
// alone.
//
// This binary makes cells under the names of the programs that it stands for. Each call is
// a cell of its own; they share the jail's process numbers.

const (
	cellName      = "chroot"     // chroot(8): ROOT COMMAND [ARGUMENT…]
	bootstrapName = "mmdebstrap" // mmdebstrap(1), which can write to the stage alone
	aptName       = "apt-get"    // apt-get(8), which has dpkg run in a cell where it was to chroot
	dpkgName      = "dpkg-in"    // what that apt-get calls for dpkg: ROOT COMMAND [ARGUMENT…]
)

// WithoutNetwork is what a stand-in finds in its environment for a cell that has no network.
// The cell's programs do not see it.
const WithoutNetwork = networkVariable + "=none"

const networkVariable = "VMCTL_NETWORK"

var standIns = []string{cellName, bootstrapName, aptName, dpkgName}

// MakeCells makes the folder of the programs that make cells, and has this host use them:
// for commands In a tree, and for what its other commands call by these names.
func (l *Local) MakeCells(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	self, err := os.Readlink("/proc/self") // what /proc shows may be another PID namespace
	if err != nil {
		return err
	}
	for _, name := range standIns {
		if err := os.Symlink(filepath.Join("/proc", self, "exe"), filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	l.Cells = folder
	return nil
}

// Chroot is the program that runs others in a tree, as chroot(8) does.
func (l *Local) Chroot() string {
	if l.Cells == "" {
		return Find(cellName)
	}
	return filepath.Join(l.Cells, cellName)
}

// locate is where the program of a command is, and the environment that it gets.
func (l *Local) locate(c Command) (path string, env []string) {
	env = append(CleanEnv(), c.Env...)
	if c.Root != "" {
		return l.Chroot(), env
	}
	if l.Cells != "" {
		env = append(env, "PATH="+l.Cells+":"+adminPath)
		if c.Path == bootstrapName && Find(bootstrapName) != "" {
			return filepath.Join(l.Cells, bootstrapName), env
		}
	}
	if l.Tools != "" && FindIn(l.Tools, c.Path) != "" {
		return FindIn(l.Tools, c.Path), env
	}
	return Find(c.Path), env
}

// standsFor is the program that this process was called as, "" for vmctl itself.
func standsFor() string {
	if name := filepath.Base(os.Args[0]); slices.Contains(standIns, name) || name == toolsName {
		return name
	}
	return ""
}

// A signal for the death of the parent belongs to the thread that gets it, and namespaces
// and filters to the one that makes them: this is the main one for both.
func init() {
	if standsFor() != "" {
		runtime.LockOSThread()
	}
}

// Exit codes of chroot(8).
const (
	exitCell     = 125
	exitCannot   = 126
	exitNotFound = 127
)

// StandIn does what this binary does under another name than its own. It returns where
// it was called by its own.
func StandIn() {
	name := standsFor()
	if name == "" {
		return
	}
	env, folder := outsideCells(os.Environ())
	var err error
	switch {
	case name == bootstrapName:
		err = standInBootstrap(folder, os.Args[1:], env)
	case name == aptName:
		err = standInApt(folder, os.Args[1:], env)
	case name == dpkgName:
		err = standInDpkg(os.Args[1:], env)
	case name == toolsName:
		err = standInTools(os.Args[1:], env)
	case len(os.Args) < 3 || strings.HasPrefix(os.Args[1], "-"): // options that nobody uses here
		err = errors.New("usage: chroot ROOT COMMAND [ARGUMENT]…")
	default:
		err = enterCell(os.Args[1], os.Args[2:], env)
	}
	code := exitCell
	if e, ok := errors.AsType[*notStarted](err); ok {
		code = e.exitCode()
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	os.Exit(code)
}

// outsideCells is the environment without the folder of these programs, and that folder.
func outsideCells(env []string) (outside []string, folder string) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return env, ""
	}
	for i, setting := range env {
		path, is := strings.CutPrefix(setting, "PATH=")
		if !is {
			continue
		}
		folders := slices.DeleteFunc(filepath.SplitList(path), func(f string) bool {
			info, err := os.Stat(filepath.Join(f, dpkgName))
			if err != nil || !os.SameFile(info, self) {
				return false
			}
			folder = f
			return true
		})
		env[i] = "PATH=" + strings.Join(folders, ":")
	}
	return env, folder
}

// enterCell turns this process into a program in a cell.
func enterCell(root string, argv, env []string) error {
	if err := closeDescriptors(); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	if err := readOnlyInput(); err != nil {
		return fmt.Errorf("make the input read-only: %w", err)
	}
	namespaces := unix.CLONE_NEWNS
	if slices.Contains(env, WithoutNetwork) {
		namespaces |= unix.CLONE_NEWNET
	}
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if namespaces&unix.CLONE_NEWNET != 0 {
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("raise the loopback interface: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	left, err := leaveJail(root)
	if err != nil {
		return err
	}
	if err := raiseWall(left); err != nil {
		return err
	}
	return execute(Variable(env, "PATH"), argv, without(env, networkVariable))
}

// raiseLoopback lets a new network reach itself.
func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}

// furnishings is what a cell has of the jail, whatever its tree has mounted there.
var furnishings = []string{"/dev", "/proc", "/sys"}

// leaveJail makes the tree all there is. It says whether that is so: where the jail's own
// root is no mount, as in a chroot, the tree is only what can be reached.
func leaveJail(root string) (left bool, err error) {
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return false, fmt.Errorf("bind %s: %w", root, err)
	}
	if err := unix.Chdir(root); err != nil {
		return false, &fs.PathError{Op: "chdir", Path: root, Err: err}
	}
	err = unix.MountSetattr(unix.AT_FDCWD, ".", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
	if err != nil && !errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		return false, fmt.Errorf("mount %s without devices: %w", root, err)
	}
	for _, path := range furnishings {
		if err := furnish(path, unix.MS_BIND|unix.MS_REC, path, ""); err != nil {
			return false, err
		}
	}
	if err := furnish("sys/firmware", noDevices|unix.MS_NOEXEC|unix.MS_RDONLY, "tmpfs", "tmpfs"); err != nil {
		return false, err
	}
	switch err := unix.PivotRoot(".", "."); {
	case errors.Is(err, unix.EINVAL):
		if err := unix.Chroot("."); err != nil {
			return false, fmt.Errorf("chroot %s: %w", root, err)
		}
		return false, unix.Chdir("/")
	case err != nil:
		return false, fmt.Errorf("pivot_root %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil { // the root before, which lies over the new one
		return false, fmt.Errorf("leave the jail's root: %w", err)
	}
	return true, unix.Chdir("/")
}

const noDevices = unix.MS_NOSUID | unix.MS_NODEV

// furnish mounts on a folder of the tree, which is the working folder, where it has that.
func furnish(path string, flags uintptr, source, kind string) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	at, err := unix.Openat2(unix.AT_FDCWD, strings.TrimPrefix(path, "/"), &how)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return &fs.PathError{Op: "open in the tree", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(at) }()
	if err := unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", at), kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s in the tree: %w", path, err)
	}
	return nil
}

// closeDescriptors closes all descriptors that are neither standard ones nor a pipe: those
// of folders and files lead out of a cell.
func closeDescriptors() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		var fd int
		var is unix.Stat_t
		if _, err := fmt.Sscan(entry.Name(), &fd); err != nil || fd < firstFile || unix.Fstat(fd, &is) != nil {
			continue
		}
		if is.Mode&unix.S_IFMT != unix.S_IFIFO {
			unix.CloseOnExec(fd) // this process may still need it
		}
	}
	return nil
}

// readOnlyInput keeps what reads a file of the jail from writing it: a descriptor for
// reading can be opened again for writing, but not on a read-only mount.
func readOnlyInput() error {
	const input = 0
	var is unix.Stat_t
	if err := unix.Fstat(input, &is); err != nil || is.Mode&unix.S_IFMT != unix.S_IFREG || is.Nlink == 0 {
		return nil //nolint:nilerr // no input at all, or a file that nobody else has
	}
	position, err := unix.Seek(input, 0, unix.SEEK_CUR)
	if err != nil {
		return err
	}
	mount, err := unix.OpenTree(input, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(mount) }()
	err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		return nil
	} else if err != nil {
		return err
	}
	file, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", mount), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(file) }()
	if _, err := unix.Seek(file, position, unix.SEEK_SET); err != nil {
		return err
	}
	return unix.Dup3(file, input, 0)
}

// notStarted is why a program did not start.
type notStarted struct {
	name string
	err  error
}

func (e *notStarted) Error() string { return e.name + ": " + e.err.Error() }

func (e *notStarted) exitCode() int {
	if errors.Is(e.err, unix.ENOENT) {
		return exitNotFound
	}
	return exitCannot
}

// execute is execvpe(3) with a PATH to search.
func execute(path string, argv, env []string) error {
	paths := []string{argv[0]}
	if !strings.Contains(argv[0], "/") {
		paths = nil
		for _, folder := range filepath.SplitList(path) {
			paths = append(paths, filepath.Join(folder, argv[0]))
		}
	}
	failure := error(unix.ENOENT)
	for _, path := range paths {
		err := syscall.Exec(path, argv, env)
		if errors.Is(err, unix.ENOEXEC) { // a script that names no interpreter
			err = syscall.Exec("/bin/sh", append([]string{"sh", path}, argv[1:]...), env)
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			failure = err
		}
	}
	return &notStarted{argv[0], failure}
}

// with is the environment with another value of a variable.
func with(env []string, name, value string) []string {
	return append(without(env, name), name+"="+value)
}

// without is the environment without a variable.
func without(env []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(setting string) bool { return strings.HasPrefix(setting, name+"=") })
}

// Variable is the value of a variable of an environment, "" for none.
func Variable(env []string, name string) (found string) {
	for _, setting := range env {
		if v, is := strings.CutPrefix(setting, name+"="); is {
			found = v
		}
	}
	return found
}
