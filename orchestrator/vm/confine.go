package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Confinement is how QEMU is kept from the host that it runs on.
type Confinement struct {
	qemu string              // path
	user *syscall.Credential // nil for the user that runs vmctl, who is not root then
	kvm  *syscall.Credential // the same where QEMU opens /dev/kvm
	open string              // why QEMU has no sandbox; "" where it has one
}

// nobody is the user with no rights (and group, on Debian nogroup) of systemd's and
// Debian's user lists.
const nobody = 65534

// confineLimit is how long QEMU may take to start and to describe an image.
const confineLimit = time.Minute

// Confine finds out how QEMU can be confined. Where vmctl is root, QEMU runs as the
// user given, who called sudo, or else as nobody; where it cannot, it does not run at
// all. A QEMU or a kernel without seccomp does without a sandbox, which Notes tell.
func Confine(ctx context.Context, uid, gid int) (Confinement, error) {
	c := Confinement{qemu: host.Find(arch.Target.QEMU.Binary)}
	if c.qemu == "" {
		return c, fail.New(fail.Host, "", "run 'vmctl doctor --install-missing'", "%s is not installed", arch.Target.QEMU.Binary)
	}
	if os.Geteuid() == 0 {
		if uid <= 0 || gid <= 0 {
			uid, gid = nobody, nobody
		}
		c.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		c.kvm = forKVM(*c.user, kvmDevice)
	}
	problem := c.try(ctx)
	if problem == nil || ctx.Err() != nil {
		return c, ctx.Err()
	}
	if _, started := errors.AsType[*exec.ExitError](problem); started {
		c.open = problem.Error()
		problem = c.try(ctx)
	}
	if problem != nil {
		return c, &fail.Error{Kind: fail.Host, Op: c.String(), Err: problem, Hint: "run 'vmctl test' as a user who is not root, which it needs for nothing"}
	}
	return c, nil
}

// String says what runs as whom.
func (c Confinement) String() string {
	if c.user == nil {
		return arch.Target.QEMU.Binary
	}
	return fmt.Sprintf("%s as user %d", arch.Target.QEMU.Binary, c.user.Uid)
}

// UID is the user as whom QEMU runs under an accelerator.
func (c Confinement) UID(accel string) int {
	if as := c.as(accel); as != nil {
		return int(as.Uid)
	}
	return os.Geteuid()
}

// Groups is the groups of that user, whose rights QEMU has besides.
func (c Confinement) Groups(accel string) []int {
	as := c.as(accel)
	if as == nil {
		groups, _ := os.Getgroups()
		return append(groups, os.Getegid())
	}
	groups := []int{int(as.Gid)}
	for _, group := range as.Groups {
		groups = append(groups, int(group))
	}
	return groups
}

// try starts QEMU with no machine, to print a list after the sandbox is there.
func (c Confinement) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confineLimit)
	defer cancel()
	said := &complaints{}
	cmd := host.Tied(ctx, c.qemu, append(basics(c.open != "", nil), "-machine", "none", "-device", "help")...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr.Credential, cmd.Stderr = "/", quietEnv, c.user, said
	err := host.RunTied(cmd)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return said.explain(err)
}

// Notes is what people should know of the confinement under an accelerator.
func (c Confinement) Notes(accel string) []string {
	var notes []string
	if c.open != "" {
		notes = append(notes, "QEMU runs without its sandbox: "+c.open)
	}
	if accel == AccelKVM && c.user != nil && c.kvm == nil {
		notes = append(notes, fmt.Sprintf("QEMU runs as root: user %d and the group of %s may not use it", c.user.Uid, kvmDevice))
	}
	return notes
}

// Confined is the accelerator for guests of a QEMU that is confined so. One that takes
// root is used only where the user asks for it.
func (a Accelerator) Confined(c Confinement) Accelerator {
	if a.kvm && a.fallback && c.user != nil && c.kvm == nil {
		return Accelerator{Reason: "only root may use " + kvmDevice + "; with --accel kvm, QEMU would run as root"}
	}
	return a
}

// forKVM is the credential with which QEMU can open the device, nil where that takes
// root. A group that may is added; root's own is not.
func forKVM(user syscall.Credential, device string) *syscall.Credential {
	info, err := os.Stat(device)
	if err != nil {
		return &user // QEMU says it better
	}
	owner := info.Sys().(*syscall.Stat_t)
	const readWrite = 0o6
	permits := func(shift int) bool { return info.Mode().Perm()>>shift&readWrite == readWrite }
	switch {
	case owner.Uid == user.Uid && permits(6), permits(0):
		return &user
	case permits(3) && (owner.Gid == user.Gid || owner.Gid != 0):
		user.Groups = []uint32{owner.Gid}
		return &user
	}
	return nil
}

// as is who QEMU runs as under an accelerator, nil for the user that runs vmctl.
func (c Confinement) as(accel string) *syscall.Credential {
	if accel == AccelKVM {
		return c.kvm
	}
	return c.user
}

// quietEnv is all that QEMU learns of the environment. It looks for no tools and has no
// home, and proxies may hold passwords.
var quietEnv = []string{"LC_ALL=C.UTF-8"}

// process is a QEMU that runs.
type process struct {
	monitor *net.UnixConn
	ended   <-chan error // how; closed then
	said    *complaints
}

// start runs QEMU until ctx ends. It has the monitor's end of a socket as descriptor
// firstExtraFile and the files as those that follow.
func (c Confinement) start(ctx context.Context, command host.Command, as *syscall.Credential, files []*os.File) (process, error) {
	monitor, theirs, err := socketPair()
	if err != nil {
		return process{}, err
	}
	said := &complaints{}
	cmd := host.Tied(ctx, c.qemu, command.Args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr.Credential = "/", quietEnv, as
	cmd.Stderr, cmd.ExtraFiles = said, append([]*os.File{theirs}, files...)
	ended := make(chan error, 1)
	go func() {
		err := host.RunTied(cmd)
		theirs.Close()
		ended <- err
		close(ended)
	}()
	return process{monitor: monitor, ended: ended, said: said}, nil
}
