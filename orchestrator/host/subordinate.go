package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// An ordinary user's jail has that user for root, and for all other ids those that the
// machine's administrator has left to the user: the subordinate ones (subuid(5)).
// newuidmap(1) and newgidmap(1) map them; nothing else of a build runs as real root.

// jailIDs is how many ids a jail has: those that Debian gives to users and groups of a
// machine, and nobody.
const jailIDs = 65536

// idKind is users or groups.
type idKind struct {
	what, file string // who may use which
	mapper     string // program that maps them
	own        func() int
}

var (
	userIDs  = idKind{"user", "/etc/subuid", "newuidmap", os.Geteuid}
	groupIDs = idKind{"group", "/etc/subgid", "newgidmap", os.Getegid}
)

// idRange is count ids from first on.
type idRange struct{ first, count int }

// subordinates is the ranges of the file that one of the names owns, and the first id
// after all that are anybody's.
func subordinates(content string, names ...string) (ranges []idRange, free int) {
	free = 100000 // SUB_UID_MIN of login.defs(5)
	for line := range strings.Lines(content) {
		fields := strings.Split(strings.TrimSpace(line), ":") // name, first, count
		if len(fields) != 3 {
			continue
		}
		first, wrong := strconv.ParseUint(fields[1], 10, 31)
		count, alsoWrong := strconv.ParseUint(fields[2], 10, 31)
		if wrong != nil || alsoWrong != nil || count == 0 {
			continue
		}
		free = max(free, int(first+count))
		for _, name := range names {
			if fields[0] == name {
				ranges = append(ranges, idRange{int(first), int(count)})
				break
			}
		}
	}
	return ranges, free
}

// mapArguments is what the mapper is told: the caller's own id becomes 0, subordinate
// ones become all others. missing is how many of those there should be more.
func mapArguments(own int, ranges []idRange) (arguments []string, missing int) {
	add := func(inside, outside, count int) {
		arguments = append(arguments, strconv.Itoa(inside), strconv.Itoa(outside), strconv.Itoa(count))
	}
	add(0, own, 1)
	next := 1
	for _, r := range ranges {
		if count := min(r.count, jailIDs-next); count > 0 {
			add(next, r.first, count)
			next += count
		}
	}
	return arguments, jailIDs - next
}

// arguments is those of the mapper for this process, behind the number of the process
// whose ids they are.
func (k idKind) arguments() ([]string, error) {
	content, err := os.ReadFile(k.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	name := strconv.Itoa(os.Geteuid())
	names := []string{name}
	if known, err := user.LookupId(name); err == nil {
		name = known.Username
		names = append(names, name)
	}
	ranges, free := subordinates(string(content), names...)
	arguments, missing := mapArguments(k.own(), ranges)
	if missing > 0 {
		return nil, &fail.Error{
			Kind: fail.Host, Err: fmt.Errorf("user %s has %d subordinate %s ids of the %d that it takes (%s)", name, jailIDs-1-missing, k.what, jailIDs-1, k.file),
			Hint: fmt.Sprintf("sudo usermod --add-sub%ss %d-%d %s", k.letter(), free, free+jailIDs-1, name),
		}
	}
	return arguments, nil
}

func (k idKind) letter() string { return k.what[:1] + "id" }

// mapSubordinates gives the process, which waits in a user namespace that is new and
// this user's, its ids.
func mapSubordinates(pid int) error {
	for _, kind := range []idKind{userIDs, groupIDs} {
		arguments, err := kind.arguments()
		if err != nil {
			return err
		}
		path := Find(kind.mapper)
		if path == "" {
			return fail.New(fail.Host, "", "apt-get install uidmap", "%s is not installed", kind.mapper)
		}
		if out, err := exec.Command(path, append([]string{strconv.Itoa(pid)}, arguments...)...).CombinedOutput(); err != nil {
			return &fail.Error{
				Kind: fail.Host, Op: kind.mapper, Err: errors.New(cmp.Or(firstLine(out), err.Error())),
				Hint: mapperHint,
			}
		}
	}
	return nil
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSuffix(line, ".")
}

// unmapped gives a process a user namespace without ids, which mapSubordinates adds. It
// keeps all capabilities over that namespace until then, although it is nobody there.
func unmapped(attributes *syscall.SysProcAttr) {
	attributes.Cloneflags |= unix.CLONE_NEWUSER
	attributes.AmbientCaps = nil
	for capability := range uintptr(lastCapability() + 1) {
		attributes.AmbientCaps = append(attributes.AmbientCaps, capability)
	}
}

func lastCapability() int {
	content, _ := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	last, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return unix.CAP_LAST_CAP
	}
	return last
}

// becomeRoot is the other side of unmapped, once there are ids: from now on this process
// has capabilities because it is root, and none of the caller's groups.
func becomeRoot() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave the caller's groups: %w", err)
	}
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	if errno != 0 && errno != unix.ENOTSUP { // with cgo, what it starts has them twice
		return fmt.Errorf("drop ambient capabilities: %w", errno)
	}
	return nil
}

// canSubordinate is why this ordinary user cannot have a jail, or nil, and what
// tryNamespace says of one.
var canSubordinate = sync.OnceValues(func() (seen, err error) {
	for _, kind := range []idKind{userIDs, groupIDs} {
		if Find(kind.mapper) == "" {
			return nil, fail.New(fail.Host, "", "apt-get install uidmap", "%s is not installed", kind.mapper)
		}
		if _, err := kind.arguments(); err != nil {
			return nil, err
		}
	}
	attributes := &syscall.SysProcAttr{}
	unmapped(attributes)
	return tryNamespace(attributes, mapSubordinates)
})

// namespaceHint is what most likely forbids an ordinary user a user namespace.
func namespaceHint() string {
	for _, setting := range []struct{ name, forbids, allows string }{
		{"kernel.unprivileged_userns_clone", "0", "1"},
		{"user.max_user_namespaces", "0", "16384"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
	} {
		content, err := os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(setting.name, ".", "/")))
		if err == nil && strings.TrimSpace(string(content)) == setting.forbids {
			return "sudo sysctl " + setting.name + "=" + setting.allows
		}
	}
	return containerHint
}

// containerHint is what to do where a container forbids user namespaces.
const containerHint = "in a container, allow user namespaces: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"

// mapperHint is for mappers that root's power does not reach, as in a container without
// SYS_ADMIN, where a capability of their own does.
const mapperHint = "in a container, run as root: chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap; setcap cap_setuid=ep /usr/bin/newuidmap; setcap cap_setgid=ep /usr/bin/newgidmap; and leave no-new-privileges out"

const procHint = "in a container, show it all of /proc: docker run --security-opt systempaths=unconfined"
