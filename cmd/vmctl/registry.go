package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
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
func (f *registryFlags) access(stdin io.Reader) (registry.Access, error) {
	password := ""
	if f.passwordStdin {
		line, err := bufio.NewReader(stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return registry.Access{}, fmt.Errorf("--password-stdin: %w", err)
		}
		password = strings.TrimRight(line, "\r\n")
	}
	return f.accessAs(f.username, password)
}

// accessAs is access with a credential, or with none.
func (f *registryFlags) accessAs(user, password string) (registry.Access, error) {
	if (user == "") != (password == "") {
		return registry.Access{}, fail.New(fail.Usage, "", "give --username and --password-stdin together, or neither", "half a credential is given")
	}
	return registry.Access{
		PlainHTTP: f.plainHTTP, CAFile: f.caFile, Username: user, Password: password,
		UserAgent: "vmctl/" + strings.ReplaceAll(version(), " ", "-"), Owner: files.Caller(),
	}, nil
}

// place opens the place that the reference names.
func (f *registryFlags) place(cmd *cobra.Command, arg string) (registry.Reference, registry.Place, error) {
	ref, err := registry.ParseReference(arg)
	if err != nil {
		return ref, nil, err
	}
	access, err := f.access(cmd.InOrStdin())
	if err != nil {
		return ref, nil, err
	}
	src, err := access.OpenPlace(cmd.Context(), ref)
	return ref, src, err
}

// selectionFlags is the flags that choose one disk of a release.
func selectionFlags(cmd *cobra.Command, s *publish.Selection) {
	cmd.Flags().StringVar(&s.Architecture, "arch", runtime.GOARCH, "architecture, as Go and OCI name it")
	cmd.Flags().StringVar(&s.Format, "format", "", "image format, such as raw (default: what the reference names)")
}

func verifierFlag(path string) (*artifact.Verifier, error) {
	if path == "" {
		return nil, nil
	}
	return publish.ReadVerifier(path)
}

// parseReferences reads all references and reports all mistakes at once.
func parseReferences(args []string) ([]registry.Reference, error) {
	var refs []registry.Reference
	var problems []error
	for _, arg := range args {
		ref, err := registry.ParseReference(arg)
		refs, problems = append(refs, ref), append(problems, err)
	}
	return refs, joined(problems)
}
