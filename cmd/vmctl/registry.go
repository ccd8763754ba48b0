package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish"
)

// registryFlags is the flags of every verb that talks to registries.
type registryFlags struct {
	plainHTTP     bool
	caFile        string
	username      string
	passwordStdin bool
}

const registryHelp = `
A REF is HOST/REPOSITORY[:TAG], oci:DIR[:TAG] for an OCI image layout in a folder,
or oci-archive:FILE[:TAG]. Credentials are those of docker login, podman login and
vmctl login, credential helpers included, and in GitLab jobs those of the project.

`

func (f *registryFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "speak no TLS with the registry; on this machine itself that is found out")
	flags.StringVar(&f.caFile, "ca-file", "", "file of PEM certificates to trust beside the system's")
	flags.StringVarP(&f.username, "username", "u", "", "user to log in as; goes with --password-stdin")
	flags.BoolVar(&f.passwordStdin, "password-stdin", false, "read the password from standard input")
}

// access is how the flags say that registries are reached.
func (f *registryFlags) access(stdin io.Reader) (publish.Access, error) {
	a := publish.Access{
		PlainHTTP: f.plainHTTP, CAFile: f.caFile, Username: f.username, UserAgent: "vmctl/" + strings.ReplaceAll(version(), " ", "-"),
		Owner: files.Caller(),
	}
	if f.passwordStdin {
		line, err := bufio.NewReader(stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return a, fmt.Errorf("--password-stdin: %w", err)
		}
		a.Password = strings.TrimRight(line, "\r\n")
	}
	if (f.username == "") != (a.Password == "") {
		return a, fail.New(fail.Usage, "", "give --username and --password-stdin together, or neither", "half a credential is given")
	}
	return a, nil
}

// source opens the place that the reference names.
func (f *registryFlags) source(cmd *cobra.Command, arg string) (publish.Reference, publish.Source, error) {
	ref, err := publish.ParseReference(arg)
	if err != nil {
		return ref, nil, err
	}
	access, err := f.access(cmd.InOrStdin())
	if err != nil {
		return ref, nil, err
	}
	src, err := access.OpenSource(cmd.Context(), ref)
	return ref, src, err
}

// askPassword reads a password from the terminal without showing it.
func askPassword(stderr io.Writer, host string) (string, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", fail.New(fail.Usage, "", "give --password-stdin and the password on standard input", "there is no terminal to ask for a password")
	}
	fmt.Fprintf(stderr, "Password for %s: ", host)
	password, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(stderr)
	return string(password), err
}

// selectionFlags is the flags that choose one disk of a release.
func selectionFlags(cmd *cobra.Command, s *publish.Selection) {
	cmd.Flags().StringVar(&s.Architecture, "arch", runtime.GOARCH, "architecture, as Go and OCI name it")
	cmd.Flags().StringVar(&s.Format, "format", "", "image format, such as raw (default: what the reference names)")
}

func verifierFlag(path string) (*publish.Verifier, error) {
	if path == "" {
		return nil, nil
	}
	return publish.ReadVerifier(path)
}

// parseReferences reads all references and reports all mistakes at once.
func parseReferences(args []string) ([]publish.Reference, error) {
	var refs []publish.Reference
	var problems []error
	for _, arg := range args {
		ref, err := publish.ParseReference(arg)
		refs, problems = append(refs, ref), append(problems, err)
	}
	return refs, joined(problems)
}
