package main

import (
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/orchestrator/machine"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// misused is the error for a command line that the verb cannot take.
func misused(cmd *cobra.Command, hint, format string, args ...any) error {
	if hint == "" {
		hint = "see '" + cmd.CommandPath() + " --help'"
	}
	return fail.New(fail.Usage, "", hint, format, args...)
}

// didYouMean is the hint for a word that is none of the names, "" where it
// resembles none.
func didYouMean(word, prefix string, names []string) string {
	if near := definition.Nearest(word, names); near != "" {
		return "did you mean " + prefix + near + "?"
	}
	return ""
}

// verbs is the names of the commands below cmd that people can call.
func verbs(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return misused(cmd, didYouMean(args[0], "", verbs(cmd.Root())), "unknown command %q", args[0])
}

// arguments checks the arguments against the verb's line of use, such as
// "push NAME|DIR [REF…]", and against its list of valid ones.
func arguments(cmd *cobra.Command, args []string) error {
	words := strings.Fields(cmd.Use)[1:]
	repeated := len(words) > 0 && strings.Contains(words[len(words)-1], "…")
	for i, word := range words {
		if i >= len(args) && !strings.HasPrefix(word, "[") {
			return misused(cmd, "", "%s is missing", strings.ReplaceAll(strings.TrimSuffix(word, "…"), "|", " or "))
		}
	}
	if len(args) > len(words) && !repeated {
		return misused(cmd, "", "%q is too many: use 'vmctl %s'", args[len(words)], cmd.Use)
	}
	for _, arg := range args {
		if len(cmd.ValidArgs) > 0 && !slices.Contains(cmd.ValidArgs, arg) {
			return misused(cmd, didYouMean(arg, "", cmd.ValidArgs), "%q is none of %s", arg, strings.Join(cmd.ValidArgs, ", "))
		}
	}
	return nil
}

// wrongFlag is the error for flags that cannot be read.
func wrongFlag(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); !cmd.HasParent() && len(args) > 0 {
		return unknownVerb(cmd, args) // the flags are those of the verb that is meant
	}
	hint := ""
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		hint = didYouMean(unknown.GetSpecifiedName(), "--", names)
	}
	return misused(cmd, hint, "%w", err)
}

// alias makes one name of the two that the flag for image formats has had.
func alias(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "output-format" {
		name = "format"
	}
	return pflag.NormalizedName(name)
}

// choices is the flags whose values are words of a list, in all verbs that have
// them.
var choices = map[string][]string{
	"accel":    {vm.AccelAuto, vm.AccelKVM, vm.AccelTCG},
	"arch":     arch.Known,
	"firmware": arch.Target.FirmwareNames(),
	"format":   format.Names(),
	"network":  {machine.NetworkOpen, machine.NetworkIsolated},
	"on":       {definition.OnBoot},
	"on-error": {onErrorCleanup, onErrorShell},
	"via":      {viaSSH, viaConsole},
}

// flagChecks is what the values of other flags must be, in all verbs that have
// them.
var flagChecks = map[string]func(value string) error{
	"ca-file":     file,
	"cache":       folder,
	"cache-limit": cacheLimit,
	"cpus":        atLeastOne,
	"jobs":        atLeastOne,
	"key":         file,
	"listen":      address,
	"logs":        folder,
	"memory":      guestMemory,
	"name":        machine.CheckName,
	"output":      folder,
	"port":        port,
	"refresh":     layerName,
	"share":       existingFolder,
	"sign-key":    file,
	"snapshot":    archiveAddress,
	"timeout":     positiveTime,
}

// checkFlags checks every flag that is given, before the verb does anything, and
// reports all mistakes together.
func checkFlags(cmd *cobra.Command, _ []string) error {
	var problems []error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		check := flagChecks[f.Name]
		if known := choices[f.Name]; known != nil {
			check = func(value string) error { return oneOf(value, known) }
		}
		if check == nil {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			if values = list.GetSlice(); len(values) == 0 {
				values = []string{""}
			}
		}
		for _, value := range values {
			problems = append(problems, fail.Wrap(fail.Usage, "--"+f.Name, check(value)))
		}
	})
	return joined(problems)
}

func oneOf(value string, known []string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fail.New(fail.Usage, "", didYouMean(value, "", known), "%q is none of %s", value, strings.Join(known, ", "))
}

func atLeastOne(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 1 {
		return fail.New(fail.Usage, "", "give 1 or more", "%s is too few", value)
	}
	return nil
}

func layerName(value string) error {
	if value == "" {
		return fail.New(fail.Usage, "", "name a build that is extended, or the one that is built", "no layer is named")
	}
	return nil
}

func guestMemory(value string) error {
	_, err := machine.ParseMemory(value)
	return err
}

func port(value string) error {
	_, err := machine.ParsePort(value)
	return err
}

func positiveTime(value string) error {
	if d, err := time.ParseDuration(value); err != nil || d <= 0 {
		return fail.New(fail.Usage, "", "write a time with a unit, such as 90s or 5m", "%s is no time to wait", value)
	}
	return nil
}

func address(value string) error {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fail.New(fail.Usage, "", "write ADDRESS:PORT or :PORT", "%w", err)
	}
	return nil
}

// file takes what can be read once, such as a pipe from another process, too.
func file(value string) error {
	info, err := os.Stat(value)
	switch {
	case value == "":
		return fail.New(fail.Usage, "", "name a file", "no file is named")
	case err != nil:
		return fail.New(fail.Usage, "", "", "%w", err)
	case info.IsDir():
		return fail.New(fail.Usage, "", "name a file", "%s is a folder", value)
	}
	return nil
}

// folder takes what is a folder or does not exist yet.
func folder(value string) error {
	if info, err := os.Stat(value); value == "" || err == nil && !info.IsDir() {
		return fail.New(fail.Usage, "", "name a folder", "%q is none", value)
	}
	return nil
}

func existingFolder(value string) error {
	if info, err := os.Stat(value); err != nil || !info.IsDir() {
		return fail.New(fail.Usage, "", "name a folder", "%q is none", value)
	}
	return nil
}
