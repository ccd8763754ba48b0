package machine

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// SSHOptions is what ssh(1) and scp(1) need to reach the machine that runs by its name. As
// root it is the key that was made for it; for another user, "" for none, it is the keys
// of who calls. Nothing of the caller's configuration or known hosts is used or changed.
func (m Machine) SSHOptions(user string) ([]string, error) {
	run, err := m.running()
	if err != nil {
		return nil, err
	}
	if run.SSHPort() == 0 {
		return nil, fail.New(fail.Host, "", "run 'vmctl stop "+m.Name+"' and 'vmctl start "+m.Name+"'", "no port leads to ssh in %s", m.Name)
	}
	return m.sshOptions(run.SSHPort(), user), nil
}

func (m Machine) sshOptions(port int, user string) []string {
	known := "yes"
	if content, err := os.ReadFile(filepath.Join(m.dir, knownHostsName)); err != nil || len(content) == 0 {
		known = "accept-new"
	}
	options := []string{"-F", "none"}
	for _, o := range []string{
		"HostName=" + loopback, "Port=" + strconv.Itoa(port), "HostKeyAlias=" + m.Name, "CheckHostIP=no",
		"UserKnownHostsFile=" + sshPath(filepath.Join(m.dir, knownHostsName)), "GlobalKnownHostsFile=none",
		"StrictHostKeyChecking=" + known, "LogLevel=ERROR",
	} {
		options = append(options, "-o", o)
	}
	if user != "" {
		return append(options, "-o", "User="+user)
	}
	return append(options, "-o", "User=root", "-o", "IdentityFile="+sshPath(filepath.Join(m.dir, keyName)), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none")
}

// sshPath is a path as ssh_config(5) has it: in quotes, with no tokens.
func sshPath(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(path) + `"`
}

// Attach connects to the machine's serial console, at which there is place for one.
func (m Machine) Attach() (console *net.UnixConn, release func(), err error) {
	if _, err := m.running(); err != nil {
		return nil, nil, err
	}
	lock, err := acquire(filepath.Join(m.dir, attachedName))
	if errors.Is(err, errHeld) {
		return nil, nil, fail.New(fail.Usage, "", "detach there first", "somebody is at the console of %s already", m.Name)
	}
	if err != nil {
		return nil, nil, err
	}
	folder, err := os.Open(m.dir)
	if err == nil {
		defer folder.Close()
		console, err = vm.Dial(folder, terminalName)
	}
	if err != nil {
		lock.Close()
		return nil, nil, fail.Wrap(fail.Host, "console of "+m.Name, err)
	}
	return console, func() {
		_ = console.Close()
		lock.Close()
	}, nil
}
