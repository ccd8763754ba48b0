package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/machine"
)

const userHelp = "user in the machine, with your own keys (default: root, with the key that was made for the machine)"

func newSSH() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "ssh NAME [-- CMD…]",
		Short: "Open a shell in a test machine, or run a command",
		Long: `Open a shell in a test machine, or run a command there, by ssh(1). Your configuration
of ssh and your known hosts are neither used nor changed. vmctl ends with the exit
code of the command.`,
		Example: `  vmctl ssh debian
  vmctl ssh debian -- systemctl --failed
  vmctl ssh web --user alice`,
		Args: checkShellArguments,
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := openMachine(args[0])
			if err != nil {
				return err
			}
			return becomeSSH("ssh", m, user, append([]string{args[0], "--"}, args[1:]...))
		},
	}
	cmd.Flags().StringVar(&user, "user", "", userHelp)
	return cmd
}

// becomeSSH turns this process into ssh or scp, which then has the terminal, the signals
// and the exit code to itself.
func becomeSSH(tool string, m machine.Machine, user string, args []string) error {
	path := host.Find(tool)
	if path == "" {
		return fail.New(fail.Host, "", "install Debian's package openssh-client", "%s is not installed", tool)
	}
	options, err := m.SSHOptions(user)
	if err != nil {
		return err
	}
	return fail.Wrap(fail.Host, path, unix.Exec(path, append(append([]string{tool}, options...), args...), os.Environ()))
}

func newCp() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "cp SOURCE TARGET",
		Short: "Copy files and folders from and to a test machine",
		Long: `Copy a file or folder to a test machine, or from it, by scp(1). NAME:PATH is a path in
the machine NAME.`,
		Example: `  vmctl cp site debian:/var/www
  vmctl cp debian:/etc/fstab .`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := copiedWith(cmd, args)
			if err != nil {
				return err
			}
			m, err := openMachine(name)
			if err != nil {
				return err
			}
			return becomeSSH("scp", m, user, append([]string{"-r", "-p", "-q", "--"}, localOnes(args, name)...))
		},
	}
	cmd.Flags().StringVar(&user, "user", "", userHelp)
	return cmd
}

// machineOf is the machine of a path in one, "" for a path here.
func machineOf(path string) string {
	name, _, found := strings.Cut(path, ":")
	if !found || machine.CheckName(name) != nil {
		return ""
	}
	return name
}

// copiedWith is the one machine that the arguments name.
func copiedWith(cmd *cobra.Command, args []string) (string, error) {
	from, to := machineOf(args[0]), machineOf(args[1])
	if (from == "") == (to == "") {
		return "", misused(cmd, "write one of them as NAME:PATH, and a file here whose name has a colon as ./FILE", "one of %s and %s must be in a machine", args[0], args[1])
	}
	return from + to, nil
}

// localOnes is the arguments such that scp takes no path here for one elsewhere.
func localOnes(args []string, name string) []string {
	safe := make([]string, len(args))
	for i, arg := range args {
		if safe[i] = arg; machineOf(arg) != name && !strings.HasPrefix(arg, "/") {
			safe[i] = "./" + arg
		}
	}
	return safe
}
